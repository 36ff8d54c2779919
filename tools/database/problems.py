"""What SQLite says, as errors that an agent can learn from: the name that is wrong, and those that are near it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Final

import apsw

from toolenv.tools.database.engine import Database
from toolenv.tools.errors import InvalidQuery, NotFound, RuleViolation, ToolError

_MAX_MESSAGE: Final = 300
_MAX_NAMES: Final = 30
_WORD: Final = re.compile(r"\w+")
_ROW_WRITES: Final = (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE)


def refusal(action: int, first: str | None, second: str | None, *, writes: bool, field: str) -> RuleViolation:
    """The error for what the authorizer did not allow: `action` and two details of it, as SQLite names them."""
    if action in _ROW_WRITES and not writes and not str(first).startswith("sqlite_"):
        message = "this tool only reads; change rows with insert_row, update_row, delete_row or execute_sql"
        return RuleViolation("read_only", message, field=field)
    if action == apsw.SQLITE_FUNCTION:
        message = f"the function {short(str(second))} is not available"
    elif action == apsw.SQLITE_PRAGMA:
        message = "PRAGMA is not available; list_tables and describe_table show the schema"
    elif action in (apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT):
        message = "each call is a transaction of its own; leave out BEGIN, COMMIT and the like"
    elif action in (apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH):
        message = "other databases are not available"
    elif action == apsw.SQLITE_READ:
        message = f"the table {short(str(first))} is not available"
    else:
        message = "the schema can not be changed"
    return RuleViolation("not_available", message, field=field)


def explain(error: Exception, world: Database, sql: str, field: str) -> ToolError:
    """The error of a statement that SQLite refused or ended."""
    if isinstance(error, apsw.InterruptError | apsw.NoMemError | MemoryError):
        message = "the statement takes too many steps or too much memory; narrow it down"
        return RuleViolation("too_expensive", message, field=field)
    if isinstance(error, apsw.TooBigError):
        return RuleViolation("too_large", "a text or blob is too large", field=field)
    if isinstance(error, apsw.ConstraintError):
        return _constraint(error, field)
    if isinstance(error, apsw.BindingsError):
        message = "there are no parameters here; write the values into the statement"
        return InvalidQuery(message, field=field, rule="parameters")
    if isinstance(error, UnicodeError):
        return InvalidQuery("a value is no text that can be shown", field=field, rule="text")
    text = short(str(error))
    for pattern, build in _KNOWN:
        if (match := pattern.search(text)) is not None:
            return build(match.group(1), world, sql, field)
    return InvalidQuery(text, field=field, rule="sql")


def unknown_table(name: str, world: Database, field: str) -> NotFound:
    """The error for a table that does not exist."""
    tables = world.image.shown
    return NotFound(f"there is no table {short(name)}; {_nearest(name, tables, 'there are')}", field=field)


def unknown_column(name: str, table: str, columns: Iterable[str], field: str) -> NotFound:
    """The error for a column that a table does not have."""
    return NotFound(f"{table} has no column {short(name)}; {_nearest(name, columns, 'it has')}", field=field)


def _constraint(error: Exception, field: str) -> RuleViolation:
    code = getattr(error, "extendedresult", 0)
    rule = _CONSTRAINTS.get(code, "constraint")
    text = short(str(error)).removesuffix(" constraint failed")
    what = text.partition("constraint failed: ")[2]
    message = {
        "unique": f"another row has the same {what}",
        "not_null": f"{what} must have a value",
        "foreign_key": "a row would refer to one that does not exist, or others refer to this one",
        "check": f"the condition {what} does not hold",
    }.get(rule, text)
    return RuleViolation(rule, message, field=field)


_CONSTRAINTS: Final = {
    apsw.SQLITE_CONSTRAINT_UNIQUE: "unique",
    apsw.SQLITE_CONSTRAINT_PRIMARYKEY: "unique",
    apsw.SQLITE_CONSTRAINT_ROWID: "unique",
    apsw.SQLITE_CONSTRAINT_NOTNULL: "not_null",
    apsw.SQLITE_CONSTRAINT_FOREIGNKEY: "foreign_key",
    apsw.SQLITE_CONSTRAINT_CHECK: "check",
    apsw.SQLITE_CONSTRAINT_DATATYPE: "datatype",
    apsw.SQLITE_CONSTRAINT_TRIGGER: "trigger",
}


def _no_table(name: str, world: Database, sql: str, field: str) -> ToolError:
    return unknown_table(name.removeprefix("main."), world, field)


def no_column(name: str, world: Database, sql: str, field: str) -> ToolError:
    """Names the columns of the tables that the statement speaks of."""
    words = {word.lower() for word in _WORD.findall(sql)}
    tables = {table: columns for table, columns in world.image.shown.items() if table.lower() in words}
    wanted = name.rpartition(".")[2]
    known = sorted({column for columns in tables.values() for column in columns})
    where = f"{', '.join(sorted(tables))} {'has' if len(tables) == 1 else 'have'}" if tables else "the tables have"
    return NotFound(f"there is no column {name}; {_nearest(wanted, known, where)}", field=field)


def _no_function(name: str, world: Database, sql: str, field: str) -> ToolError:
    return NotFound(f"there is no function {name}", field=field)


def _syntax(near: str, world: Database, sql: str, field: str) -> ToolError:
    return InvalidQuery(f'syntax error near "{near}"', field=field, rule="syntax")


def _ambiguous(name: str, world: Database, sql: str, field: str) -> ToolError:
    message = f"more than one table has a column {name}; write its table before it"
    return InvalidQuery(message, field=field, rule="ambiguous")


_KNOWN: Final[tuple[tuple[re.Pattern[str], Callable[[str, Database, str, str], ToolError]], ...]] = (
    (re.compile(r"^no such table: (.+)", re.DOTALL), _no_table),
    (re.compile(r"^no such column: (.+)", re.DOTALL), no_column),
    (re.compile(r"^table .+ has no column named (.+)", re.DOTALL), no_column),
    (re.compile(r"^no such function: (.+)", re.DOTALL), _no_function),
    (re.compile(r'^near "(.*)": syntax error', re.DOTALL), _syntax),
    (re.compile(r"^ambiguous column name: (.+)", re.DOTALL), _ambiguous),
)


def _nearest(name: str, known: Iterable[str], introduction: str) -> str:
    """Which name was meant, and which there are."""
    names = list(known)
    near = difflib.get_close_matches(name.lower()[:100], {known.lower(): known for known in names}, n=1)
    meant = {known.lower(): known for known in names}[near[0]] if near else None
    listed = ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
    return (f"did you mean {meant}? " if meant else "") + (f"{introduction} {listed}" if names else "there is none")


def short(text: str) -> str:
    """At most _MAX_MESSAGE characters that can be shown."""
    return text[:_MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()
