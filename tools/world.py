"""The world that tools act on: an in-memory SQLite database that forks in microseconds.

A `WorldImage` is an immutable database (a population, a user's file); `open()` gives any number of `World`s on
it. A world records what has changed since its image with SQLite's session extension, so `diff` and `digest`
cost what the changes cost, not what the database costs, and a fork carries its history along.

Every table must have a PRIMARY KEY: the session extension tells rows apart by it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import apsw
import orjson

from toolenv.tools.calls import Json
from toolenv.tools.errors import ScenarioError

_MODULUS = 1 << 128


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
        """Table -> its columns, in order.

        Raises:
            ScenarioError: a table has no primary key, so that its changes would go unseen.
        """
        connection = _connect(self.data)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found: dict[str, tuple[str, ...]] = {}
        for table in sorted(tables):
            columns = connection.execute("SELECT name, pk FROM pragma_table_info(?)", (table,)).fetchall()
            if not any(key for _, key in columns):
                raise ScenarioError([f"{self.name}: table {table} has no PRIMARY KEY"])
            found[table] = tuple(str(name) for name, _ in columns)
        return found

    @cached_property
    def row_hash(self) -> int:
        """The sum over all rows of their hashes, modulo 2**128: independent of any order."""
        connection = _connect(self.data)
        return sum(
            _hash_row(table, row) for table in self.columns for row in connection.execute(f'SELECT * FROM "{table}"')
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return WorldImage, (self.data, self.name)


class World:
    """A mutable database on an image. `close()` it, or let it go."""

    __slots__ = ("_columns", "_connection", "_history", "_session", "image")

    def __init__(self, image: WorldImage, data: bytes, history: bytes) -> None:
        self.image = image
        self._columns = image.columns_of_query
        self._open(data, history)

    def _open(self, data: bytes, history: bytes) -> None:
        self._connection = _connect(data)
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
        self._connection.execute("SAVEPOINT atomic")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK TO atomic")
            raise
        finally:
            self._connection.execute("RELEASE atomic")

    # -- what environments use --------------------------------------------------------------------

    def fork(self) -> World:
        """An independent world in the same state."""
        return World(self.image, self._connection.serialize("main"), self._changeset())

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
        where = " AND ".join(f'"{column}" IS ?' for column in change.key)
        query = f'SELECT * FROM "{change.table}" WHERE {where}'
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


def _connect(data: bytes) -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.deserialize("main", data)
    return connection


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
