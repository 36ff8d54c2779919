"""The database tools: what each gives and changes, what they refuse, and what hostile SQL can not do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.scenarios.business import business_population
from toolenv.tools.calls import ToolResult
from toolenv.tools.database import sql as statements
from toolenv.tools.declaration import Tool
from toolenv.tools.errors import AGENT_ERRORS, ToolError
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import World, WorldImage, open_connection

TOOLBOX = Toolbox.of_families("database")
IMAGE = business_population(0)

# Names that need quotes, a key of two columns, a key that may be NULL, a deferred link, a table without rows.
ODD_SCHEMA = """
CREATE TABLE "Order ""x"" Details" ("Order Id" INTEGER, "Line No" INTEGER, "select" TEXT, "amount >" REAL,
  PRIMARY KEY ("Order Id", "Line No"));
CREATE TABLE parents (code TEXT PRIMARY KEY, name TEXT);
CREATE TABLE children (id INTEGER PRIMARY KEY AUTOINCREMENT, parent TEXT
  REFERENCES parents DEFERRABLE INITIALLY DEFERRED, note TEXT, photo BLOB);
CREATE TABLE strict_ones (id INTEGER PRIMARY KEY, name TEXT UNIQUE ON CONFLICT ROLLBACK, n INTEGER CHECK (n < 10))
  STRICT;
CREATE TRIGGER loud AFTER DELETE ON parents WHEN old.code = 'loud' BEGIN SELECT RAISE(ROLLBACK, 'too loud'); END;
CREATE VIEW names AS SELECT name FROM parents;
INSERT INTO "Order ""x"" Details" VALUES (1, 1, 'a', 2.5), (1, 2, 'b', 3.5);
INSERT INTO parents VALUES ('P-009', 'first'), ('loud', 'second');
INSERT INTO children (parent, note, photo) VALUES ('P-009', 'hello', x'00ff'), (NULL, 'alone', NULL);
INSERT INTO strict_ones VALUES (1, 'one', 1);
"""
ODD_TABLE = 'Order "x" Details'


def _odd_image() -> WorldImage:
    connection = open_connection()
    connection.execute(ODD_SCHEMA)
    return WorldImage.of_connection(connection, "odd")


ODD_IMAGE = _odd_image()


@pytest.fixture
def world() -> Iterator[World]:
    world = IMAGE.open()
    yield world
    world.close()


@pytest.fixture
def odd() -> Iterator[World]:
    world = ODD_IMAGE.open()
    yield world
    world.close()


def call(world: World, tool: str, /, **arguments: Any) -> ToolResult:
    return TOOLBOX.dispatch(world, tool, arguments)


def ok(world: World, tool: str, /, **arguments: Any) -> Any:
    result = call(world, tool, **arguments)
    assert result.ok, result.text
    return result.content


def error(world: World, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The error of a call that must fail and change nothing."""
    before = world.digest()
    result = call(world, tool, **arguments)
    assert not result.ok, result.text
    assert world.digest() == before
    found: dict[str, Any] = result.content["error"]
    assert found["type"] in AGENT_ERRORS
    return found


# -- what each tool gives -------------------------------------------------------------------------------


def test_the_order_of_the_toolbox() -> None:
    assert TOOLBOX.names == (
        *("list_tables", "describe_table", "get_row_by_id", "search_rows", "aggregate", "run_sql", "explain_query"),
        *("insert_row", "update_row", "delete_row", "execute_sql"),
    )
    assert [tool.name for tool in TOOLBOX if tool.writes] == ["insert_row", "update_row", "delete_row", "execute_sql"]


def test_tables_are_listed_with_their_rows(world: World) -> None:
    tables = {table["name"]: table["rows"] for table in ok(world, "list_tables")["tables"]}
    assert len(tables) >= 8
    assert tables == {name: world.value(f"SELECT count(*) FROM {name}") for name in IMAGE.columns}


def test_a_table_is_described(world: World) -> None:
    found = ok(world, "describe_table", table="expenses")
    assert found["primary_key"] == ["id"]
    assert found["rows"] == world.value("SELECT count(*) FROM expenses")
    columns = {column["name"]: column for column in found["columns"]}
    assert tuple(columns) == IMAGE.columns["expenses"]
    assert columns["employee_id"]["references"] == "employees.id"
    assert columns["amount"] == {"name": "amount", "type": "INTEGER"}


def test_a_row_by_its_id(world: World) -> None:
    row = world.one("SELECT * FROM projects")
    assert row is not None
    assert ok(world, "get_row_by_id", table="projects", id=row["id"]) == row
    assert ok(world, "get_row_by_id", table="PROJECTS", id=row["id"]) == row


CONDITIONS: dict[str, tuple[dict[str, Any], str]] = {
    "equality": ({"status": "active"}, "status = 'active'"),
    "another case": ({"STATUS": "active"}, "status = 'active'"),
    "inequality": ({"status !=": "active"}, "status <> 'active'"),
    "less": ({"salary <": 50_000}, "salary < 50000"),
    "at most, without a blank": ({"salary<=": 50_000}, "salary <= 50000"),
    "more": ({"salary >": 50_000}, "salary > 50000"),
    "at least": ({"salary >=": 50_000}, "salary >= 50000"),
    "contains": ({"name contains": "son"}, "name LIKE '%son%'"),
    "a wildcard is a letter": ({"name contains": "%"}, "false"),
    "nothing": ({"manager_id": None}, "manager_id IS NULL"),
    "something": ({"manager_id !=": None}, "manager_id IS NOT NULL"),
    "two": ({"status": "active", "salary >": 50_000}, "status = 'active' AND salary > 50000"),
    "a quote": ({"name": "'; DROP TABLE employees; --"}, "false"),
    "none": ({}, "true"),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions(world: World, name: str) -> None:
    where, sql = CONDITIONS[name]
    expected = world.all(f"SELECT * FROM employees WHERE {sql} ORDER BY id")
    found = ok(world, "search_rows", table="employees", where=where)
    assert found["results"] == expected[:5]
    assert found["total"] == len(expected)
    assert found["pages"] == -(-len(expected) // 5)
    assert ok(world, "aggregate", table="employees", function="count", where=where) == {"value": len(expected)}


def test_a_sorted_search_and_its_pages(world: World) -> None:
    expected = world.all("SELECT * FROM expenses ORDER BY amount DESC, id")
    search = {"table": "expenses", "order_by": "amount", "descending": True}
    pages = ok(world, "search_rows", **search)["pages"]
    found = [row for page in range(1, pages + 1) for row in ok(world, "search_rows", **search, page=page)["results"]]
    assert found == expected
    assert ok(world, "search_rows", **search, page=pages + 1)["results"] == []


@pytest.mark.parametrize("function", ["count", "sum", "avg", "min", "max"])
def test_aggregates(world: World, function: str) -> None:
    assert ok(world, "aggregate", table="expenses", function=function, column="amount") == {
        "value": world.value(f"SELECT {function}(amount) FROM expenses")
    }
    groups = ok(world, "aggregate", table="expenses", function=function, column="amount", group_by="status")["groups"]
    sql = f'SELECT status AS "group", {function}(amount) AS value FROM expenses GROUP BY 1 ORDER BY 2 DESC, 1'
    assert groups == world.all(sql)


def test_a_query(world: World) -> None:
    sql = "SELECT d.name, count(*) AS n FROM employees e JOIN departments d ON d.id = department_id GROUP BY 1;"
    found = ok(world, "run_sql", sql=sql)
    assert found["columns"] == ["name", "n"]
    assert [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]] == world.all(sql)
    assert found["truncated"] is False


def test_a_query_without_rows_still_names_its_columns(world: World) -> None:
    found = ok(world, "run_sql", sql="SELECT id, name FROM employees WHERE false")
    assert found == {"columns": ["id", "name"], "rows": [], "truncated": False}


def test_a_plan_tells_whether_an_index_serves(world: World) -> None:
    by_id = ok(world, "explain_query", sql="SELECT * FROM employees WHERE id = 'EMP-0001'")["plan"]
    assert "SEARCH" in by_id[0]
    assert "SCAN" in ok(world, "explain_query", sql="SELECT * FROM employees WHERE salary > 1")["plan"][0]


def test_values_that_json_has_not_are_told_in_words(odd: World) -> None:
    assert ok(odd, "get_row_by_id", table="children", id=1)["photo"] == "<blob of 2 bytes>"
    assert ok(odd, "run_sql", sql="SELECT 9e999, -9e999")["rows"] == [["Infinity", "-Infinity"]]


def test_the_clock_stands_still(world: World) -> None:
    sql = "SELECT date('now'), current_timestamp, datetime(), unixepoch('now')"
    assert ok(world, "run_sql", sql=sql)["rows"] == [
        ["2026-03-15", "2026-03-15 12:00:00", "2026-03-15 12:00:00", 1773576000]
    ]


# -- what each write changes ----------------------------------------------------------------------------


def changed(world: World) -> list[tuple[str, str, dict[str, Any]]]:
    return [(change.op, change.table, change.after) for change in world.diff()]


def test_a_row_is_updated(world: World) -> None:
    key = world.value("SELECT id FROM expenses WHERE status = 'submitted'")
    row = ok(world, "update_row", table="expenses", id=key, values={"status": "approved"})
    assert row == world.one("SELECT * FROM expenses WHERE id = ?", (key,))
    assert changed(world) == [("update", "expenses", {"status": "approved"})]


def test_a_row_is_deleted(world: World) -> None:
    key = world.value("SELECT id FROM expenses")
    assert ok(world, "delete_row", table="expenses", id=key) == {"table": "expenses", "id": key, "deleted": 1}
    assert changed(world) == [("delete", "expenses", {})]


def test_a_row_is_inserted_under_the_next_key(world: World) -> None:
    highest = world.value("SELECT max(id) FROM vendors")
    row = ok(world, "insert_row", table="vendors", values={"name": "New", "city": "X", "rating": 3, "status": "active"})
    assert row["id"] == f"VEN-{int(highest[4:]) + 1:04d}"
    assert changed(world) == [("insert", "vendors", row)]


def test_keys_of_other_forms(odd: World) -> None:
    assert ok(odd, "insert_row", table="children", values={"note": "x"})["id"] == 3
    assert ok(odd, "insert_row", table="parents", values={"name": "x", "code": "zz"})["code"] == "zz"
    assert error(odd, "insert_row", table="parents", values={"name": "y"})["rule"] == "primary_key_required"


def test_a_writing_statement_tells_how_many_rows_it_changed(world: World) -> None:
    expected = world.value("SELECT count(*) FROM expenses WHERE status = 'paid'")
    sql = "UPDATE expenses SET status = 'approved' WHERE status = 'paid' RETURNING id"
    assert ok(world, "execute_sql", sql=sql) == {"changed_rows": expected}
    assert len(world.diff()) == expected
    assert ok(world, "execute_sql", sql="DELETE FROM expenses WHERE false") == {"changed_rows": 0}


def test_a_writing_statement_returns_all_it_changed_beyond_the_limit_of_rows(world: World) -> None:
    rows = world.value("SELECT count(*) FROM time_entries")
    assert rows > statements.MAX_ROWS
    found = ok(world, "execute_sql", sql="UPDATE time_entries SET hours = 1.0 RETURNING *")
    assert found == {"changed_rows": rows}
    assert world.value("SELECT sum(hours) FROM time_entries") == rows


def test_names_that_need_quotes(odd: World) -> None:
    assert ok(odd, "describe_table", table=ODD_TABLE)["primary_key"] == ["Order Id", "Line No"]
    assert ok(odd, "search_rows", table=ODD_TABLE, where={"amount >": 3.5})["total"] == 1, "a column of that name"
    assert ok(odd, "search_rows", table=ODD_TABLE, where={"amount > >=": 3.5})["total"] == 1
    assert ok(odd, "search_rows", table=ODD_TABLE, where={"select": "a"})["total"] == 1
    values = {"Order Id": 2, "Line No": 1, "select": "c"}
    assert ok(odd, "insert_row", table=ODD_TABLE, values=values)["select"] == "c"
    assert error(odd, "get_row_by_id", table=ODD_TABLE, id=1)["rule"] == "composite_key"
    ok(odd, "execute_sql", sql='DELETE FROM "Order ""x"" Details" WHERE "Line No" = 2')
    assert [change.op for change in odd.diff()] == ["delete", "insert"]
    assert odd.fork().digest() == odd.digest()


def test_views_can_be_read_and_not_written(odd: World) -> None:
    assert ok(odd, "run_sql", sql="SELECT * FROM names")["rows"] == [["first"], ["second"]]
    error(odd, "execute_sql", sql="DELETE FROM names")


# -- errors teach ---------------------------------------------------------------------------------------

ERRORS: dict[str, tuple[str, dict[str, Any], str, str, str]] = {
    "unknown table": (
        "get_row_by_id",
        {"table": "employes", "id": "x"},
        "not_found",
        "table",
        "did you mean employees?",
    ),
    "unknown id": ("get_row_by_id", {"table": "employees", "id": "EMP-0000"}, "not_found", "id", "no row with the id"),
    "unknown column of a condition": (
        *("search_rows", {"table": "employees", "where": {"salery >": 1}}, "not_found", "where.salery >"),
        "did you mean salary?",
    ),
    "unknown column to sort by": (
        *("search_rows", {"table": "employees", "order_by": "pay"}, "not_found", "order_by"),
        "it has id, name, email",
    ),
    "comparison with nothing": (
        *("search_rows", {"table": "employees", "where": {"salary >": None}}, "rule_violation"),
        *("where.salary >", "needs a value"),
    ),
    "sum of nothing": ("aggregate", {"table": "expenses", "function": "sum"}, "rule_violation", "column", "needs a"),
    "unknown column in SQL": (
        *("run_sql", {"sql": "SELECT salery FROM employees"}, "not_found", "sql"),
        "did you mean salary? employees has",
    ),
    "unknown qualified column": (
        *("run_sql", {"sql": "SELECT e.salery FROM employees e"}, "not_found", "sql"),
        "did you mean salary?",
    ),
    "unknown table in SQL": ("run_sql", {"sql": "SELECT * FROM staff"}, "not_found", "sql", "there are assets"),
    "unknown function": ("run_sql", {"sql": "SELECT soundex_2('a')"}, "not_found", "sql", "there is no function"),
    "ambiguous": ("run_sql", {"sql": "SELECT id FROM employees, projects"}, "invalid_query", "sql", "more than one"),
    "syntax": ("run_sql", {"sql": "SELEC 1"}, "invalid_query", "sql", 'syntax error near "SELEC"'),
    "unfinished": ("run_sql", {"sql": "SELECT ("}, "invalid_query", "sql", "incomplete"),
    "parameters": ("run_sql", {"sql": "SELECT ?"}, "invalid_query", "sql", "write the values"),
    "empty": ("run_sql", {"sql": "-- nothing"}, "invalid_query", "sql", "no statement"),
    "no bytes of text": ("run_sql", {"sql": "SELECT CAST(x'ff' AS TEXT)"}, "invalid_query", "sql", "no text"),
    "random": ("run_sql", {"sql": "SELECT random()"}, "rule_violation", "sql", "function random is not available"),
    "reading by the writing tool": ("execute_sql", {"sql": "SELECT 1"}, "rule_violation", "sql", "use run_sql"),
    "writing by the reading tool": (
        *("run_sql", {"sql": "DELETE FROM expenses"}, "rule_violation", "sql"),
        "change rows with insert_row",
    ),
    "two statements": ("run_sql", {"sql": "SELECT 1; SELECT 2"}, "invalid_query", "sql", "one statement"),
    "a value not allowed": (
        *("execute_sql", {"sql": "UPDATE expenses SET status = 'done'"}, "rule_violation", "sql"),
        "condition status IN",
    ),
    "a value missing": (
        *("insert_row", {"table": "vendors", "values": {"name": "x"}}, "rule_violation", "values"),
        "vendors.city must have a value",
    ),
    "unknown column to insert": (
        *("insert_row", {"table": "vendors", "values": {"nam": "x"}}, "not_found", "values.nam"),
        "did you mean name?",
    ),
    "nothing to change": (
        *("update_row", {"table": "vendors", "id": "VENDOR", "values": {}}, "rule_violation", "values"),
        "at least one column",
    ),
    "the key": (
        *("update_row", {"table": "vendors", "id": "VENDOR", "values": {"id": "x"}}, "rule_violation", "values.id"),
        "stays as it is",
    ),
    "a link to nothing": (
        *("update_row", {"table": "purchase_orders", "id": "ORDER", "values": {"vendor_id": "x"}}, "rule_violation"),
        *("values", "does not exist"),
    ),
    "a row that others need": (
        *("delete_row", {"table": "departments", "id": "DEPARTMENT"}, "rule_violation", "id"),
        "others refer to this one",
    ),
}
_PLACES = {
    "VENDOR": "SELECT id FROM vendors",
    "ORDER": "SELECT id FROM purchase_orders",
    "DEPARTMENT": "SELECT department_id FROM employees",
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_teach(world: World, name: str) -> None:
    tool, arguments, kind, field, text = ERRORS[name]
    given = {key: world.value(_PLACES[v]) if str(v) in _PLACES else v for key, v in arguments.items()}
    found = error(world, tool, **given)
    assert (found["type"], found["field"]) == (kind, field)
    assert text in found["message"]
    assert len(found["message"]) < 1_000


def test_a_key_that_another_row_has(world: World) -> None:
    email = world.value("SELECT email FROM employees ORDER BY id LIMIT 1")
    key = world.value("SELECT id FROM employees ORDER BY id DESC LIMIT 1")
    found = error(world, "update_row", table="employees", id=key, values={"email": email})
    assert found["rule"] == "unique"
    assert "employees.email" in found["message"]


# -- hostile SQL ----------------------------------------------------------------------------------------

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
NOWHERE = (
    *(
        "ATTACH 'evil.db' AS evil",
        "ATTACH ':memory:' AS evil",
        "DETACH main",
        "PRAGMA user_version",
        "PRAGMA query_only",
    ),
    *("PRAGMA writable_schema = 1", "PRAGMA foreign_keys = 0", "SELECT * FROM pragma_table_info('assets')"),
    *("SELECT count(*) FROM pragma_database_list", "SELECT load_extension('/tmp/x.so')", "SELECT fts3_tokenizer('a')"),
    *("SELECT readfile('/etc/passwd')", "SELECT writefile('x', 'y')", "SELECT edit('a')"),
    *("CREATE TABLE t (a PRIMARY KEY)", "CREATE TEMP TABLE t (a)", "CREATE VIEW v AS SELECT 1", "DROP TABLE assets"),
    *("CREATE TEMP TRIGGER t AFTER UPDATE ON assets BEGIN DELETE FROM assets; END", "ALTER TABLE assets ADD x"),
    *("CREATE TRIGGER t AFTER UPDATE ON assets BEGIN DELETE FROM assets; END", "CREATE INDEX i ON assets (price)"),
    *("CREATE VIRTUAL TABLE v USING fts5(x)", "CREATE VIRTUAL TABLE temp.v USING rtree(a, b, c)"),
    *("VACUUM", "VACUUM INTO 'evil.db'", "REINDEX", "ANALYZE", "BEGIN", "BEGIN EXCLUSIVE", "COMMIT", "END", "ROLLBACK"),
    *("SAVEPOINT a", "RELEASE atomic", "ROLLBACK TO atomic"),
    *(
        "UPDATE sqlite_master SET sql = 'x'",
        "DELETE FROM sqlite_schema",
        "INSERT INTO sqlite_master VALUES (1,2,3,4,5)",
    ),
    *("UPDATE sqlite_dbpage SET data = zeroblob(1024)", "SELECT * FROM sqlite_dbpage", "SELECT * FROM dbstat"),
    *("SELECT random()", "SELECT hex(randomblob(8))", "SELECT sqlite_version()", "SELECT last_insert_rowid()"),
    *("SELECT changes()", "SELECT total_changes()", "EXPLAIN SELECT 1", "SELECT 1; DROP TABLE assets"),
    *("SELECT 1;/**/DELETE FROM assets", "SELECT 1; --\nDELETE FROM assets", "/* DELETE */", "--", ";", " ", "\0"),
    *("SELECT zeroblob(1000000000)", "SELECT printf('%.*c', 1000000000, 'x')", "SELECT printf('%1000000000d', 1)"),
    *("SELECT replace(hex(zeroblob(40000)), '0', 'abcdefgh')", "SELECT group_concat(hex(zeroblob(40000))) FROM assets"),
    *(f"{ENDLESS} SELECT count(*) FROM c", f"{ENDLESS} SELECT max(x) FROM c", f"{ENDLESS} SELECT x FROM c ORDER BY -x"),
    *(
        f"{ENDLESS} SELECT zeroblob(90000) || x AS z FROM c ORDER BY z",
        f"{ENDLESS} SELECT 1 FROM c LIMIT 1 OFFSET 99999999",
    ),
    f"{ENDLESS} SELECT sum(like('%a%a%a%a%b', replace(hex(zeroblob(9000)), '0', 'a') || x)) FROM c",
    "SELECT count(*) FROM assets a, assets b, assets c, assets d, assets e",
    "SELECT " + "1+" * 1_500 + "1",
    "SELECT " + "abs(" * 950 + "x" + ")" * 950,
    "SELECT " + "(SELECT " * 400 + "1" + ")" * 400,
    "SELECT " + ",".join("1" * 1_000),
    "SELECT " + " UNION ALL SELECT ".join("1" * 300) + " FROM nowhere",
    "SELECT * FROM " + ", ".join(f"assets a{i}" for i in range(100)),
    "WITH c0 AS (SELECT 1 AS x UNION ALL SELECT 2)"
    + "".join(f", c{i} AS (SELECT a.x FROM c{i - 1} a, c{i - 1} b)" for i in range(1, 30))
    + " SELECT count(*) FROM c29",
    "WITH w AS (SELECT 1) DELETE FROM time_entries RETURNING *;;DROP TABLE assets",
    "SELECT * FROM carray(1, 2)",
    "SELECT 'a' MATCH 'b'",
    "SELECT CAST(x'c328' AS TEXT)",
    "SELECT char(55296)",
)
WRITING = (
    *("DELETE FROM expenses", "UPDATE assets SET price = 1 RETURNING id", "REPLACE INTO meta VALUES ('today', 'x')"),
    *("INSERT INTO meta VALUES ('a', 'b')", "WITH w AS (SELECT 1) DELETE FROM time_entries RETURNING *"),
    "WITH w AS (SELECT id FROM expenses) UPDATE expenses SET amount = 1 WHERE id IN w RETURNING amount",
    "INSERT INTO meta VALUES ('a', 'b') ON CONFLICT DO UPDATE SET value = 'c'",
    "EXPLAIN DELETE FROM expenses",
    "EXPLAIN QUERY PLAN DELETE FROM expenses",
)


@pytest.mark.parametrize("sql", NOWHERE)
@pytest.mark.parametrize("tool", ["run_sql", "execute_sql"])
def test_hostile_sql_is_refused(world: World, tool: str, sql: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    error(world, tool, sql=sql)
    assert list(tmp_path.iterdir()) == []
    assert ok(world, "list_tables") == ok(IMAGE.open(), "list_tables")
    assert world.fork().digest() == world.digest()


@pytest.mark.parametrize("sql", WRITING)
@pytest.mark.parametrize("tool", ["run_sql", "explain_query"])
def test_reading_tools_do_not_write(world: World, tool: str, sql: str) -> None:
    assert error(world, tool, sql=sql)["type"] in ("rule_violation", "invalid_query")


@pytest.mark.parametrize("sql", NOWHERE)
def test_explaining_runs_nothing(world: World, sql: str) -> None:
    before = world.digest()
    result = call(world, "explain_query", sql=sql)
    assert result.error is None or result.error in AGENT_ERRORS
    assert world.digest() == before


def test_an_endless_query_ends_the_same_way_each_time(world: World) -> None:
    texts = {call(world, "run_sql", sql=f"{ENDLESS} SELECT count(*) FROM c").text for _ in range(3)}
    assert len(texts) == 1
    assert "too_expensive" in texts.pop()


def test_the_steps_that_are_allowed_are_counted_not_timed(world: World) -> None:
    """A query within the limit passes and one beyond it does not, every time."""
    for _ in range(2):
        assert ok(world, "run_sql", sql=f"{ENDLESS} SELECT count(*) FROM (SELECT x FROM c LIMIT 100000)")
        found = error(world, "run_sql", sql=f"{ENDLESS} SELECT count(*) FROM (SELECT x FROM c LIMIT 1000000)")
        assert found["rule"] == "too_expensive"


def test_an_interrupted_write_changes_nothing_and_the_world_goes_on(world: World) -> None:
    ok(world, "execute_sql", sql="UPDATE meta SET value = 'before'")
    found = error(world, "execute_sql", sql=f"UPDATE assets SET price = ({ENDLESS} SELECT max(x + price) FROM c)")
    assert found["rule"] == "too_expensive"
    ok(world, "execute_sql", sql="UPDATE assets SET price = 7")
    assert world.value("SELECT value FROM meta") == "before"
    assert {change.table for change in world.diff()} == {"meta", "assets"}


ROLLBACKS = (
    "INSERT OR ROLLBACK INTO strict_ones VALUES (1, 'x', 2)",
    "INSERT INTO strict_ones VALUES (2, 'one', 2)",
    "DELETE FROM parents WHERE code = 'loud'",
    "INSERT OR ROLLBACK INTO strict_ones VALUES (3, 'x', 99)",
    "INSERT OR FAIL INTO strict_ones VALUES (5, 'five', 5), (6, 'six', 66)",
    "INSERT INTO strict_ones VALUES ('a', 'x', 1)",
    "UPDATE children SET parent = 'nobody'",
    "DELETE FROM parents WHERE code = 'P-009'",
    "INSERT INTO parents (name) VALUES ('no key')",
    "UPDATE parents SET code = NULL",
    "INSERT INTO sqlite_sequence VALUES ('children', 99)",
)


@pytest.mark.parametrize("sql", ROLLBACKS)
def test_statements_that_end_the_transaction_leave_the_world_as_it_was(odd: World, sql: str) -> None:
    ok(odd, "update_row", table="children", id=2, values={"note": "kept"})
    error(odd, "execute_sql", sql=sql)
    ok(odd, "update_row", table="children", id=1, values={"note": "later"})
    assert changed(odd) == [("update", "children", {"note": "later"}), ("update", "children", {"note": "kept"})]
    assert odd.fork().digest() == odd.digest()


def test_what_confines_the_agent_does_not_outlast_the_call(world: World) -> None:
    """The tools of other families run trusted SQL on the same world."""
    error(world, "run_sql", sql="PRAGMA user_version")
    ok(world, "run_sql", sql="SELECT 1")
    world.execute("CREATE TABLE later (id INTEGER PRIMARY KEY, t TEXT)")
    world.execute("INSERT INTO later VALUES (1, hex(zeroblob(100000)))")
    assert world.value("SELECT length(t) FROM later") == 200_000
    assert world.value("PRAGMA foreign_keys") == 0


def test_a_statement_that_a_writing_tool_ran_is_not_open_to_a_reading_one(world: World) -> None:
    sql = "UPDATE meta SET value = 'x'"
    ok(world, "execute_sql", sql=sql)
    assert error(world, "run_sql", sql=sql)["rule"] == "read_only"


# -- limits ---------------------------------------------------------------------------------------------


def test_at_most_fifty_rows_are_shown(world: World) -> None:
    found = ok(world, "run_sql", sql=f"{ENDLESS} SELECT x FROM c")
    assert (len(found["rows"]), found["truncated"]) == (50, True)
    exactly = ok(world, "run_sql", sql=f"{ENDLESS} SELECT x FROM c LIMIT 50")
    assert (len(exactly["rows"]), exactly["truncated"]) == (50, False)


def test_results_are_short(world: World) -> None:
    found = call(world, "run_sql", sql=f"{ENDLESS} SELECT x, hex(zeroblob(300)) FROM c LIMIT 40")
    assert found.content["truncated"]
    assert len(found.text) < 10_000
    long = call(world, "run_sql", sql="SELECT hex(zeroblob(5000)), 1")
    assert long.content["truncated"]
    assert long.content["rows"][0][0].endswith("...[cut]")
    assert len(long.text) < 1_500


# -- properties -----------------------------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    "SELECT FROM WHERE WITH RECURSIVE AS ( ) , ; * = < || -- /* */ ' \" ` [ ] ? :a @b $c x'ff' 0x10 1e999 NULL"
    " employees expenses id amount status sqlite_master INSERT INTO VALUES UPDATE SET DELETE REPLACE RETURNING"
    " DROP TABLE ALTER CREATE TRIGGER BEGIN END COMMIT ROLLBACK ATTACH PRAGMA VACUUM EXPLAIN QUERY PLAN UNION ALL"
    " ORDER BY GROUP HAVING LIMIT 1 OFFSET OVER PARTITION count sum max json_each('[1]') date('now') CASE WHEN"
    " THEN ELSE OR ABORT IGNORE".split()
)
SQL = st.one_of(
    st.lists(FRAGMENTS, min_size=1, max_size=12).map(" ".join),
    st.text(min_size=1, max_size=60),
    st.tuples(st.sampled_from(["SELECT ", "SELECT * FROM employees WHERE ", "DELETE FROM "]), st.text(max_size=40)).map(
        "".join
    ),
)


@settings(max_examples=400, deadline=None)
@given(sql=SQL, tool=st.sampled_from(["run_sql", "explain_query", "execute_sql"]))
def test_any_sql_gives_a_typed_result(sql: str, tool: str) -> None:
    world = IMAGE.open()
    before = world.digest()
    result = call(world, tool, sql=sql)
    assert result.error is None or result.error in AGENT_ERRORS
    if not result.ok or tool != "execute_sql":
        assert world.digest() == before
    assert world.fork().digest() == world.digest()


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(max_size=9)
)


def arguments_of(tool: Tool, image: WorldImage) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of the right types over names and ids that partly exist."""
    world = image.open()
    names = sorted({column for columns in image.columns.values() for column in columns})
    column = st.one_of(st.sampled_from(names), st.text(min_size=1, max_size=9))
    ids = [row[key[0]] for table, key in image.keys.items() for row in ok(world, "search_rows", table=table)["results"]]
    condition = st.tuples(column, st.sampled_from(["", " !=", " <", ">=", " contains", " ?"])).map("".join)
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "table": st.one_of(st.sampled_from(list(image.columns)), st.text(min_size=1, max_size=9)),
        "id": st.one_of(st.sampled_from(ids), st.integers(-9, 9), st.text(min_size=1, max_size=9)),
        "where": st.dictionaries(condition, SCALARS, max_size=3),
        "values": st.dictionaries(column, SCALARS, max_size=4),
        "column": column,
        "group_by": column,
        "order_by": column,
        "descending": st.booleans(),
        "page": st.integers(1, 9),
        "function": st.sampled_from(["count", "sum", "avg", "min", "max"]),
        "sql": SQL,
    }
    properties, required = tool.spec.parameters["properties"], tool.spec.parameters["required"]
    given = {name: strategies[name] for name in properties}
    return st.fixed_dictionaries(
        {name: given[name] for name in given if name in required},
        optional={name: given[name] for name in given if name not in required},
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data(), image=st.sampled_from([IMAGE, ODD_IMAGE]))
def test_any_arguments_give_a_typed_result_and_reads_change_nothing(data: st.DataObject, image: WorldImage) -> None:
    tool = data.draw(st.sampled_from(list(TOOLBOX)))
    arguments = data.draw(arguments_of(tool, image))
    world = image.open()
    before = world.digest()
    result = TOOLBOX.dispatch(world, tool.name, arguments)
    assert result.error is None or result.error in AGENT_ERRORS
    if not tool.writes or not result.ok:
        assert world.digest() == before


@settings(max_examples=60, deadline=None)
@given(
    values=st.dictionaries(
        st.sampled_from(["note", "parent"]),
        st.one_of(st.text(max_size=20), st.integers(-(2**63), 2**63 - 1), st.none()),
    )
)
def test_what_is_inserted_is_what_is_read(values: dict[str, Any]) -> None:
    world = ODD_IMAGE.open()
    result = call(world, "insert_row", table="children", values=values)
    if result.ok:
        stored = ok(world, "get_row_by_id", table="children", id=result.content["id"])
        assert stored == result.content
        assert {key: stored[key] for key in values} == {
            key: str(value) if isinstance(value, int) else value for key, value in values.items()
        }


# -- schemas --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", list(TOOLBOX), ids=lambda tool: tool.name)
def test_schemas_are_valid(tool: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(tool.spec.parameters)


def test_direct_calls_raise_tool_errors_only(world: World) -> None:
    with pytest.raises(ToolError):
        TOOLBOX["run_sql"](world, sql="SELECT")
    assert not isinstance(ToolError("x"), apsw.Error)
