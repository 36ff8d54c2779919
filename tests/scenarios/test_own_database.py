"""A database of the user's own: what is accepted, what is refused and why, and that it stays as it is."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import apsw
import gymnasium
import pytest

from toolenv.agents.collect import collect
from toolenv.agents.dataset import scenario_of
from toolenv.agents.records import read_trajectories
from toolenv.agents.replay import Replayer
from toolenv.scenarios.audit import audit
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.own_database import MAX_BYTES
from toolenv.scenarios.sampler import Sampler
from toolenv.tools.errors import ScenarioError

SCENARIO = """\
schema_version: 1
name: music
title: A shop of one's own
toolbox: [database]
population:
  kind: database
  path: {path}
policy: You are an agent.
families:
  composer:
    description: Who wrote a track.
    difficulty: 1
    variables:
      track: {{row: {{table: Track, where: Composer IS NOT NULL}}}}
      wrong: {{absent: {{table: Track, like: "9###"}}}}
    phrasings: ["Who wrote track {{{{ track.TrackId }}}}?", "Composer of {{{{ track.TrackId }}}}, not {{{{ wrong }}}}?"]
    plan:
      - think: I look it up.
        call: get_row_by_id
        with: {{table: Track, id: "{{{{ track.TrackId }}}}"}}
        as: found
      - think: I put it in capitals.
        call: update_row
        with: {{table: Track, id: "{{{{ track.TrackId }}}}", values: {{Composer: "{{{{ found.Composer | upper }}}}"}}}}
      - think: Done.
        answer: "It is {{{{ found.Composer }}}}."
    goal:
      seen: ["{{{{ track.Composer }}}}"]
      answer: [{{one_of: {{is: "{{{{ track.Composer }}}}", among: [Mozart, Chopin, Verdi, Bach]}}}}]
      changes:
        - update: Track
          where: {{TrackId: "{{{{ track.TrackId }}}}"}}
          to: {{Composer: "{{{{ track.Composer | upper }}}}"}}
"""
SCRIPT = """\
PRAGMA foreign_keys = OFF;
BEGIN TRANSACTION;
CREATE TABLE Album (AlbumId INTEGER PRIMARY KEY AUTOINCREMENT, Title TEXT NOT NULL);
CREATE TABLE Track (
  TrackId INTEGER NOT NULL, Name TEXT, AlbumId INTEGER REFERENCES Album (AlbumId), Composer TEXT, Price NUMERIC(10, 2),
  CONSTRAINT PK_Track PRIMARY KEY (TrackId)
);
CREATE TABLE "Play List" ("List Id" INTEGER, TrackId INTEGER, PRIMARY KEY ("List Id", TrackId));
INSERT INTO Album (Title) VALUES ('First; album'), ('Zweites -- Stück');
INSERT INTO Track VALUES (1, 'Un', 1, 'Mozart', 0.99), (2, 'Deux', 1, 'Chopin', 1.99), (3, 'Trois', 2, NULL, 0.99);
INSERT INTO Track VALUES (4, 'Quatre', 2, 'Verdi', 0.5), (5, 'Cinq', 2, 'Bach', 0.5);
INSERT INTO "Play List" VALUES (1, 1), (1, 2);
CREATE VIEW Cheap AS SELECT * FROM Track WHERE Price < 1;
COMMIT;
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a scenario and its database; the scenario's path."""

    def make(path: str = "music.sql", content: str | bytes | None = SCRIPT) -> Path:
        (tmp_path / "scenario.yaml").write_text(SCENARIO.format(path=path))
        if content is not None:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / "scenario.yaml"

    return make


def sqlite_file(path: Path, script: str = SCRIPT, before: str = "") -> bytes:
    connection = apsw.Connection(str(path))
    connection.execute(before)
    connection.execute(script)
    connection.close()
    return path.read_bytes()


def problem_of(path: Path) -> str:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert len(caught.value.problems) == 1, caught.value.problems
    return caught.value.problems[0]


def solve(scenario: Scenario) -> None:
    report = audit(scenario, seeds=[0, 1, 2, 800_000, 900_000])
    assert report.ok, [str(breach) for breach in report.breaches]


# -- accepted -------------------------------------------------------------------------------------------


def test_a_script(write: Write) -> None:
    scenario = load_scenario(write())
    solve(scenario)
    world = Sampler(scenario).task(0).world.open()
    assert set(world.image.columns) == {"Album", "Track", "Play List"}
    assert world.image.keys["Play List"] == ("List Id", "TrackId")
    assert world.value("SELECT Title FROM Album WHERE AlbumId = 2") == "Zweites -- Stück"
    tables = scenario.toolbox.dispatch(world, "list_tables", {}).content["tables"]
    assert {"name": "Track", "rows": 5} in tables
    assert len(tables) == 3, "SQLite's own tables are not shown"


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_sqlite_file_in_a_folder_of_its_own(write: Write, tmp_path: Path, mode: str) -> None:
    data = sqlite_file(tmp_path / "made.db", before=f"PRAGMA journal_mode = {mode};")
    assert data[18] == (2 if mode == "wal" else 1)
    path = write("data/music.sqlite", data)
    solve(load_scenario(path))
    assert (tmp_path / "data" / "music.sqlite").read_bytes() == data, "it is only read"
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["music.sqlite"]


def test_every_split_has_the_one_world(write: Write) -> None:
    sampler = Sampler(load_scenario(write()))
    assert len({id(sampler.task(seed).world) for seed in (0, 1, 800_000, 900_000)}) == 1


def test_a_task_can_be_pickled(write: Write) -> None:
    task = Sampler(load_scenario(write("data/music.sql"))).task(3)
    twin = pickle.loads(pickle.dumps(task))
    assert twin.instruction == task.instruction
    assert twin.world.data == task.world.data


def test_its_worlds_have_no_today(write: Write) -> None:
    """A new row may hold the day on which generated worlds stand still; a database of one's own has no such day."""
    assert load_scenario(write()).worlds.today == ""
    assert load_scenario("database").worlds.today == "2026-03-15"


def test_a_misspelt_column_of_a_row_is_found(write: Write) -> None:
    path = write()
    path.write_text(path.read_text().replace("track.Composer | upper", "track.Compose | upper"))
    assert problem_of(path).endswith("track has no column Compose; it has TrackId, Name, AlbumId, Composer, Price")


def test_an_environment_runs_on_it(write: Write) -> None:
    env = gymnasium.make("ToolEnv-v0", scenario=write())
    _, info = env.reset(seed=3)
    track = info["messages"][1]["content"]
    assert "rack" in track or "Composer" in track
    *_, info = env.step({"name": "run_sql", "arguments": {"sql": "SELECT count(*) FROM Cheap"}})
    assert info["messages"][-1]["content"] == '{"columns":["count(*)"],"rows":[[4]],"truncated":false}'
    env.close()


def test_a_changed_database_is_another_version(write: Write) -> None:
    before = load_scenario(write()).version
    path = write(content=SCRIPT.replace("Mozart", "Haydn"))
    scenario = load_scenario(path)
    assert scenario.version != before
    assert scenario.worlds.image(0).open().value("SELECT Composer FROM Track WHERE TrackId = 1") == "Haydn"


def test_a_dataset_takes_it_along(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "dataset"
    collect(write("data/music.sql"), "oracle", n=6, out=out, processes=2, shard_size=3)
    (tmp_path / "data" / "music.sql").unlink()
    (tmp_path / "scenario.yaml").unlink()
    replayer = Replayer(scenario_of(out))
    trajectories = list(read_trajectories(out))
    assert len(trajectories) == 6
    assert all(trajectory.success for trajectory in trajectories)
    assert all(replayer.replay(trajectory).same for trajectory in trajectories)
    replayer.close()


# -- refused --------------------------------------------------------------------------------------------


def test_a_missing_file(write: Write) -> None:
    path = write("gone.sqlite", None)
    assert problem_of(path) == f"{path}:7: population.path: gone.sqlite: no such file"


def test_a_folder(write: Write, tmp_path: Path) -> None:
    (tmp_path / "folder.sqlite").mkdir()
    assert "folder.sqlite" in problem_of(write("folder.sqlite", None))


@pytest.mark.parametrize("outside", ["/etc/passwd", "../music.sql", "data/../../x.sql"])
def test_a_path_that_leads_out_of_the_folder(write: Write, outside: str) -> None:
    problem = problem_of(write(outside, None))
    assert ":7: population.path: " in problem
    assert "within the folder" in problem


def test_no_path(write: Write) -> None:
    path = write()
    path.write_text(path.read_text().replace("  path: music.sql\n", ""))
    assert problem_of(path).endswith("population.path: Field required")


def test_no_database(write: Write) -> None:
    assert "not a SQLite database" in problem_of(write("music.sqlite", "id,name\n1,x\n"))


def test_a_damaged_database(write: Write, tmp_path: Path) -> None:
    data = sqlite_file(tmp_path / "made.db")
    damaged = data[:4096] + b"\xff" * 4096 + data[8192:]
    assert "music.sqlite: " in problem_of(write("music.sqlite", damaged))
    with pytest.raises(ScenarioError):
        load_scenario(write("music.sqlite", data[:5000]))


@pytest.mark.parametrize("name", ["large.sqlite", "large.sql"])
def test_a_file_that_is_too_large(write: Write, name: str) -> None:
    content = b"SQLite format 3\0" + b"-" * MAX_BYTES
    assert f"larger than {MAX_BYTES} bytes" in problem_of(write(name, content))


def test_a_database_in_use(write: Write, tmp_path: Path) -> None:
    path = write("music.sqlite", sqlite_file(tmp_path / "made.db"))
    (tmp_path / "music.sqlite-wal").write_bytes(b"changes")
    assert "in use" in problem_of(path)


UNFIT = {
    "no primary key": ("CREATE TABLE logs (line TEXT)", "table logs: it has no PRIMARY KEY"),
    "a key that is NULL": (
        "CREATE TABLE codes (code TEXT PRIMARY KEY); INSERT INTO codes VALUES (NULL)",
        "table codes: the primary key (code) is NULL",
    ),
    "a generated column": ("CREATE TABLE g (a INTEGER PRIMARY KEY, b AS (a + 1))", "table g: it has generated columns"),
    "too many columns": (
        f"CREATE TABLE wide (id INTEGER PRIMARY KEY, {', '.join(f'c{i}' for i in range(300))})",
        "table wide: it has more than 200 columns",
    ),
    "a row that is too large": (
        "CREATE TABLE big (id INTEGER PRIMARY KEY, photo BLOB); INSERT INTO big VALUES (1, zeroblob(100001))",
        "table big: it holds a row of more than 100000 bytes",
    ),
    "no text": (
        "CREATE TABLE bad (id INTEGER PRIMARY KEY, t); INSERT INTO bad VALUES (1, CAST(x'ff' AS TEXT))",
        "table bad: it holds text that is not UTF-8",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_tables_that_a_world_can_not_keep(write: Write, tmp_path: Path, name: str) -> None:
    more, rule = UNFIT[name]
    assert rule in problem_of(write("music.sql", f"{SCRIPT}{more};"))
    assert rule in problem_of(write("music.sqlite", sqlite_file(tmp_path / "made.db", f"{SCRIPT}{more};")))


def test_a_virtual_table_in_a_file(write: Write, tmp_path: Path) -> None:
    data = sqlite_file(tmp_path / "made.db", f"{SCRIPT} CREATE VIRTUAL TABLE words USING fts5(word);")
    with pytest.raises(ScenarioError, match="table words: virtual tables can not be kept"):
        load_scenario(write("music.sqlite", data))


def test_an_empty_script(write: Write) -> None:
    assert "there is no table in it" in problem_of(write("music.sql", "-- nothing\n"))


LINES = SCRIPT.count("\n")
BAD_LINES = {
    "syntax": ("\n-- a comment; with one\nINSERT INTO Track\n  VALUEZ (9);\n", 4, 'near "VALUEZ"'),
    "after an umlaut": (
        "INSERT INTO Album (Title) VALUES ('ü');\nSELECT 'ü',\n  nowhere;",
        3,
        "no such column: nowhere",
    ),
    "unknown table": ("\n\nINSERT INTO Trak VALUES (1);\n", 3, "no such table: Trak"),
    "two rows of one key": (
        "\nSELECT 1;\n\nINSERT INTO Track (TrackId)\n VALUES (1);\nSELECT 2;",
        4,
        "UNIQUE constraint",
    ),
    "attach": ("\nATTACH '/etc/passwd' AS x;\n", 2, "ATTACH is not allowed"),
    "virtual table": ("\nCREATE VIRTUAL TABLE v USING fts5(x);\n", 2, "virtual tables are not allowed"),
    "a function": ("\nSELECT load_extension('x');\n", 2, "the function load_extension is not allowed"),
    "chance": ("\nINSERT INTO Album (Title) VALUES (random());\n", 2, "the function random is not allowed"),
    "a transaction left open": ("BEGIN;\nDELETE FROM Track;\n", 3, "not committed"),
    "no end": ("SELECT (1\n", 1, "incomplete input"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_an_error_in_a_script_has_its_line(write: Write, name: str) -> None:
    more, line, rule = BAD_LINES[name]
    problem = problem_of(write("music.sql", SCRIPT + more))
    assert f":7: population.path: music.sql:{LINES + line}: " in problem
    assert rule in problem


def test_a_script_that_is_no_text(write: Write) -> None:
    assert "music.sql:2: not UTF-8" in problem_of(write("music.sql", b"-- a\n\xff\n"))


def test_a_script_that_never_ends(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolenv.scenarios.own_database.MAX_SECONDS", 0.2)
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c;"
    assert "takes longer than" in problem_of(write("music.sql", SCRIPT + endless))


def test_a_script_that_grows_without_bounds(write: Write) -> None:
    grow = "INSERT INTO Album (Title) VALUES (hex(zeroblob(2000000)));\n" * 6
    assert "the database is larger than" in problem_of(write("music.sql", SCRIPT + grow))


def test_names_of_tables_are_checked_against_it(write: Write) -> None:
    path = write()
    path.write_text(path.read_text().replace("{table: Track, where", "{table: Trak, where"))
    assert "families.composer.variables.track.row.table" in problem_of(path)


def test_a_scenario_may_leave_out_the_tools_that_write(write: Write) -> None:
    path = write()
    text = path.read_text()
    path.write_text(text.replace("toolbox: [database]", "toolbox: [database]\nwithout: [execute_sql, insert_row]"))
    assert not {"execute_sql", "insert_row"} & set(load_scenario(path).toolbox.names)
    assert "update_row" in load_scenario(path).toolbox
    path.write_text(text.replace("toolbox: [database]", "toolbox: [database]\nwithout: [update_row]"))
    assert problem_of(path).endswith("families.composer.plan[1].call: there is no tool update_row in the toolbox")
    path.write_text(text.replace("toolbox: [database]", "toolbox: [database]\nwithout: [run, update_rows]"))
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "without[0]: there is no tool run in the toolbox",
        "without[1]: there is no tool update_rows in the toolbox",
    ]


def test_the_tools_of_the_crm_need_its_tables(write: Write) -> None:
    path = write()
    path.write_text(path.read_text().replace("toolbox: [database]", "toolbox: [database, crm]"))
    assert problem_of(path).endswith("toolbox[1]: the tools of crm need a population of kind crm")
