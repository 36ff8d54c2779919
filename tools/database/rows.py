"""Rows: one by its id, some by conditions, and their change by id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from toolenv.tools.calls import Json
from toolenv.tools.database import sql
from toolenv.tools.database.arguments import Column, Page, RowId, Table, Values, Where, reads, writes
from toolenv.tools.database.engine import Database
from toolenv.tools.database.tables import find_column, find_table, key_column
from toolenv.tools.errors import NotFound, RuleViolation
from toolenv.tools.world import quoted

PAGE_SIZE: Final = 5

_CONDITION: Final = re.compile(r"(.+?)\s*(!=|<=|>=|=|<|>|\bcontains)?", re.DOTALL)
_NUMBERED: Final = re.compile(r"(.*?)([0-9]+)", re.DOTALL)


@reads
def get_row_by_id(world: Database, table: Table, id: RowId) -> dict[str, Json]:
    """Get a row by its primary key.

    Args:
        table: The table's name.
        id: The value of the table's primary key.
    """
    name = find_table(world, table)
    return _row(world, name, key_column(world, name), id)


@reads
def search_rows(
    world: Database,
    table: Table,
    where: Where | None = None,
    order_by: Column | None = None,
    descending: bool = False,
    page: Page = 1,
) -> dict[str, Json]:
    """Search the rows of a table that meet all conditions; five a page, and the total.

    Args:
        table: The table's name.
        where: Column -> value. A column may be followed by !=, <, <=, >, >= or contains, such as "amount >".
        order_by: The column by which rows are sorted; the primary key if left out.
        descending: True for the highest first.
        page: Which page of five rows.
    """
    name = find_table(world, table)
    condition, values = conditions(world, name, where or {})
    key = world.image.keys[name]
    sorted_by = [find_column(world, name, order_by, "order_by")] if order_by else key
    direction = " DESC NULLS LAST" if descending else " NULLS FIRST"
    order = ", ".join([quoted(column) + direction for column in sorted_by] + [quoted(k) for k in key])
    source = f"FROM {quoted(name)}{condition}"
    total = sql.read(world, f"SELECT count(*) {source}", values, field="where").rows[0][0]
    query = f"SELECT * {source} ORDER BY {order} LIMIT {PAGE_SIZE} OFFSET ?"
    found = sql.read(world, query, [*values, PAGE_SIZE * (page - 1)], field="where")
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    result = {"results": rows, "page": page, "pages": -(-total // PAGE_SIZE), "total": total}
    return {**result, "truncated": True} if found.truncated else result


@writes
def insert_row(world: Database, table: Table, values: Values) -> dict[str, Json]:
    """Insert a row into a table and show it. A primary key that is left out becomes the next free one.

    Args:
        table: The table's name.
        values: Column -> value.
    """
    name = find_table(world, table)
    columns = _columns(world, name, values)
    key = world.image.keys[name]
    if len(key) == 1 and columns.get(key[0]) is None:
        columns[key[0]] = _next_key(world, name, key[0])
    names = ", ".join(quoted(column) for column in columns)
    statement = f"INSERT INTO {quoted(name)} ({names}) VALUES ({', '.join('?' * len(columns))}) RETURNING *"
    found = sql.write(world, statement, list(columns.values()), field="values")
    return dict(zip(found.columns, found.rows[0], strict=True)) if found.rows else {"inserted": found.changed}


@writes
def update_row(world: Database, table: Table, id: RowId, values: Values) -> dict[str, Json]:
    """Change columns of the row with a primary key and show the row.

    Args:
        table: The table's name.
        id: The value of the table's primary key.
        values: Column -> new value; the primary key stays.
    """
    name = find_table(world, table)
    key = key_column(world, name)
    _row(world, name, key, id)
    columns = _columns(world, name, values)
    if not columns:
        raise RuleViolation("nothing_to_change", "give at least one column and its new value", field="values")
    if key in columns:
        raise RuleViolation("key_is_fixed", f"{key} is the primary key and stays as it is", field=f"values.{key}")
    changes = ", ".join(f"{quoted(column)} = ?" for column in columns)
    statement = f"UPDATE {quoted(name)} SET {changes} WHERE {quoted(key)} = ?"
    sql.write(world, statement, [*columns.values(), id], field="values")
    return _row(world, name, key, id)


@writes
def delete_row(world: Database, table: Table, id: RowId) -> dict[str, Json]:
    """Delete the row with a primary key, unless other rows refer to it.

    Args:
        table: The table's name.
        id: The value of the table's primary key.
    """
    name = find_table(world, table)
    key = key_column(world, name)
    _row(world, name, key, id)
    found = sql.write(world, f"DELETE FROM {quoted(name)} WHERE {quoted(key)} = ?", [id], field="id")
    return {"table": name, "id": id, "deleted": found.changed}


def conditions(world: Database, table: str, where: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """A WHERE clause with parameters, from `column operator` -> value.

    Raises:
        ToolError: a column that is not there, or a comparison with nothing.
    """
    parts, values = [], []
    for text, value in where.items():
        column, operator = _split(world, table, text)
        if operator == "contains":
            parts.append(sql.contains(world, quoted(column)))
            value = "%" + re.sub(r"([\\%_])", r"\\\1", str(value)) + "%"
        elif operator in ("=", "!="):
            parts.append(f"{quoted(column)} IS {'NOT ' * (operator == '=')}DISTINCT FROM ?")
        elif value is None:
            message = f"{operator} needs a value; = and != also take null"
            raise RuleViolation("value_required", message, field=f"where.{_shown(text)}")
        else:
            parts.append(f"{quoted(column)} {operator} ?")
        values.append(value)
    return (" WHERE " + " AND ".join(parts) if parts else ""), values


def _split(world: Database, table: str, text: str) -> tuple[str, str]:
    """Column and operator of a condition's name; a column that is called like a condition goes first."""
    if text in world.image.columns[table]:
        return text, "="
    match = _CONDITION.fullmatch(text.strip())
    name, operator = match.groups() if match else (text, None)
    return find_column(world, table, name, f"where.{_shown(text)}"), operator or "="


def _columns(world: Database, table: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the columns' names as the schema writes them."""
    return {find_column(world, table, name, f"values.{_shown(name)}"): value for name, value in values.items()}


def _row(world: Database, table: str, key: str, id: str | int) -> dict[str, Json]:
    found = sql.read(world, f"SELECT * FROM {quoted(table)} WHERE {quoted(key)} = ?", [id], field="id")
    if not found.rows and found.truncated:
        raise RuleViolation("too_large", "the row is too large to be shown; select columns with run_sql", field="id")
    if not found.rows:
        raise NotFound(f"{table} has no row with the {key} {_shown(str(id))}", field="id")
    return dict(zip(found.columns, found.rows[0], strict=True))


def _next_key(world: Database, table: str, key: str) -> str | int | None:
    """The key after the highest; None, which SQLite fills in for an integer key, where keys are not numbered."""
    highest = sql.read(world, f"SELECT max({quoted(key)}) FROM {quoted(table)}", field="values").rows[0][0]
    if isinstance(highest, str) and (match := _NUMBERED.fullmatch(highest)) is not None:
        prefix, digits = match.groups()
        return f"{prefix}{int(digits) + 1:0{len(digits)}d}"
    return None


def _shown(text: str) -> str:
    return text[:100].encode("utf-8", "backslashreplace").decode()
