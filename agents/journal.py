"""The journal of a shard that is being made: each episode is on disk as soon as it ends.

It is handed to the operating system at once, so it outlives this process; a few seconds at most are lost to a power
cut. A last line that was torn when the process was killed is dropped. When all episodes are there, the shard is written
from the journal in its own order, which is that of the attempts, whatever the order in which they ended.

Beside it lie the records of episodes that were under way when their policy was stopped (`PolicyStopped`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO

from toolenv.agents.records import whole_file
from toolenv.agents.rollout import Attempt
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.errors import RecordError

_SYNC_EVERY_S = 5.0
_Key = tuple[int, int]


class Journal:
    """The journal of one shard. Within a `with` block it takes more.

    Args:
        shard: the file that will be made from it.
        attempts: all episodes of the shard, in its order.
    """

    def __init__(self, shard: Path, attempts: Iterable[Attempt]) -> None:
        self._path = shard.with_name(f".{shard.stem}.journal")
        self._unfinished = shard.with_name(f".{shard.stem}.unfinished")
        self._attempts = {(attempt.seed, attempt.trial): attempt for attempt in attempts}
        self._places: dict[_Key, tuple[int, int]] = {}
        self._end = 0
        self._file: IO[bytes] | None = None
        self._synced = time.monotonic()

    def finished(self) -> Iterator[Trajectory]:
        """The episodes that are there, in the order in which they ended.

        Raises:
            RecordError: one is damaged, or does not belong into the shard.
        """
        self._places, self._end = {}, 0
        for number, line in enumerate(_whole_lines(self._path), 1):
            where = f"{self._path}:{number}"
            trajectory = Trajectory.from_json(line[:-1], where)
            key = trajectory.seed, trajectory.trial
            if key not in self._attempts or key in self._places:
                raise RecordError(f"{where}: seed: {trajectory.id} does not belong here")
            self._places[key] = self._end, len(line)
            self._end += len(line)
            yield trajectory

    def unfinished(self) -> list[Trajectory]:
        """The records of episodes that were cut short. Raises RecordError."""
        lines = enumerate(_whole_lines(self._unfinished), 1)
        records = [Trajectory.from_json(line[:-1], f"{self._unfinished}:{number}") for number, line in lines]
        return [record for record in records if (record.seed, record.trial) not in self._places]

    def missing(self) -> list[Attempt]:
        """What is still to be run; an episode that was cut short goes on from its record."""
        begun = {(record.seed, record.trial): record for record in self.unfinished()}
        return [
            replace(attempt, begun=begun.get(key)) for key, attempt in self._attempts.items() if key not in self._places
        ]

    # -- writing ---------------------------------------------------------------------------------------

    def __enter__(self) -> Journal:
        # Read first, if it has not been: appending to a torn line would spoil two episodes.
        for _ in self.finished():
            pass
        self._file = self._path.open("ab", buffering=0)
        self._file.truncate(self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._file.close()

    def append(self, trajectory: Trajectory) -> None:
        """Take an episode that has ended."""
        assert self._file is not None
        line = trajectory.to_json() + b"\n"
        written = self._file.write(line)
        if written != len(line):  # the disk is nearly full: the next write tells
            self._file.write(line[written:])
        self._places[trajectory.seed, trajectory.trial] = self._end, len(line)
        self._end += len(line)
        if (now := time.monotonic()) - self._synced > _SYNC_EVERY_S:
            os.fsync(self._file.fileno())
            self._synced = now

    def keep_unfinished(self, records: Sequence[Trajectory]) -> None:
        """Keep episodes that were cut short, besides those that were kept and not begun again."""
        kept = {(record.seed, record.trial): record for record in (*self.unfinished(), *records)}
        if kept:
            with whole_file(self._unfinished) as stream:
                stream.writelines(record.to_json() + b"\n" for record in kept.values())

    def write_to(self, stream: IO[bytes]) -> None:
        """Write the whole shard, in its order."""
        with self._path.open("rb") as journal:
            for key in self._attempts:
                start, length = self._places[key]
                journal.seek(start)
                stream.write(journal.read(length))

    def remove(self) -> None:
        """The shard is there: its journal has done its work."""
        self._path.unlink(missing_ok=True)
        self._unfinished.unlink(missing_ok=True)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file that end as they should; none if there is no file."""
    if path.is_file():
        with path.open("rb") as stream:
            for line in stream:
                if line.endswith(b"\n"):
                    yield line
