"""Running SQL that an agent wrote, safe by construction.

SQLite itself asks an authorizer about everything that a statement would do, while it is compiled: reading is allowed,
and to the tools that write also the change of rows. Nothing else is: no schema change, ATTACH, PRAGMA, transaction,
extension, or function whose result would not follow from the database alone. Limits hold on rows, bytes, memory and
steps of SQLite's virtual machine; the count of steps is deterministic. Behind it stands a limit in seconds for
statements whose single steps are slow; at that border, and where other threads take memory meanwhile, two runs of a
statement that is nearly too expensive may differ.

What goes wrong comes back as a ToolError that names the field and what would be right; nothing else is raised.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import apsw
import orjson

from toolenv.tools.calls import Json
from toolenv.tools.database.engine import Database, Found
from toolenv.tools.database.problems import explain, refusal
from toolenv.tools.errors import InvalidQuery, RuleViolation
from toolenv.tools.world import World, WorldImage, quoted

MAX_ROWS: Final = 50
MAX_BYTES: Final = 8_000
MAX_CELL: Final = 1_000
MAX_STEPS: Final = 5_000_000
MAX_MEMORY: Final = 64_000_000
MAX_SECONDS: Final = 5.0
MAX_ROW_BYTES: Final = 100_000
"""Neither a value nor a row may be larger, stored or computed."""
MAX_COLUMNS: Final = 200
_EVERY: Final = 100
_MAX_NAME: Final = 100

_LIMITS: Final = {
    apsw.SQLITE_LIMIT_LENGTH: MAX_ROW_BYTES,
    apsw.SQLITE_LIMIT_COLUMN: MAX_COLUMNS,
    apsw.SQLITE_LIMIT_VDBE_OP: 50_000,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 500,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 20,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}

_FUNCTIONS: Final = frozenset(
    # Scalars. Left out: random, the state of the connection (changes, last_insert_rowid), SQLite's own version.
    "abs char coalesce concat concat_ws format glob hex if ifnull iif instr length like likelihood likely lower ltrim"
    " max min nullif octet_length printf quote replace round rtrim sign soundex substr substring trim typeof unhex"
    " unicode unistr unistr_quote unlikely upper zeroblob"
    # Aggregates and windows.
    " avg count group_concat median percentile percentile_cont percentile_disc string_agg sum total row_number rank"
    " dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value"
    # Dates; the clock stands still.
    " date time datetime julianday unixepoch strftime timediff current_date current_time current_timestamp"
    # Mathematics.
    " acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow"
    " power radians sin sinh sqrt tan tanh trunc"
    # JSON.
    " -> ->> json json_array json_array_length json_error_position json_extract json_group_array json_group_object"
    " json_insert json_object json_patch json_pretty json_quote json_remove json_replace json_set json_type json_valid"
    " jsonb jsonb_array jsonb_extract jsonb_group_array jsonb_group_object jsonb_insert jsonb_object jsonb_patch"
    " jsonb_remove jsonb_replace jsonb_set json_each json_tree".split()
)
_SCHEMA_TABLES: Final = frozenset(("sqlite_master", "sqlite_schema", "json_each", "json_tree"))
_WRITES: Final = (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE)
# Everything that is no statement: blanks, semicolons, comments.
_EMPTY: Final = re.compile(r"(?:[\s;]|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Extent:
    """How much of what a statement gives is kept: rows, bytes of JSON in all, characters of a text."""

    rows: int = MAX_ROWS
    size: int = MAX_BYTES
    cell: int = MAX_CELL


_SHOWN: Final = _Extent()


@dataclass(slots=True)
class _Guard:
    """The authorizer of one statement: what it may do, what it was refused, and which tables it changes."""

    image: WorldImage
    writes: bool
    running: bool = False
    refused: tuple[int, str | None, str | None] | None = None
    written: set[str] = field(default_factory=set)

    def __call__(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if self._allows(action, first, second):
            return apsw.SQLITE_OK
        self.refused = self.refused or (action, first, second)
        return apsw.SQLITE_DENY

    def _allows(self, action: int, first: str | None, second: str | None) -> bool:
        if action in (apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE):
            return True
        if action == apsw.SQLITE_READ:  # without a column, the table may be a subquery's name
            known = first in self.image.shown or first in self.image.views or first in _SCHEMA_TABLES
            return not second or known
        if action == apsw.SQLITE_FUNCTION:
            return second is not None and second.lower() in _FUNCTIONS
        if self.writes and action in _WRITES and first in self.image.shown:
            self.written.add(first)
            return True
        # Once the statement is compiled and runs, the session that records its changes looks the table up.
        return self.running and action == apsw.SQLITE_PRAGMA and first == "table_xinfo"


class _Budget:
    """Asked every _EVERY steps of the virtual machine; True ends the statement."""

    __slots__ = ("_deadline", "_memory", "_steps")

    def __init__(self) -> None:
        self._steps = MAX_STEPS // _EVERY
        self._memory = apsw.memory_used() + MAX_MEMORY
        self._deadline = time.monotonic() + MAX_SECONDS

    def __call__(self) -> bool:
        self._steps -= 1
        return self._steps < 0 or apsw.memory_used() > self._memory or time.monotonic() > self._deadline


def read(world: Database, sql: str, parameters: Sequence[Any] = (), *, field: str = "sql") -> Found:
    """Run one statement that only reads.

    Args:
        field: the argument that an error is about.

    Raises:
        ToolError: whatever is wrong with it.
    """
    if not isinstance(world, World):
        return world.read(sql, parameters, field)
    return _run(world, sql, parameters, _Guard(world.image, writes=False), field)


def extract(
    world: World, sql: str, parameters: Sequence[Any] = (), *, rows: int, size: int, field: str = "sql"
) -> Found:
    """`read` for a file rather than for the agent's eyes: whole texts, and limits of its own.

    Args:
        rows, size: at most so many rows, of so many bytes of JSON in all.

    Raises:
        ToolError: whatever is wrong with it.
    """
    extent = _Extent(rows, size, MAX_ROW_BYTES)
    return _run(world, sql, parameters, _Guard(world.image, writes=False), field, extent)


def plan(world: Database, sql: str, *, field: str = "sql") -> tuple[list[Json], bool]:
    """How a statement that reads would be carried out, in lines, and whether some are left out.

    Raises:
        ToolError: whatever is wrong with it.
    """
    if not isinstance(world, World):
        return world.plan(sql, field)
    found = read(world, f"EXPLAIN QUERY PLAN {sql}", field=field)
    return [row[-1] for row in found.rows], found.truncated


def schema(world: Database) -> World:
    """A world that can be asked about the schema with SQLite's pragmas; its rows may be older."""
    return world if isinstance(world, World) else world.mirror


def contains(world: Database, column: str) -> str:
    """The condition that a column holds a text, whatever the case of its ASCII letters; its parameter is a pattern."""
    like = "LIKE" if isinstance(world, World) else "::text ILIKE"
    return rf"{column} {like} ? ESCAPE '\'"


def write(world: Database, sql: str, parameters: Sequence[Any] = (), *, field: str = "sql") -> Found:
    """Run one statement that inserts, updates or deletes rows; foreign keys hold.

    Raises:
        ToolError: whatever is wrong with it. It may have changed rows by then: call it within `World.atomic`.
    """
    if not isinstance(world, World):
        return world.write(sql, parameters, field)
    guard = _Guard(world.image, writes=True)
    found = _run(world, sql, parameters, guard, field)
    for table in guard.written:
        for column in world.image.keys[table]:
            # SQLite lets a text key be NULL, and changes to such a row would go unseen.
            if world.value(f"SELECT 1 FROM {quoted(table)} WHERE {quoted(column)} IS NULL LIMIT 1"):
                message = f"{table}.{column} is the primary key; give it a value"
                raise RuleViolation("primary_key_required", message, field=field)
    return found


def _run(
    world: World, sql: str, parameters: Sequence[Any], guard: _Guard, field: str, extent: _Extent = _SHOWN
) -> Found:
    budget = _Budget()
    with world.confined(guard, _LIMITS, budget, _EVERY) as connection:
        had_keys = connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, -1)
        if guard.writes:
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
        cursor = connection.cursor()
        try:
            cursor.exec_trace = statement = _OneStatement(sql, guard, field)
            cursor.execute(sql, parameters, can_cache=False)
            rows, truncated = collect(cursor, statement.columns, stop_early=not guard.writes, extent=extent)
            if not statement.ran:
                raise InvalidQuery("there is no statement in it", field=field, rule="one_statement")
            if guard.writes and connection.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0]:
                raise RuleViolation("foreign_key", "a row would refer to one that does not exist", field=field)
            changed = connection.changes() if guard.writes else 0
        except (apsw.Error, ValueError, MemoryError, OverflowError) as error:
            if guard.refused is not None and not isinstance(error, apsw.InterruptError):
                raise refusal(*guard.refused, writes=guard.writes, field=field) from None
            raise explain(error, world, sql, field) from None
        finally:
            cursor.close(True)
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, had_keys)
    return Found(statement.columns, rows, truncated, changed)


class _OneStatement:
    """Called before a statement runs: lets one pass, of the right kind, with nothing behind it."""

    def __init__(self, sql: str, guard: _Guard, field: str) -> None:
        self._sql, self._guard, self._field, self._end = sql, guard, field, 0
        self.ran = False
        self.columns: tuple[str, ...] = ()

    def __call__(self, cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
        self._end += len(sql)
        if not cursor.has_vdbe:  # a comment
            return True
        if self.ran or _EMPTY.fullmatch(self._sql, self._end) is None:
            raise InvalidQuery("one statement a call", field=self._field, rule="one_statement")
        self.ran = True
        self.columns = tuple(name[:_MAX_NAME] for name, *_ in cursor.get_description())
        if cursor.is_explain == 1 or (cursor.is_explain and self._guard.writes):
            raise RuleViolation("not_available", "EXPLAIN is not available; use explain_query", field=self._field)
        if self._guard.writes and not self._guard.written:
            raise RuleViolation("nothing_to_change", "this changes no rows; use run_sql to read", field=self._field)
        if not self._guard.writes and not cursor.is_readonly:
            raise RuleViolation("read_only", "this tool only reads", field=self._field)
        self._guard.running = self._guard.writes
        return True


def collect(
    found: Iterable[Sequence[Any]], columns: tuple[str, ...], *, stop_early: bool, extent: _Extent = _SHOWN
) -> tuple[list[list[Json]], bool]:
    """The rows that fit, and whether something is left out.

    Args:
        stop_early: leave the rest unread; a writing statement runs to its end all the same.
    """
    rows: list[list[Json]] = []
    size, full, any_cut = sum(map(len, columns)), False, False
    for values in found:
        row, cut = _plain(values, extent.cell)
        size += len(orjson.dumps(row))
        full = full or len(rows) == extent.rows or size > extent.size
        if full and stop_early:
            break
        if not full:
            rows.append(row)
            any_cut = any_cut or cut
    return rows, full or any_cut


def _plain(values: Sequence[Any], most: int) -> tuple[list[Json], bool]:
    """Values as JSON has them, and whether a text was cut."""
    row: list[Json] = []
    cut = False
    for value in values:
        if isinstance(value, bytes):
            value = f"<blob of {len(value)} bytes>"
        elif isinstance(value, float) and math.isinf(value):
            value = "Infinity" if value > 0 else "-Infinity"
        elif isinstance(value, str) and len(value) > most:
            value, cut = value[:most] + "...[cut]", True
        row.append(value)
    return row, cut
