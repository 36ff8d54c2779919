"""The recorder's log: JSON lines at the end of a file, from any number of threads and processes.

A line is handed to the operating system in one piece and opened anew each time, so that it outlives the process, a
log may be moved away or deleted at any time, and a fork has nothing to inherit. What a full disk or a killed process
cut off stays a line of its own: whoever writes next begins a new one. A power cut may cost the last seconds, and
network file systems do not keep the lines of several machines apart.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from toolenv.tools.calls import Json

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_STRUCTURE = frozenset({"role", "type", "id", "tool_call_id", "name", "model", "task_type", "started", "episode"})
"""Fields whose texts tie a log together: a redaction leaves them alone, except in arguments and results."""
_DATA = "result"
_FREE = frozenset({"arguments", "metadata", _DATA})
"""Fields that hold values of somebody else's making, keys and all."""


def append_line(path: Path, row: Json) -> None:
    """Write one line.

    Raises:
        OSError: it could not be written, or not all of it.
    """
    line = orjson.dumps(row, default=repr, option=_OPTIONS) + b"\n"
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def plain(value: Any) -> Json:
    """A copy as JSON: what JSON does not know becomes its `repr`, what a text can not hold its escape."""
    try:
        return orjson.loads(orjson.dumps(value, default=_model_or_repr, option=_OPTIONS))
    except (TypeError, ValueError):  # a lone surrogate, an integer beyond 64 bits, deep nesting
        return _slowly(value, 100)


def _model_or_repr(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json", exclude_none=True)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return repr(value)


def _slowly(value: Any, levels: int) -> Json:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if levels and isinstance(value, dict):
        return {str(_slowly(key, levels - 1)): _slowly(item, levels - 1) for key, item in value.items()}
    if levels and isinstance(value, list | tuple):
        return [_slowly(item, levels - 1) for item in value]
    shown = _model_or_repr(value) if levels else repr(value)
    return _slowly(shown if levels else shown[:1_000], max(0, levels - 1))


def redacted(row: Json, hook: Callable[[str], str], field: str = "") -> Json:
    """The row with `hook` applied to what people, tools and models said; its structure stays.

    Arguments in JSON text are read, so that the hook sees their values and not their quoting. Numbers are no text.
    """
    if isinstance(row, str):
        if field in _STRUCTURE:
            return row
        return _redacted_json(row, hook) if field == "arguments" else hook(row)
    if isinstance(row, list):
        return [redacted(item, hook, _DATA if field in _FREE else field) for item in row]
    if not isinstance(row, dict):
        return row
    if field in _FREE:
        return {hook(key): redacted(item, hook, _DATA) for key, item in row.items()}
    return {key: item if key == "tools" else redacted(item, hook, _under(key, row)) for key, item in row.items()}


def _under(key: str, row: dict[str, Json]) -> str:
    """A field's name; that of a speaker is no structure, but somebody's name."""
    return "speaker" if key == "name" and row.get("role") == "user" else key


def _redacted_json(text: str, hook: Callable[[str], str]) -> str:
    try:
        read = orjson.loads(text)
    except orjson.JSONDecodeError:
        return hook(text)
    changed = redacted(read, hook, _DATA)
    return text if changed == read else orjson.dumps(changed).decode()
