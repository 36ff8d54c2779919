"""One folder, one run: what a run depends on is written down in its folder, and another run is refused there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from toolenv.agents.records import whole_file
from toolenv.tools.calls import Json
from toolenv.tools.errors import OperatorError

CLAIM = "run.json"


class FolderTaken(OperatorError):
    """The folder holds a run of other settings."""


def claim(folder: Path, **depends_on: Json) -> None:
    """Take a folder for a run, or see that it is this very run's, which then goes on.

    Raises:
        FolderTaken: names what differs.
    """
    path = folder / CLAIM
    mine = json.loads(json.dumps(depends_on))
    if path.is_file():
        theirs = json.loads(path.read_text())
        if differing := sorted(_differing(mine, theirs)):
            raise FolderTaken(f"{path}: a run with other settings: {', '.join(differing)}; take another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as stream:
        stream.write(json.dumps(mine, indent=2).encode() + b"\n")


def require_one_process(what: str) -> None:
    """Raises ValueError under `accelerate launch` with several processes, for what can not share its work."""
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ValueError(f"{what} runs on one process, not on {processes}; its fine-tuning alone can be shared")


def _differing(mine: Json, theirs: Json, where: str = "") -> set[str]:
    """Dotted names of what differs."""
    if not (isinstance(mine, dict) and isinstance(theirs, dict)):
        return {where} if mine != theirs else set()
    names = mine.keys() | theirs.keys()
    return {
        found
        for name in names
        for found in _differing(mine.get(name), theirs.get(name), f"{where}.{name}" if where else name)
    }
