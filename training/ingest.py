"""Reading logs into the folder of a run: what can not be read is named and kept apart, and the rest goes on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from toolenv.agents.formats import LogFormat
from toolenv.agents.imports import import_logs
from toolenv.agents.records import SHARD, whole_folder
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.errors import RecordError
from toolenv.training.pipeline_settings import OURS, LogSource, PipelineError

INGEST_FILE, UNREADABLE = "ingest.json", "unreadable"
_SUFFIXES: Final = (".jsonl", ".jsonl.gz", ".json")


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file of logs, by what it holds: a file that has grown is another one."""

    path: Path
    form: str
    sha256: str


@dataclass(slots=True)
class Ingested:
    """What became of the logs.

    Attributes:
        files: what was read -> its hash.
        problems: what could not be read: `file:line: field: rule`.
        notes: what was read otherwise than it stands -> how often.
    """

    episodes: int = 0
    files: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


def log_files(sources: Iterable[LogSource]) -> list[LogFile]:
    """The files of all sources, in order.

    Raises:
        PipelineError: a source is not there.
    """
    found = []
    for source in sources:
        if not source.path.exists():
            raise PipelineError(f"{source.path}: logs: no such file or folder")
        paths = [source.path]
        if source.path.is_dir():
            paths = sorted(path for path in source.path.rglob("*") if _is_log(path, source))
        for path in paths:
            with path.open("rb") as stream:
                found.append(LogFile(path, source.form, hashlib.file_digest(stream, "sha256").hexdigest()))
    return found


def _is_log(path: Path, source: LogSource) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(source.path).parts)
    if hidden or not path.is_file() or not path.name.endswith(_SUFFIXES):
        return False
    return source.form != OURS or path.name.startswith("part-")


def ingest(files: Iterable[LogFile], out: Path) -> Ingested:
    """Write a folder with the episodes of each file, and `ingest.json`; `out` appears when all is written.

    A file of which something could not be read is copied to `unreadable/`, as it is, for whoever mends it.
    """
    report = Ingested()
    notes: dict[str, int] = {}
    with whole_folder(out) as partial:
        for number, file in enumerate(files):
            problems = _read(file, partial / f"{number:05}", report, notes)
            report.files[str(file.path)] = file.sha256
            if problems:
                report.problems += problems
                (partial / UNREADABLE).mkdir(exist_ok=True)
                kept = partial / UNREADABLE / f"{number:05}-{file.path.name}"
                shutil.copyfile(file.path, kept)
                kept.chmod(0o600)
        report.notes = dict(sorted(notes.items()))
        (partial / INGEST_FILE).write_bytes(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2) + b"\n")
    return report


def read_ingested(folder: Path) -> Ingested:
    """The report in a folder that `ingest` wrote."""
    fields: dict[str, Any] = orjson.loads((folder / INGEST_FILE).read_bytes())
    return Ingested(**fields)


def _read(file: LogFile, out: Path, report: Ingested, notes: dict[str, int]) -> list[str]:
    """Write a file's episodes to `out`; what could not be read of it."""
    if file.form == OURS:
        return _copy(file.path, out, report)
    try:
        imported = import_logs(file.path, LogFormat(file.form), out)
    except RecordError as error:
        return [str(error)]
    report.episodes += imported.imported
    for note, times in imported.notes.items():
        notes[note] = notes.get(note, 0) + times
    return imported.skipped


def _copy(path: Path, out: Path, report: Ingested) -> list[str]:
    """Copy the records of a shard that can be read."""
    out.mkdir()
    problems: list[str] = []
    with (out / SHARD.format(0)).open("wb") as stream:
        for record in _records(path, problems.append):
            stream.write(record.to_json() + b"\n")
            report.episodes += 1
    return problems


def _records(path: Path, problem: Callable[[str], None]) -> Iterator[Trajectory]:
    import gzip
    import zlib

    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    yield Trajectory.from_json(line.rstrip(b"\n"), f"{path}:{number}")
                except RecordError as error:
                    problem(str(error))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem(f"{path}:{number + 1}: record: truncated or damaged: {error}")
