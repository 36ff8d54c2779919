"""Questions over many rows, and SQL of the agent's own."""

from __future__ import annotations

from toolenv.tools.calls import Json
from toolenv.tools.database import sql as statements
from toolenv.tools.database.arguments import Column, Function, Sql, Table, Where, reads, writes
from toolenv.tools.database.engine import Database
from toolenv.tools.database.rows import conditions
from toolenv.tools.database.tables import find_column, find_table
from toolenv.tools.errors import RuleViolation
from toolenv.tools.world import quoted


@reads
def aggregate(
    world: Database,
    table: Table,
    function: Function,
    column: Column | None = None,
    where: Where | None = None,
    group_by: Column | None = None,
) -> dict[str, Json]:
    """Count rows of a table, or sum, average or find the least or greatest value of a column, per group if wanted.

    Args:
        table: The table's name.
        function: What is computed.
        column: The column; of count it may be left out.
        where: Column -> value. A column may be followed by !=, <, <=, >, >= or contains, such as "amount >".
        group_by: One value for each value of this column, the greatest first.
    """
    name = find_table(world, table)
    condition, values = conditions(world, name, where or {})
    if column is not None:
        expression = f"{function}({quoted(find_column(world, name, column, 'column'))})"
    elif function == "count":
        expression = "count(*)"
    else:
        raise RuleViolation("column_required", f"{function} needs a column", field="column")
    if group_by is None:
        found = statements.read(world, f"SELECT {expression} FROM {quoted(name)}{condition}", values, field="where")
        return {"value": found.rows[0][0]}
    group = quoted(find_column(world, name, group_by, "group_by"))
    order = "2 DESC NULLS LAST, 1 NULLS FIRST"
    query = f"SELECT {group}, {expression} FROM {quoted(name)}{condition} GROUP BY 1 ORDER BY {order}"
    found = statements.read(world, query, values, field="where")
    result: dict[str, Json] = {"groups": [{"group": key, "value": value} for key, value in found.rows]}
    return {**result, "truncated": True} if found.truncated else result


@reads
def run_sql(world: Database, sql: Sql) -> dict[str, Json]:
    """Run one SELECT statement in SQLite's SQL; shows at most 50 rows.

    Args:
        sql: The statement.
    """
    found = statements.read(world, sql)
    return {"columns": list(found.columns), "rows": found.rows, "truncated": found.truncated}


@reads
def explain_query(world: Database, sql: Sql) -> dict[str, Json]:
    """Show how SQLite would carry out a SELECT statement, without running it.

    Args:
        sql: The statement.
    """
    lines, truncated = statements.plan(world, sql)
    return {"plan": lines, "truncated": truncated}


@writes
def execute_sql(world: Database, sql: Sql) -> dict[str, Json]:
    """Run one INSERT, UPDATE or DELETE statement in SQLite's SQL and tell how many rows it changed.

    Args:
        sql: The statement.
    """
    return {"changed_rows": statements.write(world, sql).changed}
