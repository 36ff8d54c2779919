"""The exchange tools: whole exports or none, confined like every query of the agent's own."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.tools.calls import ToolResult
from toolenv.tools.database.sql import MAX_CELL
from toolenv.tools.database.sql import MAX_ROWS as SHOWN_ROWS
from toolenv.tools.errors import DeclarationError
from toolenv.tools.exchange.exports import MAX_BYTES, MAX_ROWS
from toolenv.tools.interpreter import workspace
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import World, WorldImage, open_connection

TOOLBOX = Toolbox.of_families("database", "interpreter", "exchange")


def world_of(script: str) -> World:
    connection = open_connection()
    connection.execute(script)
    return workspace.added_to(WorldImage.of_connection(connection)).open()


@pytest.fixture
def world() -> World:
    return world_of(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT, total REAL);"
        "INSERT INTO orders VALUES (2, 'Bonn, \"am Rhein\"', 2.5), (1, NULL, 10), (3, 'Köln', 0.1)"
    )


def call(world: World, tool: str, **arguments: Any) -> ToolResult:
    return TOOLBOX.dispatch(world, tool, arguments)


def rows_of(world: World, path: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(workspace.read(world, path))))


def test_a_query_becomes_a_file(world: World) -> None:
    result = call(world, "export_query", sql="SELECT id, city FROM orders ORDER BY id", path="./out.csv")
    assert result.ok
    assert result.content == {"path": "out.csv", "rows": 3}
    assert workspace.read(world, "out.csv") == 'id,city\n1,\n2,"Bonn, ""am Rhein"""\n3,Köln\n'


def test_a_table_becomes_a_file_in_the_order_of_its_key(world: World) -> None:
    assert call(world, "export_table", table="Orders", path="a.csv").content == {"path": "a.csv", "rows": 3}
    assert [row[0] for row in rows_of(world, "a.csv")] == ["id", "1", "2", "3"]
    assert call(world, "export_table", table="orders", path="a.csv", where={"total >": 1}).content["rows"] == 2
    assert [row[0] for row in rows_of(world, "a.csv")] == ["id", "1", "2"]


def test_an_export_may_be_larger_than_what_a_result_shows() -> None:
    rows = MAX_ROWS
    world = world_of(
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT);"
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
        f" INSERT INTO t SELECT i, iif(i = 1, printf('%.*c', {3 * MAX_CELL}, 'x'), '') FROM n"
    )
    assert rows > SHOWN_ROWS
    assert call(world, "export_table", table="t", path="t.csv").ok
    exported = rows_of(world, "t.csv")
    assert len(exported) == rows + 1
    assert exported[1][1] == "x" * (3 * MAX_CELL), "texts are whole"
    shown = call(world, "run_sql", sql="SELECT * FROM t")
    assert isinstance(shown.content, dict)
    assert len(shown.content["rows"]) <= SHOWN_ROWS


@pytest.mark.parametrize(
    "sql",
    [
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= {MAX_ROWS}) SELECT i FROM n",
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
        f" SELECT printf('%.*c', {MAX_BYTES // 1000}, 'x') FROM n",
    ],
)
def test_what_is_too_large_is_refused_and_nothing_is_written(world: World, sql: str) -> None:
    result = call(world, "export_query", sql=sql, path="out.csv")
    assert not result.ok
    assert result.error == "rule_violation"
    assert "select fewer" in result.text
    assert workspace.all_files(world) == {}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"sql": "DELETE FROM orders", "path": "a.csv"}, "sql"),
        ({"sql": "SELECT * FROM order", "path": "a.csv"}, "sql"),
        ({"sql": "SELECT * FROM _files", "path": "a.csv"}, "sql"),
        ({"sql": "SELECT 1; SELECT 2", "path": "a.csv"}, "sql"),
        ({"sql": "SELECT 1", "path": "../a.csv"}, "path"),
        ({"sql": "SELECT 1", "path": "/etc/passwd"}, "path"),
    ],
)
def test_what_is_wrong_names_its_field(world: World, arguments: dict[str, str], field: str) -> None:
    digest = world.digest()
    result = call(world, "export_query", **arguments)
    assert not result.ok
    assert f'"field":"{field}"' in result.text
    assert world.digest() == digest


@pytest.mark.parametrize("table", ["_files", "_cells", "order"])
def test_only_tables_that_are_shown_are_exported(world: World, table: str) -> None:
    result = call(world, "export_table", table=table, path="a.csv")
    assert result.error == "not_found"


def test_without_a_workspace_it_is_the_operators_error() -> None:
    connection = open_connection()
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    with pytest.raises(DeclarationError, match="workspace"):
        call(WorldImage.of_connection(connection).open(), "export_query", sql="SELECT 1", path="a.csv")


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
            st.integers(-(2**53), 2**53),
        ),
        max_size=5,
    )
)
def test_values_come_back_from_the_file_as_they_were(rows: list[tuple[str, int]]) -> None:
    world = world_of("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT NOT NULL, number INTEGER NOT NULL)")
    for number, row in enumerate(rows):
        world.execute("INSERT INTO t VALUES (?, ?, ?)", (number, *row))
    assert call(world, "export_query", sql="SELECT text, number FROM t ORDER BY id", path="t.csv").ok
    text = workspace.read(world, "t.csv")
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["text", "number"], *([t, str(n)] for t, n in rows)]
