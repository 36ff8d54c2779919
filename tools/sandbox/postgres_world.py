"""A world whose rows lie in a schema of a PostgreSQL server.

What an agent wrote runs as a role that may do nothing but read and change the rows of this one schema, in a
transaction that only reads unless the tool writes, with the server's limit in seconds. Rows and texts are cut on the
server already.

State is told in SQLite's terms: a mirror, a `World` on the same image, takes over what has changed on the server when
it is asked for, and digest, diff and snapshot are the mirror's. They are the same values as an embedded world's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import pq

from toolenv.tools.calls import Json
from toolenv.tools.database import postgres_text
from toolenv.tools.database.engine import Found
from toolenv.tools.database.postgres_problems import explain
from toolenv.tools.database.postgres_schema import ServerSchema, server_schema
from toolenv.tools.database.sql import MAX_COLUMNS, MAX_ROWS, MAX_SECONDS, collect
from toolenv.tools.errors import InvalidQuery, RuleViolation, SandboxLost, ScenarioError
from toolenv.tools.sandbox.postgres_link import Link, Refused, text_of
from toolenv.tools.world import RowChange, World, WorldImage, WorldSnapshot, quoted

MAX_CHANGED: Final = 50_000
MAX_STORED: Final = 256_000_000
_MAX_KNOWN: Final = 1_000
_BOOL, _BYTES, _INTEGERS, _REALS, _TEXT, _NUMERIC = 16, 17, (20, 21, 23, 26), (700, 701), 25, 1700
_PLACE: Final = re.compile(r"\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'|\?")


@dataclass(frozen=True, slots=True)
class _Described:
    """A statement as the server understands it: types are its numbers (OIDs)."""

    parameters: tuple[int, ...]
    columns: tuple[str, ...]
    types: tuple[int, ...]


class PostgresWorld:
    """A mutable database on a server. `close()` it.

    Args:
        mirror: the state to begin with; it becomes this world's own.

    Raises:
        SandboxLost: the server is gone.
        ScenarioError: the database can not be carried over to PostgreSQL.
    """

    def __init__(self, link: Link, mirror: World) -> None:
        self._link, self.mirror = link, mirror
        self._changed, self._in_transaction = False, False
        self._load()

    @property
    def image(self) -> WorldImage:
        return self.mirror.image

    # -- what tools use ---------------------------------------------------------------------------

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """All writes in the block take place, or none."""
        with self._transaction("BEGIN"):
            yield

    def read(self, sql: str, parameters: Sequence[Any], field: str) -> Found:
        """Run one statement that only reads; raises a ToolError for whatever is wrong with it."""
        statement = self._statement(sql, parameters, field, writes=False)
        with self._reading(), self._explained(sql, field):
            known = self._described(statement, field)
            _require_parameters(known, parameters, field)
            query = f"SELECT {_shown(known)} FROM ({statement}\n) AS q({_names(known)}) LIMIT {MAX_ROWS + 1}"
            result = self._link.run(query, *_fitted(known, parameters, field, writes=False))
        rows, truncated = collect(_rows(result, known.types), known.columns, stop_early=True)
        return Found(known.columns, rows, truncated)

    def write(self, sql: str, parameters: Sequence[Any], field: str) -> Found:
        """Run one statement that changes rows, within `atomic`; raises a ToolError for whatever is wrong with it."""
        statement = self._statement(sql, parameters, field, writes=True)
        with self._explained(sql, field):
            known = self._described(statement, field, needs_columns=False)
            _require_parameters(known, parameters, field)
            values = _fitted(known, parameters, field, writes=True)
            self._changed = True
            result, changed = self._carried_out(statement, known, values)
            self._link.run("SET CONSTRAINTS ALL IMMEDIATE")
            if changed > MAX_CHANGED or self._stored() > MAX_STORED:
                raise RuleViolation("too_expensive", "the statement changes too much; narrow it down", field=field)
        found = [row[1:] for row in _rows(result, (_INTEGERS[0], *known.types))] if known.columns else []
        rows, truncated = collect(found, known.columns, stop_early=True)
        return Found(known.columns, rows, truncated or changed > MAX_ROWS, changed)

    def plan(self, sql: str, field: str) -> tuple[list[Json], bool]:
        """PostgreSQL's plan of a statement that reads, in lines; nothing is run."""
        statement = self._statement(sql, (), field, writes=False)
        with self._reading(), self._explained(sql, field):
            known = self._described(statement, field)
            _require_parameters(known, (), field)
            self._link.describe(f"SELECT 1 FROM ({statement}\n) AS q({_names(known)})")  # as `read` would run it
            result = self._link.run(f"EXPLAIN (COSTS OFF) {statement}")
        rows, truncated = collect(_rows(result, (_TEXT,)), ("plan",), stop_early=True)
        return [row[0] for row in rows], truncated

    # -- what sessions use ------------------------------------------------------------------------

    def fork(self) -> PostgresWorld:
        self._take_over()
        return PostgresWorld(self._link, self.mirror.fork())

    def snapshot(self) -> WorldSnapshot:
        self._take_over()
        return self.mirror.snapshot()

    def restore(self, snapshot: WorldSnapshot) -> None:
        self._link.run("SELECT 1")
        old = self._name
        self.mirror.restore(snapshot)
        self._changed = False
        self._load()
        self._link.remove(old)

    def digest(self) -> str:
        self._take_over()
        return self.mirror.digest()

    def diff(self) -> tuple[RowChange, ...]:
        self._take_over()
        return self.mirror.diff()

    def close(self) -> None:
        """Drop the schema, if the server is still there."""
        self.mirror.close()
        with self._link.lock, suppress(SandboxLost, Refused):
            self._link.remove(self._name)

    def require_there(self) -> None:
        """Raises SandboxLost when the connection is known to be gone."""
        if self._link.lost:
            raise SandboxLost("the connection to PostgreSQL is lost")

    # -- inside -----------------------------------------------------------------------------------

    def _load(self) -> None:
        """Make a schema with the mirror's rows, and a role for it."""
        self._schema: ServerSchema = server_schema(self.image)
        self._name = self._link.new_name()
        link, name = self._link, quoted(self._name)
        with link.lock:
            try:
                link.script(
                    f"BEGIN; CREATE ROLE {name} NOLOGIN NOINHERIT; GRANT {name} TO CURRENT_USER; CREATE SCHEMA {name};"
                    f" GRANT USAGE ON SCHEMA {name} TO {name}; SET LOCAL search_path = {name};"
                    f" {'; '.join(self._schema.tables)}"
                )
                for table, columns in self.image.columns.items():
                    rows = [tuple(row.values()) for row in self.mirror.all(f"SELECT * FROM {quoted(table)}")]
                    link.copy(table, columns, rows)
                for statement in self._schema.views:
                    link.run(statement)
                grant = f"GRANT SELECT ON ALL TABLES IN SCHEMA {name} TO {name}"
                tables = ", ".join(map(quoted, self.image.columns))
                changes = f"GRANT INSERT, UPDATE, DELETE ON {tables} TO {name}" if tables else "SELECT 1"
                link.script("; ".join([*self._schema.links, grant, changes, "COMMIT"]))
            except (Refused, psycopg.Error) as error:
                link.script("ROLLBACK")
                raise ScenarioError([f"{self.image.name}: PostgreSQL does not take it over: {error}"]) from None

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        link, name = self._link, quoted(self._name)
        with link.lock:
            link.script(
                f"{begin}; SET LOCAL ROLE {name}; SET LOCAL search_path = {name};"
                f" SET LOCAL statement_timeout = {round(MAX_SECONDS * 1000)}"
            )
            self._in_transaction = True
            try:
                yield
            except BaseException:
                if not link.lost:
                    link.script("ROLLBACK")
                raise
            else:
                link.script("COMMIT")
            finally:
                self._in_transaction = False

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self._in_transaction:
            yield
        else:
            with self._transaction("BEGIN READ ONLY"):
                yield

    @contextmanager
    def _explained(self, sql: str, field: str) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            raise explain(error.complaint, self._schema, self, sql, field) from None

    def _statement(self, sql: str, parameters: Sequence[Any], field: str, *, writes: bool) -> str:
        try:
            sql.encode()
        except UnicodeError:
            raise InvalidQuery("a value is no text that can be shown", field=field, rule="text") from None
        statement = postgres_text.read_statement(sql, self._link.functions, field)
        if (refused := postgres_text.refusal(statement, writes=writes, field=field)) is not None:
            raise refused
        return _numbered(statement.text) if parameters else statement.text

    def _described(self, statement: str, field: str, *, needs_columns: bool = True) -> _Described:
        known = self._schema.described.get(statement)
        if known is None:
            found = self._link.describe(statement)
            columns = range(found.nfields)
            known = _Described(
                tuple(found.param_type(n) for n in range(found.nparams)),
                tuple((found.fname(n) or b"").decode() for n in columns),
                tuple(found.ftype(n) for n in columns),
            )
            if len(self._schema.described) < _MAX_KNOWN:
                self._schema.described[statement] = known
        if len(known.columns) > MAX_COLUMNS or (needs_columns and not known.columns):
            raise InvalidQuery(f"a result has 1 to {MAX_COLUMNS} columns", field=field, rule="sql")
        return known

    def _carried_out(self, statement: str, known: _Described, values: Any) -> tuple[pq.abc.PGresult, int]:
        if not known.columns:
            result = self._link.run(statement, *values)
            return result, result.command_tuples or 0
        query = (
            f"WITH q({_names(known)}) AS ({statement}\n) SELECT (SELECT count(*) FROM q), {_shown(known)}"
            f" FROM q LIMIT {MAX_ROWS + 1}"
        )
        result = self._link.run(query, *values)
        return result, int(text_of(result, 0, 0) or 0) if result.ntuples else 0

    def _stored(self) -> int:
        """The bytes of all tables, those of dead rows included."""
        sql = (
            "SELECT coalesce(sum(pg_relation_size(oid)), 0) FROM pg_class"
            f" WHERE relnamespace = '{self._name}'::regnamespace AND relkind = 'r'"
        )
        return int(self._link.value(sql) or 0)

    def _take_over(self) -> None:
        """Bring the mirror up to date."""
        if not self._changed:
            self._link.run("SELECT 1")  # a world whose server is gone is lost, even if its state is known
            return
        with self._link.lock:
            for table in self.image.columns:
                self._take_over_table(table)
        self._changed = False

    def _take_over_table(self, table: str) -> None:
        columns = self.image.columns[table]
        result = self._link.run(f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(self._name)}.{quoted(table)}")
        kinds = list(enumerate(self._schema.kinds[table]))
        now = {
            tuple(_stored_value(text_of(result, row, n), kind) for n, kind in kinds) for row in range(result.ntuples)
        }
        before = {tuple(row.values()) for row in self.mirror.all(f"SELECT * FROM {quoted(table)}")}
        key = self.image.keys[table]
        places = [columns.index(column) for column in key]
        where = " AND ".join(f"{quoted(column)} IS ?" for column in key)
        for gone in before - now:
            self.mirror.execute(f"DELETE FROM {quoted(table)} WHERE {where}", [gone[place] for place in places])
        insert = f"INSERT INTO {quoted(table)} VALUES ({', '.join('?' * len(columns))})"
        for new in sorted(now - before, key=repr):
            self.mirror.execute(insert, new)


def _stored_value(text: str | None, kind: str) -> Any:
    """A value of a table's column as SQLite holds it."""
    if text is None or kind == "text":
        return text
    if kind == "integer":
        return int(text)
    if kind == "blob":
        return bytes.fromhex(text[2:])
    value = float(text)
    if math.isnan(value):
        return None
    return int(value) if kind == "numeric" and value.is_integer() and abs(value) < 2**63 else value


def _numbered(sql: str) -> str:
    """`?` as `$1`, `$2` and so on, but for those in names and texts."""
    parts, at, number = [], 0, 0
    for match in _PLACE.finditer(sql):
        if match.group() == "?":
            number += 1
            parts += [sql[at : match.start()], f"${number}"]
            at = match.end()
    return "".join([*parts, sql[at:]])


def _require_parameters(known: _Described, parameters: Sequence[Any], field: str) -> None:
    if len(known.parameters) != len(parameters):
        message = "there are no parameters here; write the values into the statement"
        raise InvalidQuery(message, field=field, rule="parameters")


def _fitted(
    known: _Described, parameters: Sequence[Any], field: str, *, writes: bool
) -> tuple[list[bytes | None], list[int]]:
    """Values as texts, and their types: SQLite compares and stores across types, PostgreSQL does not."""
    values: list[bytes | None] = []
    types = list(known.parameters)
    for place, value in enumerate(parameters):
        value = int(value) if isinstance(value, bool) else value
        if isinstance(value, float) and types[place] in _INTEGERS:
            if value.is_integer():
                value = int(value)
            elif writes:
                raise RuleViolation("datatype", f"{value} is no whole number", field=field)
            else:
                types[place] = _REALS[1]
        if isinstance(value, str) and ("\0" in value or not _can_be_encoded(value)):
            raise InvalidQuery("a value is no text that can be shown", field=field, rule="text")
        values.append(None if value is None else str(value).encode())
    return values, types


def _can_be_encoded(text: str) -> bool:
    return text.encode("utf-8", "replace").decode() == text


def _names(known: _Described) -> str:
    return ", ".join(f"c{n}" for n in range(len(known.columns)))


def _shown(known: _Described) -> str:
    """The columns of a result, cut on the server to what is shown of them."""
    return ", ".join(_shown_column(f"c{n}", kind) for n, kind in enumerate(known.types))


def _shown_column(name: str, kind: int) -> str:
    if kind in _INTEGERS or kind in _REALS:
        return name
    if kind == _BOOL:
        return f"{name}::int"
    return f"octet_length({name})" if kind == _BYTES else f"left({name}::text, 1001)"


def _rows(result: pq.abc.PGresult, types: Sequence[int]) -> Iterator[list[Any]]:
    for row in range(result.ntuples):
        yield [_value(text_of(result, row, column), kind) for column, kind in enumerate(types)]


def _value(text: str | None, kind: int) -> Any:
    """A value of a result as SQLite would give it."""
    if text is None:
        return None
    if kind in _INTEGERS or kind == _BOOL:
        return int(text)
    if kind == _BYTES:
        return f"<blob of {text} bytes>"
    if kind == _NUMERIC and text.lstrip("-").isdigit() and abs(int(text)) < 2**63:
        return int(text)
    if kind in _REALS or kind == _NUMERIC:
        return None if math.isnan(value := float(text)) else value
    return text
