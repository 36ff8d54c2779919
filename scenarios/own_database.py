"""A database of the user's own as a world: a SQLite file, or a script of SQL.

The file is only read, and copied into memory. Refused are files beyond MAX_BYTES, tables whose changes could not be
seen (no primary key, or a key that is empty in some row), what a world can not keep (virtual tables, generated
columns, text that is no UTF-8), and what the tools' limits would hide (more than MAX_COLUMNS, rows beyond
MAX_ROW_BYTES). A script runs confined: it may make and fill tables, views, indexes and triggers, and reach nothing
outside; its PRAGMAs are passed over.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import apsw

from toolenv.tools.database.sql import MAX_COLUMNS, MAX_ROW_BYTES
from toolenv.tools.errors import ScenarioError
from toolenv.tools.world import WorldImage, open_connection, quoted

MAX_BYTES: Final = 5_000_000
MAX_SECONDS: Final = 20.0
_EVERY: Final = 10_000
_MAGIC: Final = b"SQLite format 3\0"
_BLANK: Final = re.compile(r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*", re.DOTALL)


@dataclass(frozen=True, eq=False)
class OwnDatabase:
    """The user's database.

    Attributes:
        path: as the scenario's file says, relative to its folder.
        source: the bytes of the file.
    """

    path: str
    source: bytes
    image: WorldImage


def read_database(folder: Path, path: str) -> OwnDatabase:
    """Read the database at `path` in `folder`.

    Raises:
        ScenarioError: each problem reads `path: rule`, or of a script `path:line: rule`.
    """
    file = folder / path
    try:
        with file.open("rb") as stream:
            source = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or error
        raise ScenarioError([f"{path}: {reason}"]) from None
    if len(source) > MAX_BYTES:
        raise ScenarioError([f"{path}: the file is larger than {MAX_BYTES} bytes"])
    if file.suffix == ".sql":
        return _of_script(path, source)
    if not source.startswith(_MAGIC):
        raise ScenarioError([f"{path}: not a SQLite database; a script of SQL must end in .sql"])
    journal = file.with_name(file.name + "-wal")
    if journal.exists() and journal.stat().st_size:
        raise ScenarioError([f"{path}: the database is in use: {journal.name} holds changes that are not in it yet"])
    return _of_bytes(path, source)


@lru_cache(8)
def _of_bytes(path: str, source: bytes) -> OwnDatabase:
    # In memory there is no write-ahead log; with these bytes the file says so.
    data = source[:18] + b"\x01\x01" + source[20:] if source[18:20] == b"\x02\x02" else source
    return OwnDatabase(path, source, _checked(path, data))


@lru_cache(8)
def _of_script(path: str, source: bytes) -> OwnDatabase:
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise ScenarioError([f"{path}:{line}: not UTF-8"]) from None
    connection = open_connection()
    _run_script(connection, path, text)
    return OwnDatabase(path, source, _checked(path, connection.serialize("main")))


# -- scripts -------------------------------------------------------------------------------------------

_OUTSIDE: Final = {
    apsw.SQLITE_ATTACH: "ATTACH is not allowed",
    apsw.SQLITE_DETACH: "DETACH is not allowed",
    apsw.SQLITE_CREATE_VTABLE: "virtual tables are not allowed",
}
_FORBIDDEN_FUNCTIONS: Final = ("load_extension", "fts3_tokenizer", "random", "randomblob")


class _ScriptGuard:
    """The authorizer of a script, which also follows how far it has come."""

    def __init__(self) -> None:
        self.began, self.end = 0, 0
        self.refused = ""

    def __call__(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action == apsw.SQLITE_PRAGMA:
            return apsw.SQLITE_IGNORE
        refused = _OUTSIDE.get(action, "")
        if action == apsw.SQLITE_FUNCTION and str(second).lower() in _FORBIDDEN_FUNCTIONS:
            refused = f"the function {second} is not allowed"
        self.refused = self.refused or refused
        return apsw.SQLITE_DENY if refused else apsw.SQLITE_OK

    def follow(self, cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
        """Called with each statement before it runs."""
        self.began, self.end = self.end, self.end + len(sql)
        return True


def _run_script(connection: apsw.Connection, path: str, text: str) -> None:
    guard, deadline = _ScriptGuard(), time.monotonic() + MAX_SECONDS
    connection.execute(f"PRAGMA max_page_count = {2 * MAX_BYTES // 4096}")
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_BYTES)
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _EVERY)
    connection.authorizer = guard
    cursor = connection.cursor()
    cursor.exec_trace = guard.follow
    try:
        for _ in cursor.execute(text):
            pass
    except (apsw.Error, UnicodeError, MemoryError) as error:
        raise ScenarioError([f"{path}:{_line_of(error, guard, text)}: {_reason(error, guard)}"]) from None
    connection.authorizer = None
    if connection.in_transaction:
        raise ScenarioError([f"{path}:{text.count(chr(10)) + 1}: the last transaction is not committed"])


def _reason(error: Exception, guard: _ScriptGuard) -> str:
    if guard.refused:
        return guard.refused
    if isinstance(error, apsw.InterruptError):
        return f"the script takes longer than {MAX_SECONDS:g} seconds"
    if isinstance(error, apsw.FullError):
        return f"the database is larger than {2 * MAX_BYTES} bytes"
    return str(error) or type(error).__name__


def _line_of(error: Exception, guard: _ScriptGuard, text: str) -> int:
    """The line of the very place if SQLite tells it, else that on which the statement begins."""
    offset = getattr(error, "error_offset", -1)
    if offset >= 0:  # in bytes, from the end of the statement before
        before = text[guard.end :].encode()[:offset]
        return text.count("\n", 0, guard.end) + before.count(b"\n") + 1
    # A statement that is wrong does not begin; one that fails has begun.
    position = guard.end if isinstance(error, apsw.SQLError | apsw.AuthError) else guard.began
    blank = _BLANK.match(text, position)
    return text.count("\n", 0, blank.end() if blank else position) + 1


# -- what a world can keep -----------------------------------------------------------------------------


def _checked(path: str, data: bytes) -> WorldImage:
    image = WorldImage(data, path)
    try:
        connection = open_connection(data)
        verdict = str(connection.execute("PRAGMA quick_check(1)").get)
        problems = list(_problems(connection)) if verdict == "ok" else [f"it is damaged: {verdict}"]
    except apsw.Error as error:
        problems = [f"not a readable SQLite database: {error}"]
    if problems:
        raise ScenarioError([f"{path}: {problem}" for problem in problems])
    return image


def _problems(connection: apsw.Connection) -> Iterator[str]:
    sql = "SELECT name, type, ncol FROM pragma_table_list WHERE schema = 'main' AND name NOT GLOB 'sqlite_*'"
    tables: list[tuple[Any, ...]] = connection.execute(sql).fetchall()
    if not any(kind == "table" for _, kind, _ in tables):
        yield "there is no table in it"
    for table, kind, width in sorted(tables):
        if kind in ("virtual", "shadow"):
            yield f"table {table}: virtual tables can not be kept"
        elif kind == "table":
            problem = _table_problem(connection, str(table), int(width))
            if problem is not None:
                yield f"table {table}: {problem}"


def _table_problem(connection: apsw.Connection, table: str, width: int) -> str | None:
    columns = connection.execute("SELECT name, pk, hidden FROM pragma_table_xinfo(?)", (table,)).fetchall()
    key = [str(name) for name, place, _ in columns if place]
    if not key:
        return "it has no PRIMARY KEY, so changes to it could not be seen"
    if any(hidden for _, _, hidden in columns):
        return "it has generated columns, which can not be kept"
    if width > MAX_COLUMNS:
        return f"it has more than {MAX_COLUMNS} columns"
    empty = " OR ".join(f"{quoted(name)} IS NULL" for name in key)
    if connection.execute(f"SELECT 1 FROM {quoted(table)} WHERE {empty} LIMIT 1").fetchone():
        return f"the primary key ({', '.join(key)}) is NULL in some row"
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_ROW_BYTES)
    try:
        for _ in connection.execute(f"SELECT * FROM {quoted(table)}"):
            pass
    except UnicodeDecodeError:
        return "it holds text that is not UTF-8"
    except apsw.TooBigError:
        return f"it holds a row of more than {MAX_ROW_BYTES} bytes"
    return None
