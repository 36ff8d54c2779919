"""The database family: look at a SQLite database whatever its schema is, query it, and change its rows.

Several tools serve the same question on purpose (a row by its id, a search, an aggregate, a query of one's own), so
that a router has something to learn. SQL that an agent wrote runs confined: see `sql.py`. The tables' schema can not be
changed. The order of the imports is the toolbox's order.
"""

# isort: off
from toolenv.tools.database.arguments import IDENTIFIERS
from toolenv.tools.database.tables import list_tables, describe_table
from toolenv.tools.database.rows import get_row_by_id, search_rows
from toolenv.tools.database.queries import aggregate, run_sql, explain_query
from toolenv.tools.database.rows import insert_row, update_row, delete_row
from toolenv.tools.database.queries import execute_sql

# isort: on

__all__ = [
    "IDENTIFIERS",
    "aggregate",
    "delete_row",
    "describe_table",
    "execute_sql",
    "explain_query",
    "get_row_by_id",
    "insert_row",
    "list_tables",
    "run_sql",
    "search_rows",
    "update_row",
]
