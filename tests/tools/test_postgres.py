"""The PostgreSQL backend, against a server of its own: the same state and grades as embedded, and nothing let out."""

from __future__ import annotations

import json
import os
import pickle
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.business import business_population
from toolenv.tools.errors import AGENT_ERRORS, OperatorError, SandboxLost, ScenarioError
from toolenv.tools.sandbox.contract import ToolSession
from toolenv.tools.sandbox.embedded import EmbeddedSandbox
from toolenv.tools.sandbox.registry import make_sandbox
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage, open_connection

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
pytestmark = pytest.mark.skipif(not FOLDERS, reason="no PostgreSQL is installed")
psycopg = pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")

from toolenv.tools.sandbox.postgres import PostgresSandbox  # noqa: E402  # after what it needs

TOOLBOX = Toolbox.of_families("database")
IMAGE = business_population(0)
EMPLOYEE, VENDOR, DEPARTMENT, ORDER, ENTRY, EXPENSE = (
    str(IMAGE.open().value(f"SELECT min(id) FROM {table}"))
    for table in ("employees", "vendors", "departments", "purchase_orders", "time_entries", "expenses")
)
OTHER_VENDOR = str(IMAGE.open().value("SELECT max(id) FROM vendors"))


class Server:
    """A throw-away cluster in a folder, reached by a socket there only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dsn = f"host={folder} user=postgres dbname=postgres"

    def run(self, program: str, *arguments: str) -> None:
        command = [str(FOLDERS[-1] / program), "-D", str(self.folder / "data"), *arguments]
        if os.geteuid() == 0:  # which the server refuses to run as
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/")

    def make(self) -> None:
        self.run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "-N")

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        self.run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")

    def value(self, sql: str) -> Any:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return connection.execute(sql).fetchone()[0]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="toolenv-pg-", dir="/tmp"))  # a socket's path is short
    if os.geteuid() == 0:
        shutil.chown(folder, pwd.getpwnam("postgres").pw_uid)
    server = Server(folder)
    server.make()
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[PostgresSandbox]:
    sandbox = PostgresSandbox(server.dsn)
    yield sandbox
    sandbox.close()


@pytest.fixture
def session(sandbox: PostgresSandbox) -> Iterator[ToolSession]:
    session = sandbox.open(IMAGE, TOOLBOX)
    yield session
    session.close()


@pytest.fixture(scope="module")
def shared(sandbox: PostgresSandbox) -> Iterator[ToolSession]:
    """For tests that leave the world as it was."""
    session = sandbox.open(IMAGE, TOOLBOX)
    yield session
    session.close()


@pytest.fixture
def embedded() -> Iterator[ToolSession]:
    session = EmbeddedSandbox().open(IMAGE, TOOLBOX)
    yield session
    session.close()


def image_of(script: str) -> WorldImage:
    connection = open_connection()
    connection.execute(script)
    return WorldImage.of_connection(connection, "own")


def ok(session: ToolSession, tool: str, /, **arguments: Any) -> Any:
    result = session.call(tool, arguments)
    assert result.ok, result.text
    return result.content


def error(session: ToolSession, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The error of a call that must fail and change nothing."""
    before = session.digest()
    result = session.call(tool, arguments)
    assert not result.ok, result.text
    assert session.digest() == before
    found: dict[str, Any] = result.content["error"]
    assert found["type"] in AGENT_ERRORS
    return found


# -- the same as embedded ---------------------------------------------------------------------------------


def played(env: ToolEnv, task_id: str) -> tuple[float, Any, list[Any]]:
    """Reward, grade and conversation of a task's gold plan."""
    env.reset(seed=0, options={"task": task_id})
    run = env.task.start_plan()
    while (step := run.next()) is not None:
        if step.call is None:
            _, reward, terminated, _, info = env.step({"answer": step.answer})
            assert terminated
            return reward, info["grade"], list(env.messages)
        env.step({"name": step.call.name, "arguments": step.call.arguments})
        run.feed(json.loads(env.messages[-1]["content"]))
    raise AssertionError("a plan ends with an answer")


def test_every_gold_plan_has_the_grade_that_it_has_embedded(sandbox: PostgresSandbox) -> None:
    here = ToolEnv("database", families="all", sandbox=sandbox)
    there = ToolEnv("database", families="all")
    for family in here.scenario.families:
        for seed in (0, 1, 2):
            task_id = here.sampler.task_of(family, seed).id
            reward, grade, _ = played(here, task_id)
            assert (reward, grade) == (1.0, played(there, task_id)[1]), task_id
    here.close()
    there.close()


CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("list_tables", {}),
    *(("describe_table", {"table": table}) for table in IMAGE.columns),
    ("get_row_by_id", {"table": "EMPLOYEES", "id": EMPLOYEE}),
    ("get_row_by_id", {"table": "employees", "id": "EMP-9999"}),
    ("get_row_by_id", {"table": "employees", "id": 7}),
    ("search_rows", {"table": "employees", "where": {"name contains": "SON", "salary >": 30000.5}}),
    ("search_rows", {"table": "employees", "order_by": "manager_id", "descending": True, "page": 2}),
    ("search_rows", {"table": "employees", "order_by": "manager_id"}),
    ("search_rows", {"table": "employees", "order_by": "name"}),
    ("search_rows", {"table": "employees", "where": {"manager_id": None}}),
    ("search_rows", {"table": "employees", "where": {"manager_id !=": EMPLOYEE}}),
    ("search_rows", {"table": "employees", "where": {"name": "'; DROP TABLE employees; --"}}),
    ("search_rows", {"table": "employees", "where": {"salary": True}}),
    ("search_rows", {"table": "employees", "where": {"salary contains": 500}}),
    ("search_rows", {"table": "staff"}),
    ("search_rows", {"table": "employees", "where": {"salery": 1}}),
    *(("aggregate", {"table": "expenses", "function": f, "column": "amount"}) for f in ("count", "sum", "avg", "max")),
    *(("aggregate", {"table": "time_entries", "function": f, "column": "hours"}) for f in ("sum", "avg", "min")),
    ("aggregate", {"table": "expenses", "function": "sum", "column": "amount", "group_by": "project_id"}),
    (
        "run_sql",
        {
            "sql": "SELECT d.name, count(*) AS n FROM employees e JOIN departments d ON d.id = department_id"
            " GROUP BY 1 ORDER BY 1;"
        },
    ),
    ("run_sql", {"sql": "SELECT id, id FROM employees WHERE false -- nothing;"}),
    ("run_sql", {"sql": "SELECT 1 = 1 AS yes, NULL AS no, 2.5 AS half"}),
    ("run_sql", {"sql": "SELECT salery FROM employees"}),
    ("run_sql", {"sql": "SELECT e.salery FROM employees e"}),
    ("run_sql", {"sql": "SELECT * FROM staff"}),
    ("run_sql", {"sql": "SELECT id FROM employees, projects"}),
    ("run_sql", {"sql": "SELEC 1"}),
    ("run_sql", {"sql": "-- nothing"}),
    ("run_sql", {"sql": "SELECT 1; SELECT 2"}),
    ("run_sql", {"sql": "SELECT ("}),
    ("run_sql", {"sql": "DELETE FROM expenses"}),
    ("execute_sql", {"sql": "SELECT 1"}),
    ("insert_row", {"table": "vendors", "values": {"name": "N", "city": "C", "rating": 3, "status": "active"}}),
    ("insert_row", {"table": "vendors", "values": {"name": "N"}}),
    ("insert_row", {"table": "vendors", "values": {"nam": "N"}}),
    ("update_row", {"table": "vendors", "id": VENDOR, "values": {"status": "blocked", "rating": 4.0}}),
    ("update_row", {"table": "vendors", "id": VENDOR, "values": {"status": "gone"}}),
    ("update_row", {"table": "vendors", "id": VENDOR, "values": {"id": "x"}}),
    ("update_row", {"table": "departments", "id": DEPARTMENT, "values": {"name": "Sales"}}),
    ("update_row", {"table": "purchase_orders", "id": ORDER, "values": {"vendor_id": "x"}}),
    ("update_row", {"table": "time_entries", "id": ENTRY, "values": {"hours": 3}}),
    ("delete_row", {"table": "departments", "id": DEPARTMENT}),
    ("delete_row", {"table": "expenses", "id": EXPENSE}),
    ("execute_sql", {"sql": "UPDATE expenses SET status = 'approved' WHERE status = 'paid' RETURNING id"}),
    ("execute_sql", {"sql": "UPDATE time_entries SET hours = hours + 0.1 RETURNING *"}),
    ("execute_sql", {"sql": "WITH w AS (SELECT 1) DELETE FROM meta WHERE 1 = 1"}),
    ("execute_sql", {"sql": "INSERT INTO meta VALUES ('ä', '''\"\\')"}),
    ("execute_sql", {"sql": "DELETE FROM expenses WHERE false"}),
)


def test_the_same_calls_give_the_same_results_and_the_same_state(session: ToolSession, embedded: ToolSession) -> None:
    for name, arguments in CALLS:
        assert session.call(name, arguments).text == embedded.call(name, arguments).text, (name, arguments)
        assert session.digest() == embedded.digest()
        assert session.diff() == embedded.diff()
    assert len(session.diff()) > 100


def test_a_snapshot_goes_to_another_backend_and_back(session: ToolSession, embedded: ToolSession) -> None:
    start = session.snapshot()
    assert start == embedded.snapshot()
    ok(session, "execute_sql", sql="DELETE FROM time_entries")
    ok(session, "update_row", table="vendors", id=VENDOR, values={"rating": 9})
    later = pickle.loads(pickle.dumps(session.snapshot()))
    embedded.restore(later)
    assert embedded.digest() == session.digest()
    assert embedded.diff() == session.diff()
    ok(embedded, "update_row", table="vendors", id=OTHER_VENDOR, values={"rating": 9})
    session.restore(embedded.snapshot())
    assert ok(session, "get_row_by_id", table="vendors", id=OTHER_VENDOR)["rating"] == 9
    assert session.diff() == embedded.diff()
    session.restore(start)
    assert session.diff() == ()


def test_a_fork_goes_its_own_way(session: ToolSession) -> None:
    ok(session, "execute_sql", sql="DELETE FROM meta")
    fork = session.fork()
    assert fork.digest() == session.digest()
    ok(fork, "execute_sql", sql="DELETE FROM time_entries")
    assert len(session.diff()) < len(fork.diff())
    session.call("run_sql", {"sql": "SELECT 1"})
    fork.close()
    assert ok(session, "aggregate", table="time_entries", function="count")["value"] > 0


OWN = """
CREATE TABLE "Order ""x"" Details" ("Order Id" INTEGER, "Line ?" INTEGER, "select" TEXT, "amount >" REAL,
  PRIMARY KEY ("Order Id", "Line ?"));
CREATE TABLE parents (code TEXT PRIMARY KEY, name TEXT);
CREATE TABLE children (id INTEGER PRIMARY KEY, parent TEXT REFERENCES parents DEFERRABLE INITIALLY DEFERRED,
  note TEXT DEFAULT 'none', photo BLOB, price DECIMAL(10, 2), made TEXT DEFAULT CURRENT_TIMESTAMP);
CREATE VIEW names AS SELECT name FROM parents;
INSERT INTO "Order ""x"" Details" VALUES (1, 1, 'a', 2.5), (1, 2, 'b', 3);
INSERT INTO parents VALUES ('P-009', 'first');
INSERT INTO children VALUES (1, 'P-009', 'hello', x'00ff', 2.5, 'x'), (2, NULL, NULL, NULL, 3, 'y');
"""


def test_a_database_of_ones_own(sandbox: PostgresSandbox) -> None:
    image = image_of(OWN)
    session, embedded = sandbox.open(image, TOOLBOX), EmbeddedSandbox().open(image, TOOLBOX)
    odd = 'Order "x" Details'
    for name, arguments in (
        ("get_row_by_id", {"table": "children", "id": 1}),
        ("search_rows", {"table": odd, "where": {"Line ?": 2, "amount >": 3}}),
        ("search_rows", {"table": odd, "where": {"amount > >=": 2}}),
        ("insert_row", {"table": odd, "values": {"Order Id": 2, "Line ?": 1, "select": "?"}}),
        ("insert_row", {"table": "children", "values": {"price": 4}}),
        ("insert_row", {"table": "children", "values": {"parent": "nobody"}}),
        ("insert_row", {"table": "parents", "values": {"name": "no key"}}),
        ("insert_row", {"table": "parents", "values": {"code": "P-010", "name": "x" * 2_000}}),
        ("delete_row", {"table": "parents", "id": "P-009"}),
        ("run_sql", {"sql": "SELECT * FROM names ORDER BY 1"}),
        ("execute_sql", {"sql": "UPDATE children SET price = price * 2"}),
    ):
        here, there = session.call(name, arguments), embedded.call(name, arguments)
        assert (here.error, here.ok) == (there.error, there.ok), (name, here.text, there.text)
        assert session.digest() == embedded.digest(), name
    assert error(session, "execute_sql", sql="DELETE FROM names")
    assert session.snapshot() == embedded.snapshot()
    session.close()


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE t (a TEXT PRIMARY KEY COLLATE NOCASE)",
        "CREATE TABLE t (a PRIMARY KEY); INSERT INTO t VALUES (1), ('a')",
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); CREATE UNIQUE INDEX i ON t (lower(b))",
        "CREATE TABLE t (a INTEGER PRIMARY KEY); CREATE TRIGGER g AFTER DELETE ON t BEGIN SELECT 1; END",
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT CHECK (b GLOB 'x*'))",
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); INSERT INTO t VALUES (1, char(0))",
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER REFERENCES t); INSERT INTO t VALUES (1, 9)",
        f"CREATE TABLE {'t' * 64} (a INTEGER PRIMARY KEY)",
    ],
)
def test_what_has_no_counterpart_is_refused(sandbox: PostgresSandbox, script: str) -> None:
    with pytest.raises(ScenarioError, match="PostgreSQL"):
        sandbox.open(image_of(script), TOOLBOX)
    sandbox.open(IMAGE, TOOLBOX).close()


# -- hostile SQL ------------------------------------------------------------------------------------------

HOSTILE = (
    *("SELECT pg_read_file('/etc/passwd')", "SELECT pg_catalog.pg_read_file('x')", "SELECT \"pg_read_file\"('x')"),
    *("SELECT pg_ls_dir('/')", "SELECT lo_import('/etc/passwd')", "SELECT lo_create(0)", "SELECT pg_sleep(1)"),
    *("SELECT pg_sleep/**/(1)", "SELECT PG_SLEEP (1)", 'SELECT U&"\\0070g_sleep"(1)', "SELECT (SELECT pg_sleep(1))"),
    *("SELECT set_config('role', 'postgres', false)", "SELECT current_setting('data_directory')", "SELECT version()"),
    *("SELECT dblink('a', 'b')", "SELECT query_to_xml('SELECT 1', true, true, '')", "SELECT pg_terminate_backend(1)"),
    *("SELECT pg_advisory_lock(1)", "SELECT pg_notify('a', 'b')", "SELECT nextval('s')", "SELECT random()"),
    *("SELECT now()", "SELECT current_timestamp", "SELECT current_user", "SELECT inet_server_addr()"),
    *("SELECT txid_current()", "SELECT repeat('x', 1000000000)", "SELECT generate_series(1, 9)"),
    "SELECT * FROM pg_class",
    *("SELECT * FROM information_schema.tables", "SELECT * FROM pg_catalog.pg_roles", "SELECT * FROM secrets.t"),
    *("TABLE pg_authid", "SELECT * FROM toolenv_1_1.meta", "SELECT 'pg_class'::regclass::oid FROM pg_stat_activity"),
    *("COPY meta TO '/tmp/x'", "COPY meta TO PROGRAM 'id'", "COPY meta FROM STDIN", "DO $$ BEGIN END $$", "LISTEN a"),
    *("NOTIFY a", "SET ROLE postgres", "RESET ROLE", "SET search_path = public", "SET LOCAL ROLE NONE", "SHOW all"),
    *("BEGIN", "COMMIT", "ROLLBACK", "END", "ABORT", "SAVEPOINT a", "PREPARE p AS SELECT 1", "EXECUTE p"),
    "DEALLOCATE p",
    *("DECLARE c CURSOR FOR SELECT 1", "FETCH 1 FROM c", "LOCK TABLE meta", "TRUNCATE meta", "VACUUM", "ANALYZE"),
    *("CREATE TABLE t (a int)", "CREATE TEMP TABLE t (a int)", "CREATE VIEW v AS SELECT 1", "DROP TABLE meta"),
    *("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "ALTER TABLE meta ADD x int", "CALL p()"),
    *("CREATE EXTENSION dblink", "CREATE ROLE evil SUPERUSER", "GRANT ALL ON meta TO PUBLIC", "ALTER SYSTEM SET a = 1"),
    *("LOAD 'x'", "CHECKPOINT", "DISCARD ALL", "COMMENT ON TABLE meta IS 'x'", "EXPLAIN SELECT 1"),
    "REINDEX TABLE meta",
    *("SELECT 1; DROP TABLE meta", "SELECT 1;/**/DELETE FROM meta", "SELECT 1; --\nDELETE FROM meta", "--", ";", " "),
    "\0",
    *("SELECT $$a$$; DELETE FROM meta", "SELECT 1) q; DELETE FROM meta; --", "SELECT 1) AS q(c0), (SELECT 2"),
    "SELECT $1",
    *("SELECT * INTO t FROM meta", "SELECT", "SELECT 'a", 'SELECT "a', "SELECT /* a"),
    "SELECT E'\\''; DELETE FROM meta --'",
    *("WITH w AS (DELETE FROM meta RETURNING *) SELECT * FROM w", "MERGE INTO nowhere USING meta ON true"),
    *("SELECT " + "(" * 3_000, "SELECT " + "(SELECT " * 400 + "now()" + ")" * 400, "UPDATE nothing SET a = 1"),
    "INSERT INTO meta SELECT 'k' || a.id || b.id || c.id, 'v' FROM time_entries a, time_entries b, assets c",
    "SELECT " + ",".join("1" * 1_000),
)
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


@pytest.mark.parametrize("sql", HOSTILE)
@pytest.mark.parametrize("tool", ["run_sql", "execute_sql", "explain_query"])
def test_hostile_sql_is_refused(shared: ToolSession, tool: str, sql: str) -> None:
    error(shared, tool, sql=sql)


@pytest.mark.parametrize("sql", ["SELECT * FROM meta FOR UPDATE", "SELECT '1'::int / 0", "SELECT key::int FROM meta"])
def test_what_the_server_refuses_is_an_error_of_the_agent(shared: ToolSession, sql: str) -> None:
    error(shared, "run_sql", sql=sql)


def test_another_session_can_not_be_reached(server: Server, sandbox: PostgresSandbox, session: ToolSession) -> None:
    """Not even past the outer wall: the role of one schema has no right to another."""
    other = sandbox.open(IMAGE, TOOLBOX)
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'toolenv%' ORDER BY oid DESC LIMIT 2"
        (theirs,), (mine,) = connection.execute(query).fetchall()
        connection.execute(f"SET ROLE {mine}")
        connection.execute(f"SELECT * FROM {mine}.meta")
        for sql in (
            *(f"SELECT * FROM {theirs}.meta", f"DROP TABLE {mine}.meta", f"CREATE TABLE {mine}.t (a int)"),
            *(f"TRUNCATE {mine}.meta", "SELECT pg_read_file('/etc/passwd')", "CREATE SCHEMA s", "CREATE ROLE r"),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql)
    other.close()


# -- limits -----------------------------------------------------------------------------------------------


def test_rows_texts_and_bytes_are_limited(shared: ToolSession) -> None:
    found = ok(shared, "run_sql", sql="SELECT a.id FROM time_entries a, time_entries b ORDER BY 1")
    assert (len(found["rows"]), found["truncated"]) == (50, True)
    exactly = ok(shared, "run_sql", sql="SELECT id FROM time_entries LIMIT 50")
    assert (len(exactly["rows"]), exactly["truncated"]) == (50, False)
    long = shared.call("run_sql", {"sql": "SELECT string_agg(a.id, '') FROM time_entries a, time_entries b"})
    assert long.content["truncated"]
    assert long.content["rows"][0][0].endswith("...[cut]")
    wide = shared.call("run_sql", {"sql": f"SELECT {', '.join(['string_agg(id, chr(32))'] * 20)} FROM time_entries"})
    assert wide.content["truncated"]
    assert len(wide.text) < 10_000


def test_an_endless_statement_ends_and_the_world_goes_on(session: ToolSession) -> None:
    assert error(session, "run_sql", sql=f"{ENDLESS} SELECT count(*) FROM c")["rule"] == "too_expensive"
    ok(session, "run_sql", sql="SELECT 1")


def test_too_large_a_change_is_undone(session: ToolSession) -> None:
    sql = "INSERT INTO meta SELECT a.id || b.id || c.id, 'v' FROM time_entries a, time_entries b, departments c"
    assert error(session, "execute_sql", sql=sql)["rule"] == "too_expensive"
    long = "UPDATE meta SET value = (SELECT string_agg(a.id, '') FROM time_entries a, time_entries b)"
    assert error(session, "execute_sql", sql=long)["rule"] == "too_large"


# -- the operator's side ----------------------------------------------------------------------------------


def test_values_that_do_not_fit_are_refused(shared: ToolSession) -> None:
    assert error(shared, "get_row_by_id", table="vendors", id="a\0b")["type"] == "invalid_query"
    values = {"rating": 2.5}
    assert error(shared, "update_row", table="vendors", id=VENDOR, values=values)["rule"] == "datatype"
    values = {"rating": "many"}
    assert error(shared, "update_row", table="vendors", id=VENDOR, values=values)["rule"] == "datatype"


def test_the_sandbox_is_chosen_by_its_name(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLENV_POSTGRES_DSN", server.dsn)
    env = ToolEnv("database", sandbox="postgres")
    _, info = env.reset(seed=3)
    said = {tool["function"]["name"]: tool["function"]["description"] for tool in info["tools"]}
    for name in ("run_sql", "execute_sql", "explain_query"):
        assert "PostgreSQL" in said[name], "agents are told which SQL it is"
        assert "SQLite" in env.toolbox[name].spec.description, "and versions of tools do not depend on it"
    assert "SQLite" not in str(said)
    assert server.value("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'toolenv%'") > 0
    env.close()
    monkeypatch.delenv("TOOLENV_POSTGRES_DSN")
    with pytest.raises(ValueError, match="set TOOLENV_POSTGRES_DSN"):
        make_sandbox("postgres")


def test_psycopg_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OperatorError, match=r"pip install 'toolenv\[postgres\]'"):
        PostgresSandbox("host=x")


def test_other_families_and_other_servers_are_refused(sandbox: PostgresSandbox, server: Server) -> None:
    with pytest.raises(OperatorError, match="crm"):
        sandbox.open(IMAGE, Toolbox.of_families("crm", "database"))
    with pytest.raises(SandboxLost, match="can not be reached"):
        PostgresSandbox(f"host={server.folder}/nowhere").open(IMAGE, TOOLBOX)
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE weak LOGIN")
    with pytest.raises(OperatorError, match="CREATEROLE"):
        PostgresSandbox(server.dsn.replace("user=postgres", "user=weak")).open(IMAGE, TOOLBOX)


def test_a_user_who_is_no_superuser_is_enough(server: Server) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE strong LOGIN CREATEROLE")
        connection.execute("GRANT CREATE ON DATABASE postgres TO strong")
    sandbox = PostgresSandbox(server.dsn.replace("user=postgres", "user=strong"))
    session = sandbox.open(IMAGE, TOOLBOX)
    ok(session, "execute_sql", sql="DELETE FROM time_entries")
    assert session.fork().digest() == session.digest()
    sandbox.close()
    assert (
        server.value(
            "SELECT count(*) FROM pg_roles WHERE rolname ~ '^toolenv_' AND rolname IN (SELECT nspname"
            " FROM pg_namespace n JOIN pg_roles r ON r.oid = nspowner WHERE r.rolname = 'strong')"
        )
        == 0
    )


def test_a_sandbox_can_be_pickled(sandbox: PostgresSandbox) -> None:
    other = pickle.loads(pickle.dumps(sandbox))
    session = other.open(IMAGE, TOOLBOX)
    assert ok(session, "list_tables")["tables"]
    other.close()
    with pytest.raises(SandboxLost):
        session.digest()
    session.close()


def test_what_an_interrupted_owner_left_is_removed(server: Server) -> None:
    owner = PostgresSandbox(server.dsn)
    owner.open(IMAGE, TOOLBOX)
    owner._link.connection.close()  # type: ignore[union-attr]  # it is connected
    query = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'toolenv%'"
    before = server.value(query)
    other = PostgresSandbox(server.dsn)
    other.open(IMAGE, TOOLBOX).close()
    assert server.value(query) < before
    other.close()


def test_a_server_that_is_killed(server: Server) -> None:
    sandbox = PostgresSandbox(server.dsn)
    env = ToolEnv("database", sandbox=sandbox)
    env.reset(seed=3)
    session, snapshot = env.session, env.snapshot()
    server.stop()
    try:
        _, reward, terminated, truncated, info = env.step({"name": "list_tables", "arguments": {}})
        assert (reward, terminated, truncated) == (0.0, False, True)
        assert info["reward_masked"]
        for method in (session.fork, session.snapshot, session.digest, session.diff):
            with pytest.raises(SandboxLost):
                method()
        with pytest.raises(SandboxLost):
            session.restore(snapshot.world)
        for name in ("list_tables", "nothing"):
            with pytest.raises(SandboxLost):
                session.call(name, {})
        with pytest.raises(SandboxLost):
            env.reset(seed=3)
        session.close()
    finally:
        server.start()
    env.reset(seed=3)
    env.restore(snapshot)
    assert ok(env.session, "list_tables")["tables"]
    env.close()
    sandbox.close()
