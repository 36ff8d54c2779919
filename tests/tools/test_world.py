"""Worlds: forks, snapshots, digests and diffs agree with what the tables hold, whatever happened on the way."""

from __future__ import annotations

import pickle
from random import Random

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.scenarios.population import crm_population
from toolenv.tools.errors import ScenarioError
from toolenv.tools.world import RowChange, World, WorldImage, WorldSnapshot

SCHEMA = """
CREATE TABLE item (id TEXT PRIMARY KEY, size INTEGER, note TEXT, data BLOB, weight REAL) WITHOUT ROWID;
CREATE TABLE link (a INTEGER, b INTEGER, label TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE log (n INTEGER PRIMARY KEY, line TEXT);
"""


def make_image(rows: int = 5) -> WorldImage:
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    for i in range(rows):
        connection.execute("INSERT INTO item VALUES (?, ?, ?, ?, ?)", (f"i{i}", i, f"note {i}", bytes([i]), i / 2))
        connection.execute("INSERT INTO link VALUES (?, ?, ?)", (i, i + 1, "l"))
        connection.execute("INSERT INTO log VALUES (?, ?)", (i + 1, "line"))
    return WorldImage.of_connection(connection, "toy")


IMAGE = make_image()


def dump(world: World) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, with the types of its values."""
    return {
        table: sorted(
            (tuple((type(v).__name__, v) for v in row.values()) for row in world.all(f'SELECT * FROM "{table}"')),
            key=repr,
        )
        for table in world.image.columns
    }


def from_scratch(world: World) -> str:
    """The digest as if the world's state were an image of its own."""
    return WorldImage(world.snapshot().data).open().digest()


# -- random histories ----------------------------------------------------------------------------------

VALUES = st.none() | st.integers(-3, 3) | st.sampled_from(["", "x", "00", "note 1"]) | st.binary(max_size=2)
REALS = st.sampled_from([0.0, 0.5, float("inf"), float("-inf"), None])
STATEMENTS = st.one_of(
    st.tuples(
        st.just("INSERT OR REPLACE INTO item VALUES (?, ?, ?, ?, ?)"),
        st.tuples(st.sampled_from(["i0", "i1", "n1", "n2"]), VALUES, VALUES, VALUES, REALS),
    ),
    st.tuples(st.just("UPDATE item SET note = ? WHERE id = ?"), st.tuples(VALUES, st.sampled_from(["i0", "i1", "n1"]))),
    st.tuples(st.just("UPDATE OR REPLACE item SET id = ? WHERE id = ?"), st.sampled_from([("m1", "i0"), ("i0", "m1")])),
    st.tuples(st.just("DELETE FROM item WHERE id = ?"), st.sampled_from([("i0",), ("i1",), ("n1",)])),
    st.tuples(st.just("UPDATE link SET label = ? WHERE a = ?"), st.tuples(VALUES, st.integers(0, 2))),
    st.tuples(st.just("UPDATE OR REPLACE link SET b = b + 10 WHERE a = ?"), st.tuples(st.integers(0, 2))),
    st.tuples(st.just("INSERT INTO log (line) VALUES (?)"), st.tuples(VALUES)),
    st.tuples(st.just("DELETE FROM log WHERE n = ?"), st.tuples(st.integers(1, 7))),
)
MOVES = st.lists(STATEMENTS | st.sampled_from(["fork", "snapshot", "restore", "roll back"]), max_size=12)


class RolledBackError(Exception):
    """Raised to leave an atomic block."""


def roll_back(world: World, sql: str) -> None:
    with world.atomic():
        world.execute(sql)
        raise RolledBackError


def play(moves) -> World:
    """A world after a history, with everything that can be asked of it checked on the way."""
    world = IMAGE.open()
    snapshots: list[tuple[WorldSnapshot, object]] = [(world.snapshot(), dump(world))]
    for move in moves:
        if move == "fork":
            world = world.fork()
        elif move == "snapshot":
            snapshots.append((world.snapshot(), dump(world)))
        elif move == "restore":
            snapshot, state = snapshots[len(snapshots) // 2]
            world.restore(snapshot)
            assert dump(world) == state
            assert world.snapshot() == snapshot
        elif move == "roll back":
            before = dump(world), world.digest(), world.diff()
            with pytest.raises(RolledBackError):
                roll_back(world, "UPDATE item SET size = 99")
            assert (dump(world), world.digest(), world.diff()) == before
        else:
            sql, parameters = move
            world.execute(sql, parameters)
    return world


@settings(deadline=None, max_examples=200)
@given(MOVES)
def test_the_digest_is_that_of_the_state_whatever_the_history(moves):
    world = play(moves)
    assert world.digest() == from_scratch(world)


@settings(deadline=None, max_examples=200)
@given(MOVES, MOVES)
def test_snapshots_and_digests_are_equal_exactly_when_the_tables_are(first, second):
    one, other = play(first), play(second)
    equal = dump(one) == dump(other)
    assert (one.snapshot() == other.snapshot()) == equal
    assert (one.digest() == other.digest()) == equal
    if equal:
        assert hash(one.snapshot()) == hash(other.snapshot())
        assert one.diff() == other.diff()


@settings(deadline=None, max_examples=200)
@given(MOVES)
def test_the_diff_turns_the_image_into_the_world(moves):
    world = play(moves)
    rebuilt = IMAGE.open()
    for change in world.diff():
        where = " AND ".join(f"{column} IS ?" for column in change.key)
        key = list(change.key.values())
        table = change.table
        found = rebuilt.one(f"SELECT * FROM {table} WHERE {where}", key)
        if change.op == "insert":
            assert found is None
            assert not change.before
            marks = ", ".join("?" * len(change.after))
            rebuilt.execute(f"INSERT INTO {table} VALUES ({marks})", list(change.after.values()))
        else:
            assert found is not None
            assert change.before.items() <= found.items()
            if change.op == "delete":
                assert not change.after
                rebuilt.execute(f"DELETE FROM {table} WHERE {where}", key)
            else:
                assert change.before.keys() == change.after.keys()
                sets = ", ".join(f"{column} = ?" for column in change.after)
                rebuilt.execute(f"UPDATE {table} SET {sets} WHERE {where}", [*change.after.values(), *key])
    assert dump(rebuilt) == dump(world)


@settings(deadline=None)
@given(MOVES, STATEMENTS)
def test_what_is_done_to_a_fork_is_not_done_to_the_world(moves, statement):
    world = play(moves)
    before = dump(world), world.digest()
    fork = world.fork()
    assert (dump(fork), fork.digest()) == before
    fork.execute(*statement)
    assert (dump(world), world.digest()) == before
    after = dump(fork), fork.digest()
    world.execute("DELETE FROM item")
    assert (dump(fork), fork.digest()) == after


def test_independent_writes_in_any_order_give_one_digest():
    image = crm_population(0)
    customers = [row["id"] for row in image.open().all("SELECT id FROM customers")]
    writes = [
        *(
            ("UPDATE customers SET tier = 'gold', city = ? WHERE id = ?", (f"City {i}", c))
            for i, c in enumerate(customers)
        ),
        *(
            ("INSERT INTO notes VALUES (?, ?, NULL, 'hi', '2026-01-01')", (f"NOT-9{i:04}", c))
            for i, c in enumerate(customers)
        ),
        ("DELETE FROM refunds", ()),
    ]
    digests = set()
    for seed in range(8):
        world, rng = image.open(), Random(seed)
        for sql, parameters in rng.sample(writes, len(writes)):
            if rng.random() < 0.1:
                world = world.fork()
            world.execute(sql, parameters)
        assert world.digest() == from_scratch(world)
        digests.add(world.digest())
    assert len(digests) == 1
    assert digests != {image.open().digest()}


# -- single cases --------------------------------------------------------------------------------------


def test_changed_and_changed_back_is_no_change():
    world = IMAGE.open()
    start = world.snapshot()
    for step in (lambda: world, world.fork):
        moved = step()
        moved.execute("UPDATE item SET note = 'other' WHERE id = 'i1'")
        moved.execute("INSERT INTO item (id) VALUES ('new')")
        moved.execute("DELETE FROM link WHERE a = 1")
        for back in (moved, moved.fork()):
            assert {(change.table, change.op) for change in back.diff()} == {
                ("item", "update"),
                ("item", "insert"),
                ("link", "delete"),
            }
            back.execute("UPDATE item SET note = 'note 1' WHERE id = 'i1'")
            back.execute("DELETE FROM item WHERE id = 'new'")
            back.execute("INSERT INTO link VALUES (1, 2, 'l')")
            assert back.diff() == ()
            assert back.digest() == start.digest
            assert back.snapshot() == start
        world.restore(start)


def test_a_diff_is_sorted_and_tells_only_what_changed():
    world = IMAGE.open()
    world.execute("UPDATE link SET label = 'x' WHERE a = 2")
    world.execute("UPDATE item SET size = 9 WHERE id = 'i3'")
    world.execute("DELETE FROM log WHERE n = 1")
    assert world.diff() == (
        RowChange("item", "update", {"id": "i3"}, {"size": 3}, {"size": 9}),
        RowChange("link", "update", {"a": 2, "b": 3}, {"label": "l"}, {"label": "x"}),
        RowChange("log", "delete", {"n": 1}, {"n": 1, "line": "line"}, {}),
    )


def test_values_of_different_types_are_different_states():
    """A blob and the text of its digits, an infinity and NULL, 1 and 1.0."""
    digests = set()
    values = ["00", b"\x00", None, float("inf"), float("-inf"), 0, 0.5, "", b"", "null"]
    for value in values:
        world = IMAGE.open()
        world.execute("UPDATE item SET data = ? WHERE id = 'i1'", (value,))
        digests.add(world.digest())
        assert world.digest() == from_scratch(world)
    assert len(digests) == len(values)


def test_a_world_is_restored_onto_another_image():
    other = make_image(rows=2)
    world = IMAGE.open()
    world.execute("DELETE FROM item")
    target = other.open()
    target.one("SELECT * FROM item")
    target.restore(world.snapshot())
    assert target.image is IMAGE
    assert target.diff() == world.diff()
    assert target.digest() == world.digest()
    target.restore(other.open().snapshot())
    assert target.diff() == ()
    assert len(target.all("SELECT * FROM item")) == 2


def test_snapshots_and_images_are_pickled():
    world = IMAGE.open().fork()
    world.execute("DELETE FROM item WHERE id = 'i1'")
    snapshot = pickle.loads(pickle.dumps(world.snapshot()))
    assert snapshot == world.snapshot()
    assert snapshot != "a snapshot"
    restored = IMAGE.open()
    restored.restore(snapshot)
    assert restored.diff() == world.diff()
    assert pickle.loads(pickle.dumps(IMAGE)).open().digest() == IMAGE.open().digest()


def test_rows_are_read_as_mappings():
    world = IMAGE.open()
    assert world.one("SELECT id, size FROM item ORDER BY id") == {"id": "i0", "size": 0}
    assert world.one("SELECT id FROM item WHERE id = 'none'") is None
    assert world.one("SELECT id FROM item WHERE id = ?", ("i2",)) == {"id": "i2"}
    assert world.all("SELECT a FROM link WHERE a > 9") == []
    assert [row["a"] for row in world.all("SELECT a FROM link ORDER BY a")] == [0, 1, 2, 3, 4]
    assert world.value("SELECT count(*) FROM item") == 5
    assert world.value("SELECT id FROM item WHERE id = 'none'") is None
    assert world.execute("UPDATE item SET size = 1 WHERE size > 2") == 2


def test_a_query_that_first_finds_nothing_is_not_learnt_wrongly():
    image = make_image(rows=0)
    world = image.open()
    query = "SELECT id, size FROM item"
    assert world.all(query) == []
    assert world.one(query) is None
    world.execute("INSERT INTO item (id, size) VALUES ('a', 1)")
    assert world.all(query) == [{"id": "a", "size": 1}]
    assert image.open().all(query) == []


def test_a_world_can_be_made_read_only():
    world = IMAGE.open()
    world.forbid_writing()
    assert world.value("SELECT upper(note) FROM item WHERE id = 'i1'") == "NOTE 1"
    for sql in ("DELETE FROM item", "ATTACH ':memory:' AS x", "PRAGMA user_version = 3", "CREATE TABLE t (x)"):
        with pytest.raises(apsw.AuthError):
            world.execute(sql)


def test_a_table_without_a_primary_key_is_refused():
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE loose (x)")
    with pytest.raises(ScenarioError, match="table loose has no PRIMARY KEY"):
        WorldImage.of_connection(connection, "mine").open().digest()


def test_atomic_blocks_nest():
    world = IMAGE.open()
    with world.atomic():
        world.execute("UPDATE item SET size = 7 WHERE id = 'i0'")
        with pytest.raises(RolledBackError):
            roll_back(world, "UPDATE item SET size = 8 WHERE id = 'i1'")
    assert [change.key for change in world.diff()] == [{"id": "i0"}]


# -- what the database tools rest on ----------------------------------------------------------------------


def end_the_transaction(world):
    with world.atomic():
        world.execute("UPDATE item SET size = 7 WHERE id = 'i0'")
        world.execute("INSERT OR ROLLBACK INTO item SELECT * FROM item")


def test_a_block_whose_transaction_sqlite_ended_leaves_the_world_usable():
    world = IMAGE.open()
    before = world.digest()
    with pytest.raises(apsw.ConstraintError):
        end_the_transaction(world)
    assert world.digest() == before
    with world.atomic():
        world.execute("UPDATE item SET size = 8 WHERE id = 'i0'")
    assert len(world.diff()) == 1


def test_the_clock_stands_still_and_sorting_uses_no_files():
    world = IMAGE.open()
    assert world.value("SELECT datetime('now') || date() || current_time") == "2026-03-15 12:00:002026-03-1512:00:00"
    assert world.value("PRAGMA temp_store") == 2


def test_keys_views_and_tables_with_names_that_need_quotes():
    connection = apsw.Connection(":memory:")
    connection.execute("""
        CREATE TABLE "a ""b" ("x y" TEXT, "select" INTEGER, v, PRIMARY KEY ("select", "x y"));
        CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT);
        INSERT INTO "a ""b" VALUES ('k', 1, 'old');
        INSERT INTO counted DEFAULT VALUES;
        CREATE VIEW seen AS SELECT v FROM "a ""b";
    """)
    image = WorldImage.of_connection(connection)
    assert image.keys == {'a "b': ("select", "x y"), "counted": ("id",)}
    assert image.views == {"seen"}
    world = image.open()
    world.execute('UPDATE "a ""b" SET v = ?', ("new",))
    assert world.diff() == (RowChange('a "b', "update", {"x y": "k", "select": 1}, {"v": "old"}, {"v": "new"}),)
    assert world.digest() == from_scratch(world)


def test_a_confined_block_holds_only_within():
    world = IMAGE.open()
    asked = []

    def refuse(action, *details):
        asked.append(action)
        return apsw.SQLITE_DENY

    with world.confined(refuse, {apsw.SQLITE_LIMIT_LENGTH: 5_000}, lambda: False, 1) as connection:
        assert connection.limit(apsw.SQLITE_LIMIT_LENGTH) == 5_000
        with pytest.raises(apsw.AuthError):
            world.value("SELECT 1")
    assert asked
    assert world.value("SELECT length(hex(zeroblob(5000)))") == 10_000
