"""Rows as CSV files: many more than a result can show, for code to read.

An export has all rows or is refused: code that works on part of the rows would be wrong in silence. A missing value is
an empty field. The workspace lies in the world, so there are exports from worlds in this process only.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Final

from toolenv.tools.calls import WORK, Json
from toolenv.tools.database import sql as statements
from toolenv.tools.database.arguments import Sql, Table, Where
from toolenv.tools.database.rows import conditions
from toolenv.tools.database.tables import find_table
from toolenv.tools.declaration import tool
from toolenv.tools.errors import DeclarationError, RuleViolation
from toolenv.tools.interpreter import workspace
from toolenv.tools.interpreter.arguments import Path
from toolenv.tools.world import World, quoted

FAMILY: Final = "exchange"
MAX_ROWS: Final = 2_000
MAX_BYTES: Final = 200_000
"""Of the rows as JSON."""

works = tool(effect=WORK, family=FAMILY)


@works
def export_query(world: World, sql: Sql, path: Path) -> dict[str, Json]:
    """Run one SELECT statement and write all its rows, at most 2000, to a CSV file of the workspace.

    Args:
        sql: The statement, in SQLite's SQL.
        path: The file's path, such as orders.csv.
    """
    return _export(world, sql, (), path, "sql")


@works
def export_table(world: World, table: Table, path: Path, where: Where | None = None) -> dict[str, Json]:
    """Write a table's rows, at most 2000, all or those that meet conditions, to a CSV file of the workspace.

    Args:
        table: The table's name.
        path: The file's path, such as orders.csv.
        where: Column -> value. A column may be followed by !=, <, <=, >, >= or contains, such as "amount >".
    """
    name = find_table(world, table)
    condition, values = conditions(world, name, where or {})
    order = ", ".join(map(quoted, world.image.keys[name])) or "1"
    return _export(world, f"SELECT * FROM {quoted(name)}{condition} ORDER BY {order}", values, path, "where")


def _export(world: World, sql: str, parameters: Sequence[Any], path: str, field: str) -> dict[str, Json]:
    if "_files" not in world.image.columns:
        raise DeclarationError("this world has no workspace: a toolbox with exports needs the interpreter as well")
    found = statements.extract(world, sql, parameters, rows=MAX_ROWS, size=MAX_BYTES, field=field)
    if found.truncated:
        message = f"an export is at most {MAX_ROWS} rows and {MAX_BYTES} bytes; select fewer rows or columns"
        raise RuleViolation("export_too_large", message, field=field)
    text = "".join(map(_line, (found.columns, *found.rows)))
    return {"path": workspace.write(world, path, text), "rows": len(found.rows)}


def _line(values: Sequence[Any]) -> str:
    """A line of CSV that ends in a newline."""
    # Only characters of the line's end are quoted where they stand in a text: with "\n" alone a "\r" would not be.
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return f"{text.getvalue()[:-2]}\n"
