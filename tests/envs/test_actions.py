"""Reading actions: everything is read as something, nothing raises, and what is kept reads the same again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.envs.actions import Answer, Call, Malformed, parse_action
from toolenv.envs.conformance import bad_actions
from toolenv.envs.tool_env import ToolEnv
from toolenv.tools.calls import MAX_ACTION_BYTES
from toolenv.tools.errors import AGENT_ERRORS, MalformedCall

DESK = Path(__file__).parents[1] / "data" / "desk.yaml"
ENV = ToolEnv(DESK)

# Text of every kind, lone surrogates too.
texts = st.text(st.characters(exclude_categories=())) | st.sampled_from(["name", "arguments", "answer", "reasoning"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
json_values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20)
objects = st.recursive(
    leaves
    | st.binary()
    | st.complex_numbers()
    | st.dates()
    | st.uuids()
    | st.sampled_from([object(), int, len, np.int8(3), np.float64("nan"), np.array(["a"]), np.str_("x"), ...]),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.none() | st.integers() | texts, inner)
        | st.frozensets(st.integers())
        | st.fixed_dictionaries({"name": inner, "arguments": inner})
        | st.fixed_dictionaries(
            {"name": st.sampled_from(ENV.toolbox.names), "arguments": st.dictionaries(texts, inner)}
        )
        | st.fixed_dictionaries({"answer": inner}, optional={"reasoning": inner})
    ),
    max_leaves=12,
)


def step(action):
    ENV.reset(seed=3)
    observation, reward, terminated, truncated, info = ENV.step(action)
    assert observation in ENV.observation_space
    json.dumps(info["messages"]).encode()
    return observation["result"].tobytes(), reward, terminated, truncated, info


@settings(deadline=None)
@given(json_values | objects | json_values.map(json.dumps))
def test_any_object_as_an_action_gives_an_observation_or_an_end(action):
    _, _, terminated, truncated, info = step(action)
    assert info["error"] is None or info["error"] in AGENT_ERRORS
    assert terminated == ("grade" in info)
    assert not truncated


@settings(deadline=None)
@given(json_values | objects | texts)
def test_what_an_action_was_kept_as_gives_the_same_when_it_is_handed_in_again(action):
    kept = parse_action(action).to_action()
    assert step(action) == step(kept)
    assert step(kept) == step(json.loads(json.dumps(kept)))


@settings(deadline=None)
@given(json_values)
def test_a_mapping_and_its_text_are_the_same_action(value):
    for action in (value, {"name": "get_order_status", "arguments": {"order_id": value}}, {"answer": value}):
        text = json.dumps(action)
        assert step(action)[:4] == step(text)[:4] or isinstance(action, str)


@pytest.mark.parametrize("number", range(len(bad_actions())))
def test_a_bad_action_is_printable_and_bounded(number):
    action = parse_action(bad_actions()[number])
    if isinstance(action, Malformed):
        action.raw.encode()
        assert len(action.raw) <= 10 * MAX_ACTION_BYTES
        assert parse_action(action.raw).error.payload() == action.error.payload()


@pytest.mark.parametrize(
    ("action", "rule"),
    [
        ("not JSON", "json"),
        ("x" * (MAX_ACTION_BYTES + 1), "size"),
        ({"answer": "x" * MAX_ACTION_BYTES}, "size"),
        ({"answer": "é" * 40_000}, "size"),
        ({"answer": float("inf")}, "json"),
        ({"answer": "\ud800"}, "json"),
        ('{"answer": "\\ud800"}', "json"),
        ({"name": "x", "arguments": {}, "other": 1}, "shape"),
        ({"answer": "x", "arguments": {}}, "shape"),
        ([], "shape"),
        ("[" * 100_000, "size"),
        ("[" * 60_000, "json"),
        ({"name": "x", "arguments": {}, "reasoning": 3}, "shape"),
    ],
)
def test_the_rule_that_a_bad_action_breaks_is_named(action, rule):
    read = parse_action(action)
    assert isinstance(read, Malformed)
    assert read.error.details["rule"] == rule


def test_calls_and_answers_keep_their_reasoning():
    call = {"name": "x", "arguments": {"a": [1, None, 2.5]}, "reasoning": "why"}
    assert parse_action(call) == Call("x", {"a": [1, None, 2.5]}, "why")
    assert parse_action(json.dumps(call)).to_action() == call
    answer = {"answer": "y", "reasoning": "why"}
    assert parse_action(answer) == Answer("y", "why")
    assert parse_action(Answer("y", "why")).to_action() == answer
    assert Answer("y").to_action() == {"answer": "y"}


def test_an_action_is_copied():
    """An agent that reuses its dict does not rewrite the conversation."""
    action = {"name": "search_orders", "arguments": {"status": "paid"}}
    ENV.reset(seed=3)
    _, _, _, _, info = ENV.step(action)
    before = ENV.snapshot()
    action["arguments"]["status"] = "shipped"
    assert info["messages"][0]["tool_calls"][0]["function"]["arguments"] == {"status": "paid"}
    assert ENV.snapshot() == before


def test_what_orjson_would_write_by_itself_becomes_plain_json():
    @dataclass
    class Point:
        x: int

    arguments = {"day": date(2026, 3, 1), "point": Point(1), "pair": (1, 2)}
    read = parse_action({"name": "x", "arguments": arguments})
    assert read == Call("x", {"day": "2026-03-01", "point": {"x": 1}, "pair": [1, 2]})


def test_a_call_object_is_checked_as_a_mapping_is():
    """Dialects make them, from text that may hold anything."""
    assert isinstance(parse_action(Call("x", {"a": float("nan")})), Malformed)
    assert isinstance(parse_action(Answer("\ud800")), Malformed)
    assert Malformed("\ud800" + "x" * 10**6, MalformedCall("no")).raw.startswith("\\ud800x")
    assert len(Malformed("x" * 10**6, MalformedCall("no")).raw) == MAX_ACTION_BYTES + 1


def test_what_a_dialect_could_not_read_gives_what_its_text_gives():
    """A record keeps the text alone, so the dialect's own reason must not reach the conversation."""
    refused = Malformed("<call>nonsense", MalformedCall("a reason of its own", field="arguments", rule="dialect"))
    again = parse_action(refused)
    assert isinstance(again, Malformed)
    assert again.raw == refused.raw
    assert again.error.payload() == parse_action(again.raw).error.payload()
    assert again.error.message == "the action is not JSON"
