"""What PostgreSQL says, as the errors that the database tools give over SQLite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from toolenv.tools.database.engine import Database
from toolenv.tools.database.postgres_schema import ServerSchema
from toolenv.tools.database.problems import no_column, short, unknown_table
from toolenv.tools.errors import InvalidQuery, NotFound, RuleViolation, SandboxLost, ToolError


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error of the server. `state` is its SQLSTATE; what it is about may be empty."""

    state: str
    message: str
    table: str
    column: str
    constraint: str


_NAME: Final = re.compile(r'(?:relation|column|function|reference) (?:"([^"]*)"|(\S+?))(?:\(| of | does| is|$)')
_NEAR: Final = re.compile(r'at or near "(.*)"', re.DOTALL)
_TOO_EXPENSIVE: Final = frozenset(("57014", "53200", "53400"))
_LOST: Final = ("08", "53", "57P", "58")
_DATATYPE: Final = frozenset(("22P02", "22003", "22007", "22008", "42804"))


def explain(complaint: Complaint, schema: ServerSchema, world: Database, sql: str, field: str) -> ToolError:
    """The error of a statement that PostgreSQL refused or ended.

    Raises:
        SandboxLost: the fault is the server's.
    """
    state, text = complaint.state, short(complaint.message)
    if state in _TOO_EXPENSIVE or state.startswith("54"):
        message = "the statement takes too many steps or too much memory; narrow it down"
        return RuleViolation("too_expensive", message, field=field)
    if state.startswith(_LOST) and state != "08P01":  # a parameter without a value
        raise SandboxLost(f"PostgreSQL: {text}")
    if state.startswith("23"):
        return _constraint(complaint, schema, field)
    if state in ("42P01", "42703", "42702", "42883"):
        return _name(complaint, world, sql, field)
    if state == "42601" and "multiple commands" in text:
        return InvalidQuery("one statement a call", field=field, rule="one_statement")
    if state == "42601" and (near := _NEAR.search(text)) is not None:
        return InvalidQuery(f'syntax error near "{near.group(1)}"', field=field, rule="syntax")
    if state == "42601" and "end of input" in text:
        return InvalidQuery("incomplete input", field=field, rule="sql")
    if state in ("42P02", "08P01"):
        message = "there are no parameters here; write the values into the statement"
        return InvalidQuery(message, field=field, rule="parameters")
    if state in ("42501", "25006"):
        return RuleViolation("not_available" if state == "42501" else "read_only", text, field=field)
    if state in ("22021", "22P05"):
        return InvalidQuery("a value is no text that can be shown", field=field, rule="text")
    if state in _DATATYPE and field != "sql":
        return RuleViolation("datatype", text, field=field)
    return InvalidQuery(text, field=field, rule="sql")


def _name(complaint: Complaint, world: Database, sql: str, field: str) -> ToolError:
    match = _NAME.search(complaint.message)
    name = (match.group(1) or match.group(2)) if match else ""
    if complaint.state == "42P01" and match:
        return unknown_table(name, world, field)
    if complaint.state == "42703" and match:
        return no_column(name, world, sql, field)
    if complaint.state == "42883" and complaint.message.startswith("function"):
        return NotFound(f"there is no function {short(name)}", field=field)
    if complaint.state == "42702" and match:
        message = f"more than one table has a column {name}; write its table before it"
        return InvalidQuery(message, field=field, rule="ambiguous")
    return InvalidQuery(short(complaint.message), field=field, rule="sql")


def _constraint(complaint: Complaint, schema: ServerSchema, field: str) -> ToolError:
    place = f"{complaint.table}.{complaint.column}"
    if complaint.state == "23502" and (complaint.table, complaint.column) in schema.nullable_keys:
        message = f"{place} is the primary key; give it a value"
        return RuleViolation("primary_key_required", message, field=field)
    known = ("not_null", place) if complaint.state == "23502" else ("constraint", short(complaint.message))
    rule, what = schema.rules.get(complaint.constraint, known)
    if rule == "size":
        return RuleViolation("too_large", "a text or blob is too large", field=field)
    message = {
        "unique": f"another row has the same {what}",
        "not_null": f"{what} must have a value",
        "foreign_key": "a row would refer to one that does not exist, or others refer to this one",
        "check": f"the condition {what} does not hold",
    }.get(rule, what)
    return RuleViolation(rule, message, field=field)
