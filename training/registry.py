"""The registry of a pipeline: every model that it made, what it was made from, and which one is current.

    current.json            all moves of the pointer; the last one says which version is current
    versions/0000/          the model that the pipeline began with
    versions/0003/          what one run left:
        run.json              what it depends on
        ingested/ redacted/ filtered/ mix/ model/ gate/
        version.json          what came of it, written last: a version without it is unfinished
        report.md             the same for people
    key                     of the pseudonyms; whoever has it can try names out

The pointer is one file that is replaced, so it is never half moved. One run at a time writes versions; the pointer can
be moved back meanwhile.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from toolenv.agents.intervals import Metric
from toolenv.agents.records import sole_writer, whole_file, whole_folder
from toolenv.tools.calls import Json
from toolenv.tools.errors import OperatorError, RecordError

POINTER, VERSIONS, VERSION_FILE, REPORT_FILE, MODEL, KEY = (
    *("current.json", "versions", "version.json", "report.md"),
    *("model", "key"),
)
FIRST: Final = "0000"
_STRICT = ConfigDict(extra="forbid", strict=True)

MARKS: Final = {
    "ingest": "ingested",
    "redact": "redacted",
    "filter": "filtered",
    "mix": "mix",
    "retrain": "model/training.json",
    "gate": "gate/verdict.json",
}
"""Stage -> what is in a version's folder when it is done."""

LAST_STAGE: Final = "promote"

Verdict = Literal["first", "promoted", "rejected"]


class RegistryError(OperatorError):
    """A registry has no such version, or it can not be moved there."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version that is concluded.

    Attributes:
        parent: the version that it was trained from, and compared with.
        reasons: why it was promoted or rejected, one sentence each.
        data: stage -> hash of what it left.
        counts: stage -> what it counted.
        success: "candidate" and "current" on the gate's tasks; empty for the first.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    schema_version: Literal[1]
    name: str
    parent: str | None
    verdict: Verdict
    reasons: tuple[str, ...]
    settings: dict[str, Json] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    success: dict[str, Metric] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_INDENT_2) + b"\n"


@dataclass(frozen=True, slots=True)
class Move:
    """One move of the pointer."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    version: str
    by: Literal["start", "promotion", "rollback"]
    reason: str


class Registry:
    """The registry in a folder; whether it has begun yet is `begun`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def begun(self) -> bool:
        return (self.folder / POINTER).is_file()

    @property
    def current(self) -> str:
        """The version that is current.

        Raises:
            RegistryError: the registry has not begun.
        """
        return self.moves()[-1].version

    def moves(self) -> list[Move]:
        """All moves of the pointer, the last one last.

        Raises:
            RegistryError: the registry has not begun.
            RecordError: the pointer is damaged.
        """
        path = self.folder / POINTER
        if not path.is_file():
            raise RegistryError(f"{self.folder}: no registry: {POINTER} is missing")
        moves: list[Move] = read_record(path, list[Move])
        if not moves:
            raise RecordError(f"{path}: record: no move")
        return moves

    def folder_of(self, version: str) -> Path:
        return self.folder / VERSIONS / version

    def model(self, version: str) -> Path:
        """The folder of a version's model."""
        return self.folder_of(version) / MODEL

    def versions(self) -> list[Version]:
        """The concluded ones, the oldest first. Raises RecordError."""
        return [self.version(name) for name in self._names() if self._concluded(name)]

    def version(self, name: str) -> Version:
        """A concluded version.

        Raises:
            RegistryError: there is none of this name.
        """
        if not self._concluded(name):
            there = ", ".join(filter(self._concluded, self._names())) or "none"
            raise RegistryError(f"{self.folder}: there is no version {name!r}; there is: {there}")
        version: Version = read_record(self.folder_of(name) / VERSION_FILE, Version)
        return version

    def unfinished(self) -> str | None:
        """The version that a run was killed at: not concluded, or to be promoted and not in `moves`."""
        for name in self._names():
            if not self._concluded(name):
                return name
            if self.version(name).verdict == "promoted" and all(move.version != name for move in self.moves()):
                return name
        return None

    def next_stage(self, version: str) -> str:
        """The stage at which an unfinished version goes on."""
        folder = self.folder_of(version)
        return next((stage for stage, mark in MARKS.items() if not (folder / mark).exists()), LAST_STAGE)

    def key(self) -> bytes:
        """The registry's own key, made when it is first asked for."""
        path = self.folder / KEY
        if not path.is_file():
            with whole_file(path) as stream:
                Path(stream.name).chmod(0o600)
                stream.write(secrets.token_hex(32).encode())
        return path.read_bytes()

    # -- writing ---------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the registry for a run.

        Raises:
            DatasetBusy: another run holds it.
        """
        versions = self.folder / VERSIONS
        versions.mkdir(parents=True, exist_ok=True)
        with sole_writer(versions):
            yield

    def begin(self, model: Path) -> None:
        """Take the model in a folder as the first version, if there is none yet."""
        if self.begun:
            return
        first = self.folder_of(FIRST)
        if not first.is_dir():
            with whole_folder(first) as partial:
                shutil.copytree(model, partial / MODEL)
                reasons = (f"the model that the pipeline began with: {model}",)
                (partial / VERSION_FILE).write_bytes(Version(1, FIRST, None, "first", reasons).to_json())
        self._point([Move(FIRST, "start", "the pipeline began")])

    def new_version(self) -> str:
        """The name of the next version; its folder is there."""
        name = f"{int(self._names()[-1]) + 1:04}"
        self.folder_of(name).mkdir()
        return name

    def give_up(self, version: str) -> None:
        """Remove an unfinished version."""
        shutil.rmtree(self.folder_of(version))

    def conclude(self, version: Version, report: str) -> None:
        """Write down what came of a version, once."""
        folder = self.folder_of(version.name)
        with whole_file(folder / REPORT_FILE) as stream:
            stream.write(report.encode())
        with whole_file(folder / VERSION_FILE) as stream:
            stream.write(version.to_json())

    def promote(self, version: Version) -> bool:
        """Make a version current, if its parent still is: it was compared with that one only."""
        with sole_writer(self.folder):
            moves = self.moves()
            if moves[-1].version != version.parent:
                return False
            self._point([*moves, Move(version.name, "promotion", "; ".join(version.reasons))])
            return True

    def roll_back(self, to: str | None = None, reason: str = "") -> Move:
        """Make an earlier version current again: the current one's parent if none is named.

        Raises:
            RegistryError: there is none, it was rejected, or it is current.
        """
        with sole_writer(self.folder):
            moves = self.moves()
            current = self.version(moves[-1].version)
            target = to or current.parent
            if target is None:
                raise RegistryError(f"{self.folder}: {current.name} is the first version: there is none before it")
            if self.version(target).verdict == "rejected":
                raise RegistryError(f"{self.folder}: version {target} was rejected, so it can not become current")
            if target == current.name:
                raise RegistryError(f"{self.folder}: version {target} is current")
            move = Move(target, "rollback", reason or f"back from {current.name}")
            self._point([*moves, move])
            return move

    def _point(self, moves: list[Move]) -> None:
        with whole_file(self.folder / POINTER) as stream:
            stream.write(orjson.dumps(moves, option=orjson.OPT_INDENT_2) + b"\n")

    def _names(self) -> list[str]:
        folder = self.folder / VERSIONS
        return sorted(each.name for each in folder.glob("[0-9]*") if each.is_dir()) if folder.is_dir() else []

    def _concluded(self, name: str) -> bool:
        return (self.folder_of(name) / VERSION_FILE).is_file()


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_record(path: Path, kind: Any) -> Any:
    """A JSON file as a dataclass, or a list of them.

    Raises:
        RecordError: damaged, incomplete or of another version; names file, field and rule.
    """
    try:
        return _adapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "record"
        raise RecordError(f"{path}: {name}: {first['msg']}") from None
