"""The world that tools act on: an in-memory SQLite database that forks in microseconds.

A `WorldImage` is an immutable database (a population, a user's file); `open()` gives any number of `World`s on
it. A world records what has changed since its image with SQLite's session extension, so `diff` and `digest`
cost what the changes cost, not what the database costs, and a fork carries its history along.

Every table must have a PRIMARY KEY: the session extension tells rows apart by it. SQLite's clock stands still at
noon of 2026-03-15, so that no result depends on the day on which it was asked for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import apsw
import orjson

from toolenv.tools.calls import Json
from toolenv.tools.errors import ScenarioError

_MODULUS = 1 << 128

Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]
"""SQLite's: action, two details of it, database, innermost trigger or view -> SQLITE_OK, _DENY or _IGNORE."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """One row that differs from the image.

    Attributes:
        op: "insert", "update" or "delete".
        key: the primary key's columns.
        before, after: column -> value. Of an update only the columns that changed; of an insert `before`
            is empty and of a delete `after` is.
    """

    table: str
    op: str
    key: dict[str, Json]
    before: dict[str, Json] = field(default_factory=dict)
    after: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class WorldSnapshot:
    """A world's state as bytes. Two snapshots are equal exactly when the states are."""

    image: WorldImage
    data: bytes
    changes: bytes
    digest: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WorldSnapshot) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


class WorldImage:
    """An immutable database from which worlds are opened.

    Args:
        data: the bytes of a SQLite database.
        name: what it is, for people; not part of the state.
    """

    def __init__(self, data: bytes, name: str = "world") -> None:
        self.data = data
        self.name = name
        # SQL text -> its column names, learnt once for all worlds of this image.
        self.columns_of_query: dict[str, tuple[str, ...]] = {}

    @classmethod
    def of_connection(cls, connection: apsw.Connection, name: str = "world") -> WorldImage:
        return cls(connection.serialize("main"), name)

    def open(self) -> World:
        return World(self, self.data, b"")

    @cached_property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Table -> its columns, in order. SQLite's own tables (`sqlite_sequence` and the like) are left out.

        Raises:
            ScenarioError: a table has no primary key, so that its changes would go unseen.
        """
        return {table: tuple(name for name, _ in columns) for table, columns in self._tables.items()}

    @cached_property
    def shown(self) -> dict[str, tuple[str, ...]]:
        """The tables that database tools show: those of `columns` whose names do not begin with `_`."""
        return {table: columns for table, columns in self.columns.items() if not table.startswith("_")}

    @cached_property
    def keys(self) -> dict[str, tuple[str, ...]]:
        """Table -> the columns of its primary key, in the key's order. Raises as `columns` does."""
        return {
            table: tuple(name for name, place in sorted(columns, key=lambda column: column[1]) if place)
            for table, columns in self._tables.items()
        }

    @cached_property
    def views(self) -> frozenset[str]:
        """The names of the views."""
        connection = open_connection(self.data)
        return frozenset(name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'view'"))

    @cached_property
    def _tables(self) -> dict[str, list[tuple[str, int]]]:
        """Table -> its columns, each with its place in the primary key (from 1) or 0."""
        connection = open_connection(self.data)
        sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*' ORDER BY name"
        found: dict[str, list[tuple[str, int]]] = {}
        for (table,) in connection.execute(sql).fetchall():
            described = connection.execute("SELECT name, pk FROM pragma_table_info(?)", (table,))
            columns: list[tuple[Any, ...]] = described.fetchall()
            if not any(place for _, place in columns):
                raise ScenarioError([f"{self.name}: table {table} has no PRIMARY KEY"])
            found[str(table)] = [(str(name), int(place)) for name, place in columns]
        return found

    @cached_property
    def row_hash(self) -> int:
        """The sum over all rows of their hashes, modulo 2**128: independent of any order."""
        connection = open_connection(self.data)
        return sum(
            _hash_row(table, row)
            for table in self.columns
            for row in connection.execute(f"SELECT * FROM {quoted(table)}")
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return WorldImage, (self.data, self.name)


class World:
    """A mutable database on an image. `close()` it, or let it go."""

    __slots__ = ("_columns", "_connection", "_history", "_session", "image", "python")

    def __init__(self, image: WorldImage, data: bytes, history: bytes) -> None:
        self.image = image
        # A `PythonSession` of `toolenv.tools.interpreter`, given by a sandbox that runs code. That module imports this.
        self.python: Any = None
        self._columns = image.columns_of_query
        self._open(data, history)

    def _open(self, data: bytes, history: bytes) -> None:
        self._connection = open_connection(data)
        self._history = history
        self._session = apsw.Session(self._connection, "main")
        self._session.attach()

    # -- what tools use ---------------------------------------------------------------------------

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> dict[str, Any] | None:
        """The first row as a dict, or None."""
        cursor = self._connection.execute(sql, parameters)
        columns = self._columns.get(sql) or self._learn(sql, cursor)
        row = cursor.fetchone()
        return None if row is None else dict(zip(columns, row, strict=True))

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """All rows as dicts."""
        cursor = self._connection.execute(sql, parameters)
        columns = self._columns.get(sql) or self._learn(sql, cursor)
        return [dict(zip(columns, row, strict=True)) for row in cursor]

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        row = self._connection.execute(sql, parameters).fetchone()
        return None if row is None else row[0]

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a writing statement; the number of rows it changed."""
        self._connection.execute(sql, parameters)
        return self._connection.changes()

    def forbid_writing(self) -> None:
        """From now on statements may only read this database: no writes, no ATTACH, no PRAGMA."""
        self._connection.authorizer = _only_reading

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """All writes in the block take place, or none."""
        connection = self._connection
        connection.execute("SAVEPOINT atomic")
        try:
            yield
        except BaseException:
            # `INSERT OR ROLLBACK`, or an interrupted write, has ended the whole transaction already.
            if connection.in_transaction:
                connection.execute("ROLLBACK TO atomic")
            raise
        finally:
            if connection.in_transaction:
                connection.execute("RELEASE atomic")

    @contextmanager
    def confined(
        self, authorizer: Authorizer, limits: Mapping[int, int], progress: Callable[[], bool], every: int
    ) -> Iterator[apsw.Connection]:
        """The connection, for SQL that an agent wrote: what it may do is decided here, not by reading its text.

        Args:
            authorizer: asked about every action while a statement is compiled.
            limits: SQLite's SQLITE_LIMIT_* -> value in the block.
            progress: called every so many steps of SQLite's virtual machine; True interrupts the statement.
            every: how many steps.
        """
        connection, before = self._connection, self._connection.authorizer
        old_limits = {limit: connection.limit(limit, value) for limit, value in limits.items()}
        connection.authorizer = authorizer
        connection.set_progress_handler(progress, every)
        try:
            yield connection
        finally:
            connection.set_progress_handler(None)
            connection.authorizer = before
            for limit, value in old_limits.items():
                connection.limit(limit, value)

    # -- what environments use --------------------------------------------------------------------

    def fork(self) -> World:
        """An independent world in the same state."""
        other = World(self.image, self._connection.serialize("main"), self._changeset())
        if self.python is not None:
            other.python = self.python.fork()
        return other

    def snapshot(self) -> WorldSnapshot:
        return WorldSnapshot(self.image, self._connection.serialize("main"), self._changeset(), self.digest())

    def restore(self, snapshot: WorldSnapshot) -> None:
        """Become the state of a snapshot, of this world or of another on the same image or not."""
        self.close()
        self.image = snapshot.image
        self._columns = snapshot.image.columns_of_query
        self._open(snapshot.data, snapshot.changes)

    def digest(self) -> str:
        """32 hex digits over all rows; equal states have equal digests, in whatever order they came about."""
        total = self.image.row_hash
        for change in self.diff():
            before, after = self._full_rows(change)
            if before is not None:
                total -= _hash_row(change.table, before)
            if after is not None:
                total += _hash_row(change.table, after)
        return f"{total % _MODULUS:032x}"

    def diff(self) -> tuple[RowChange, ...]:
        """What differs from the image: net changes, sorted by table and key."""
        changeset = self._changeset()
        if not changeset:
            return ()
        changes = [self._row_change(change) for change in apsw.Changeset.iter(changeset)]
        return tuple(sorted(changes, key=lambda change: (change.table, [str(v) for v in change.key.values()])))

    def close(self) -> None:
        if self.python is not None:
            self.python.close()
        self._session.close()
        self._connection.close()

    def _changeset(self) -> bytes:
        """Net changes since the image: those before the last fork or restore, and those since."""
        recent = self._session.changeset()
        if not self._history:
            return recent
        return apsw.Changeset.concat(self._history, recent) if recent else self._history

    def _row_change(self, change: apsw.TableChange) -> RowChange:
        columns = self.image.columns[change.name]
        old, new = change.old or (), change.new or ()
        known = old or new
        key = {columns[i]: known[i] for i in sorted(change.pk_columns)}
        before = {c: v for c, v in zip(columns, old, strict=False) if v is not apsw.no_change}
        after = {c: v for c, v in zip(columns, new, strict=False) if v is not apsw.no_change}
        op = change.op.lower()
        if op == "update":
            before = {column: value for column, value in before.items() if column not in key}
        return RowChange(change.name, op, key, before, after)

    def _full_rows(self, change: RowChange) -> tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]:
        """The whole row before and after a change, as stored."""
        columns = self.image.columns[change.table]
        if change.op != "update":
            row = change.before or change.after
            values = tuple(row[column] for column in columns)
            return (values, None) if change.op == "delete" else (None, values)
        where = " AND ".join(f"{quoted(column)} IS ?" for column in change.key)
        query = f"SELECT * FROM {quoted(change.table)} WHERE {where}"
        after = self._connection.execute(query, tuple(change.key.values())).fetchone()
        assert after is not None
        before = tuple(change.before.get(column, value) for column, value in zip(columns, after, strict=True))
        return before, tuple(after)

    def _learn(self, sql: str, cursor: apsw.Cursor) -> tuple[str, ...]:
        try:
            columns = tuple(column[0] for column in cursor.get_description())
        except apsw.ExecutionCompleteError:  # no rows, so nothing to name
            return ()
        self._columns[sql] = columns
        return columns


_READING = (apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE)


def _only_reading(action: int, *_: str | None) -> int:
    return apsw.SQLITE_OK if action in _READING else apsw.SQLITE_DENY


class _StoppedClock(apsw.VFS):
    """The system's file system with a clock that stands still."""

    def __init__(self) -> None:
        super().__init__(_CLOCK, "")

    def xCurrentTime(self) -> float:  # noqa: N802  SQLite's name
        return _NOON

    def xCurrentTimeInt64(self) -> int:  # noqa: N802  SQLite's name
        return round(_NOON * 86_400_000)


_CLOCK: Final = "toolenv-stopped-clock"
_NOON: Final = 2461115.0  # 2026-03-15 12:00 as a Julian day
_STOPPED_CLOCK: Final = _StoppedClock()  # registered as long as it lives


def open_connection(data: bytes | None = None) -> apsw.Connection:
    """A connection to a database in memory, empty or with these bytes; large sorts use no files either."""
    connection = apsw.Connection(":memory:", vfs=_CLOCK)
    connection.execute("PRAGMA temp_store = MEMORY")
    if data is not None:
        connection.deserialize("main", data)
    return connection


def quoted(name: str) -> str:
    """The name of a table or column as it stands in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _hash_row(table: str, row: Sequence[Any]) -> int:
    data = orjson.dumps([table, [_distinct(value) for value in row]])
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest())


def _distinct(value: Any) -> Json:
    """JSON that differs where values differ: a blob from the text of its digits, an infinity from NULL."""
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, float) and math.isinf(value):
        return {"real": str(value)}
    return value
