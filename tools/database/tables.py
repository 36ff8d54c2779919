"""The schema: which tables there are, and which columns they have."""

from __future__ import annotations

from toolenv.tools.calls import Json
from toolenv.tools.database import sql
from toolenv.tools.database.arguments import Table, reads
from toolenv.tools.database.engine import Database
from toolenv.tools.database.problems import unknown_column, unknown_table
from toolenv.tools.errors import RuleViolation
from toolenv.tools.world import quoted


@reads
def list_tables(world: Database) -> dict[str, Json]:
    """List the tables of the database with how many rows each has."""
    return {"tables": [{"name": table, "rows": _count(world, table)} for table in world.image.shown]}


@reads
def describe_table(world: Database, table: Table) -> dict[str, Json]:
    """Describe a table: its columns with their types, its primary key, and the columns that refer to other tables.

    Args:
        table: The table's name.
    """
    name = find_table(world, table)
    # Trusted text, so outside the limits of `sql.read`, which allows no PRAGMA.
    links = sql.schema(world).all('SELECT "from", "table", "to" FROM pragma_foreign_key_list(?)', (name,))
    targets = {link["from"].lower(): f"{link['table']}.{link['to'] or _key_of(world, link['table'])}" for link in links}
    columns = []
    for column in sql.schema(world).all('SELECT name, type, "notnull" FROM pragma_table_info(?)', (name,)):
        described = {"name": column["name"], "type": column["type"]}
        if (target := targets.get(column["name"].lower())) is not None:
            described["references"] = target
        columns.append(described)
    return {
        "table": name,
        "rows": _count(world, name),
        "primary_key": list(world.image.keys[name]),
        "columns": columns,
    }


def find_table(world: Database, name: str) -> str:
    """A table's name as the schema writes it.

    Raises:
        NotFound: there is no such table.
    """
    if name in world.image.shown:
        return name
    for table in world.image.shown:
        if table.lower() == name.lower():
            return table
    raise unknown_table(name, world, "table")


def find_column(world: Database, table: str, name: str, field: str) -> str:
    """A column's name as the schema writes it.

    Raises:
        NotFound: the table has no such column.
    """
    columns = world.image.columns[table]
    if name in columns:
        return name
    for column in columns:
        if column.lower() == name.lower():
            return column
    raise unknown_column(name, table, columns, field)


def key_column(world: Database, table: str) -> str:
    """The one column of a table's primary key.

    Raises:
        RuleViolation: the key has several columns, so that no single id names a row.
    """
    key = world.image.keys[table]
    if len(key) > 1:
        message = f"the key of {table} is {', '.join(key)}; use search_rows, run_sql or execute_sql with all of them"
        raise RuleViolation("composite_key", message, field="table")
    return key[0]


def _key_of(world: Database, table: str) -> str:
    found = next((key for name, key in world.image.keys.items() if name.lower() == table.lower()), ("?",))
    return found[0]


def _count(world: Database, table: str) -> int:
    count: int = sql.read(world, f"SELECT count(*) FROM {quoted(table)}", field="table").rows[0][0]
    return count
