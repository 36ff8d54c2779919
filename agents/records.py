"""Trajectories on disk: JSONL (also gzipped), parquet, and folders of shards. All readers stream.

What is written comes back byte for byte: a parquet file keeps every record's exact JSON line in the column `record`,
beside scalar columns to filter by. Files appear under their name only when they are whole. What is damaged is not
skipped: a RecordError names file, line (or row), field and rule.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from toolenv.agents.trajectory import SCHEMA_VERSION, Trajectory
from toolenv.tools.errors import OperatorError, RecordError

MANIFEST = "manifest.json"
SHARD = "part-{:05d}.jsonl"
_ROWS_AT_ONCE = 500
_VERSION_KEY = b"toolenv.schema_version"


class DatasetBusy(OperatorError):
    """Another process is writing to the folder."""


_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("family", pa.string()),
        ("difficulty", pa.int64()),
        ("split", pa.string()),
        ("seed", pa.int64()),
        ("policy", pa.string()),
        ("success", pa.bool_()),
        ("reward", pa.float64()),
        ("steps", pa.int64()),
        ("tool_sequence", pa.list_(pa.string())),
        ("faults", pa.list_(pa.string())),
        ("instruction", pa.string()),
        ("messages", pa.string()),
        ("record", pa.string()),
    ],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


def read_trajectories(path: str | Path) -> Iterator[Trajectory]:
    """The trajectories of a dataset's folder, a `.jsonl`, a `.jsonl.gz` or a `.parquet`, in order.

    Memory is that of one trajectory (of a parquet file, of 500).

    Raises:
        RecordError: missing, empty, truncated, damaged or of another version.
    """
    path = Path(path)
    if path.is_dir():
        return (trajectory for shard in shards_of(path) for trajectory in _read_lines(shard))
    if not path.is_file():
        raise RecordError(f"{path}: no such file")
    return _read_parquet(path) if path.suffix == ".parquet" else _read_lines(path)


def shards_of(folder: Path) -> list[Path]:
    """The shards of a dataset's folder, in order.

    Raises:
        RecordError: there are none, or fewer than its manifest says.
    """
    shards = sorted(folder.glob("part-*.jsonl"))
    manifest = folder / MANIFEST
    if manifest.is_file():
        try:
            count = orjson.loads(manifest.read_bytes())["shards"]
            expected = [folder / SHARD.format(index) for index in range(count)]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise RecordError(f"{manifest}: shards: not the manifest of a dataset") from None
        if missing := [shard for shard in expected if not shard.is_file()]:
            raise RecordError(f"{missing[0]}: no such file; {len(missing)} of {count} shards are missing")
        return expected
    if not shards:
        raise RecordError(f"{folder}: no dataset: neither {MANIFEST} nor {SHARD.format(0)}")
    return shards


def write_jsonl(trajectories: Iterable[Trajectory], path: str | Path) -> int:
    """Write one record a line (gzipped if the name ends in `.gz`); the number written."""
    path, count = Path(path), 0
    with whole_file(path) as stream:
        zipped = path.suffix == ".gz"
        out = gzip.GzipFile("", "wb", fileobj=stream, mtime=0) if zipped else stream
        for trajectory in trajectories:
            out.write(trajectory.to_json() + b"\n")
            count += 1
        if zipped:
            out.close()
    return count


def write_parquet(trajectories: Iterable[Trajectory], path: str | Path) -> int:
    """Write a parquet file; the number of records written."""
    count, waiting = 0, iter(trajectories)
    with whole_file(Path(path)) as stream, pq.ParquetWriter(stream, _SCHEMA, compression="zstd") as writer:
        while batch := list(islice(waiting, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist([_row(trajectory) for trajectory in batch], _SCHEMA))
            count += len(batch)
    return count


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears as `path` when the block ends, on disk and complete; on an error it does not.

    The temporary name is this process's own: two that write the same file do not mix.
    """
    partial = partial_name(path)
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that appears as `path`, which must be missing or empty, when the block ends; on an error it does not.

    What an earlier process left half done is cleared away.

    Raises:
        DatasetBusy: another process is making this folder.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    with sole_writer(partial):
        try:
            for left_over in partial.iterdir():
                shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
            yield partial
            for file in (partial, *partial.rglob("*")):
                sync(file)
            partial.replace(path)
            sync(path.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel gives it back when this process ends, however it ends.

    Raises:
        DatasetBusy: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat())
        except BlockingIOError:
            held = False
        if not held:  # or whoever held it until now has given the folder another name
            raise DatasetBusy(f"{folder}: another process is writing to this folder")
        yield
    finally:
        os.close(descriptor)


def require_writable(path: Path) -> None:
    """Make sure that a file can be written as `path`, before the work of which it is to keep the result.

    Raises:
        OSError: it can not: it is a folder, or a folder above it is a file or may not be written to.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    above = path.absolute().parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(above))


def partial_name(path: Path) -> Path:
    """The name of a file of this process until it is whole."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_lines(path: Path) -> Iterator[Trajectory]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                yield _of_line(line, f"{path}:{number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RecordError(f"{path}:{number + 1}: record: truncated or damaged: {error}") from None
    if number == 0:
        raise RecordError(f"{path}: the file is empty")


def _of_line(line: bytes, where: str) -> Trajectory:
    if line.endswith(b"\n"):
        return Trajectory.from_json(line[:-1], where)
    try:
        return Trajectory.from_json(line, where)
    except RecordError as error:
        raise RecordError(f"{error} (the last line is truncated)") from None


def _row(trajectory: Trajectory) -> dict[str, Any]:
    return {
        "id": trajectory.id,
        "task": trajectory.task,
        "family": trajectory.family,
        "difficulty": trajectory.difficulty,
        "split": trajectory.split,
        "seed": trajectory.seed,
        "policy": trajectory.policy,
        "success": trajectory.success,
        "reward": trajectory.reward,
        "steps": len(trajectory.steps),
        "tool_sequence": list(trajectory.tool_sequence),
        "faults": list(trajectory.faults),
        "instruction": trajectory.instruction,
        "messages": orjson.dumps(trajectory.messages).decode(),
        "record": trajectory.to_json().decode(),
    }


def _read_parquet(path: Path) -> Iterator[Trajectory]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _require_ours(file, path)
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["record"]):
                for line in batch.column(0).to_pylist():
                    number += 1
                    if line is None:
                        raise RecordError(f"{path}: row {number}: record: missing")
                    yield Trajectory.from_json(line, f"{path}: row {number}")
    except (pa.ArrowException, OSError) as error:
        raise RecordError(f"{path}: row {number + 1}: not parquet, or damaged: {error}") from None
    if number == 0:
        raise RecordError(f"{path}: the file has no rows")


def _require_ours(file: pq.ParquetFile, path: Path) -> None:
    version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY)
    if version is None or "record" not in file.schema_arrow.names:
        raise RecordError(f"{path}: {_VERSION_KEY.decode()}: missing; this parquet file was not written by toolenv")
    if version != str(SCHEMA_VERSION).encode():
        found = version.decode(errors="replace")
        raise RecordError(
            f"{path}: {_VERSION_KEY.decode()}: this is version {found}; version {SCHEMA_VERSION} is read here"
        )
