"""Checkpoints of a fine-tuning: an interrupted run goes on from its last one, and to the same end.

They lie in a folder beside the student, with what the run depends on, and are gone when it is done.
"""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from toolenv.tools.calls import Json
from toolenv.training.claim import claim
from toolenv.training.examples import Example

CHECKPOINTS = "checkpoints"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        out: the student's folder.
        batches: all that is trained on, in its order.
        depends_on: what else decides the run.

    Raises:
        FolderTaken: an interrupted run of other settings or data left its checkpoints there.
    """

    def __init__(self, out: Path, batches: Sequence[Sequence[Example]], **depends_on: Json) -> None:
        self.folder = out / CHECKPOINTS
        claim(self.folder, data=_digest(batches), **depends_on)

    def last(self) -> tuple[str | None, int]:
        """The newest checkpoint that is whole, and its step; None and 0 if there is none.

        One that was being written when the run was killed is removed.
        """
        from transformers.trainer_utils import get_last_checkpoint

        while (found := get_last_checkpoint(str(self.folder))) is not None:
            if _is_whole(Path(found)):
                return found, int(found.rpartition("-")[2])
            shutil.rmtree(found)
        return None, 0

    def clear(self) -> None:
        shutil.rmtree(self.folder)


def _is_whole(checkpoint: Path) -> bool:
    """The trainer writes its state last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


def _digest(batches: Sequence[Sequence[Example]]) -> str:
    digest = sha256()
    for batch in batches:
        for example in batch:
            digest.update(array("q", [len(batch), *example.input_ids]).tobytes())
    return digest.hexdigest()[:16]
