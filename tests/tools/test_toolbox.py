"""Dispatch: one way from a call to the world, and whatever the agent did wrong comes back typed."""

from __future__ import annotations

import copy
import pickle

import apsw
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.scenarios.population import crm_population
from toolenv.tools import crm
from toolenv.tools.calls import READ, WRITE, Effect
from toolenv.tools.declaration import tool
from toolenv.tools.errors import AGENT_ERRORS, DeclarationError, RuleViolation
from toolenv.tools.identifiers import Identifier
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import World, WorldImage

CRM = crm_population(0)
SPARE = Identifier("spare", "z", "SPARE-[0-9]")


@tool(effect=READ)
def peek(world: World, key: str) -> object:
    """Look a value up.

    Args:
        key: Which one.
    """
    return world.one("SELECT value FROM pairs WHERE key = ?", (key,))


@tool(effect=WRITE)
def put_then_refuse(world: World, key: str) -> object:
    """Write, and then find that it was not allowed.

    Args:
        key: Which one.
    """
    world.execute("INSERT INTO pairs VALUES (?, 'x')", (key,))
    raise RuleViolation("never", "it is never allowed")


@tool(effect=WRITE)
def put_then_break(world: World, key: str) -> object:
    """Write, and then fail for a reason of the operator's.

    Args:
        key: Which one.
    """
    world.execute("INSERT INTO pairs VALUES (?, 'x')", (key,))
    raise ZeroDivisionError


TOOLBOX = Toolbox([peek, put_then_refuse, put_then_break], identifiers=[SPARE])


@pytest.fixture
def world():
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE pairs (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
    return WorldImage.of_connection(connection).open()


def test_a_result_keeps_its_text(world):
    world.execute("INSERT INTO pairs VALUES ('a', 'ä')")
    result = TOOLBOX.dispatch(world, "peek", {"key": "a"})
    assert result.ok
    assert result.effect is Effect.READ
    assert result.text == '{"value":"ä"}'
    assert result.content == {"value": "ä"}


def test_a_rejected_write_is_rolled_back(world):
    before = world.snapshot()
    result = TOOLBOX.dispatch(world, "put_then_refuse", {"key": "a"})
    assert (result.error, result.effect, result.ok) == ("rule_violation", Effect.WRITE, False)
    assert result.content == {"error": {"type": "rule_violation", "rule": "never", "message": "it is never allowed"}}
    assert world.snapshot() == before
    assert world.value("SELECT count(*) FROM pairs") == 0


def test_the_operators_error_is_raised_and_rolled_back(world):
    with pytest.raises(ZeroDivisionError):
        TOOLBOX.dispatch(world, "put_then_break", {"key": "a"})
    assert world.diff() == ()


def test_an_unknown_tool_is_named_with_the_nearest_one(world):
    result = TOOLBOX.dispatch(world, "peak", {})
    assert result.error == "unknown_tool"
    assert result.effect is None
    assert result.content["error"]["message"] == "there is no tool named peak; did you mean peek?"
    assert "did you mean" not in TOOLBOX.dispatch(world, "quite_different", {}).text
    for name in ("\ud800", "x" * 10**6, "", "\0"):
        result = TOOLBOX.dispatch(world, name, {})
        assert result.error == "unknown_tool"
        assert len(result.text) < 400
        result.text.encode()


@pytest.mark.parametrize(
    ("arguments", "field", "rule"),
    [
        ({}, "key", "missing"),
        ({"key": 3}, "key", "string_type"),
        ({"key": None}, "key", "string_type"),
        ({"key": "a", "more": 1}, "more", "extra_forbidden"),
        ([], "arguments", "model_type"),
        ("x", "arguments", "model_type"),
        (None, "arguments", "model_type"),
    ],
)
def test_invalid_arguments_name_field_and_rule(world, arguments, field, rule):
    result = TOOLBOX.dispatch(world, "peek", arguments)
    assert result.error == "invalid_arguments"
    assert (result.content["error"]["field"], result.content["error"]["rule"]) == (field, rule)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner),
    ),
    st.sampled_from(["get_order_by_id", "search_orders", "refund_order", "create_ticket", "nothing"]),
)
def test_any_arguments_give_a_typed_result_and_change_nothing(arguments, name):
    toolbox, world = Toolbox.of_families("crm"), CRM.open()
    result = toolbox.dispatch(world, name, arguments)
    assert result.error in AGENT_ERRORS
    assert world.diff() == ()
    assert orjson.loads(result.text) == result.content


def test_a_toolbox_is_an_ordered_set():
    assert TOOLBOX.names == ("peek", "put_then_refuse", "put_then_break")
    assert len(TOOLBOX) == 3
    assert "peek" in TOOLBOX
    assert "x" not in TOOLBOX
    assert TOOLBOX["peek"] is peek
    assert [item["function"]["name"] for item in TOOLBOX.to_openai()] == list(TOOLBOX.names)
    with pytest.raises(DeclarationError, match="two tools are named peek"):
        Toolbox([peek, peek])
    with pytest.raises(DeclarationError, match="no tool family 'nothing'"):
        Toolbox.of_families("nothing")


def test_the_version_follows_from_tools_and_order():
    assert Toolbox([peek, put_then_refuse]).version != Toolbox([put_then_refuse, peek]).version
    assert Toolbox([peek]).version == Toolbox(iter([peek])).version
    assert len({Toolbox([peek]).version, Toolbox([put_then_refuse]).version, Toolbox([]).version}) == 3


def test_identifiers_are_those_taken_and_those_shown():
    toolbox = Toolbox.of_families("crm")
    assert set(toolbox.identifiers) < set(toolbox.shown_identifiers)
    assert set(toolbox.shown_identifiers) == set(crm.IDENTIFIERS)
    assert TOOLBOX.identifiers == ()
    assert TOOLBOX.shown_identifiers == (SPARE,)


def test_shipped_tools_are_pickled_and_copied():
    toolbox = Toolbox.of_families("crm")
    for twin in (pickle.loads(pickle.dumps(toolbox)), copy.deepcopy(toolbox)):
        assert twin.version == toolbox.version
        assert twin["check_stock"] is toolbox["check_stock"]
        assert twin.shown_identifiers == toolbox.shown_identifiers
