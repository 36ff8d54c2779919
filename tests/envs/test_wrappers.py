"""Acting by text, by aliases and by number."""

from __future__ import annotations

import json
import pickle
import re
import sys
from functools import partial
from pathlib import Path
from typing import Literal

import gymnasium
import numpy as np
import pytest

import toolenv  # noqa: F401  # registers the environments
from toolenv.envs.actions import Call
from toolenv.envs.spaces import decode_text
from toolenv.envs.tool_env import ToolEnv
from toolenv.envs.wrappers import CallTextSpace, DiscreteActions, EntityAliases, TextActions
from toolenv.tools.calls import READ
from toolenv.tools.declaration import tool
from toolenv.tools.errors import MalformedCall
from toolenv.tools.identifiers import EMAIL
from toolenv.tools.toolbox import Toolbox

REPOSITORY = Path(__file__).parents[2]
DESK = REPOSITORY / "tests" / "data" / "desk.yaml"
STATUS_TASK = {"task": "crm/order_status/3"}
IDENTIFIER = re.compile(r"[A-Z]{3}-\d{5}")


def crm(**options):
    return gymnasium.make("ToolEnv-CRM-v0", **options)


# -- text ----------------------------------------------------------------------------------------------


def python_call(text):
    """`name(a="x")`, the way some models write calls."""
    found = re.fullmatch(r"(\w+)\((?:(\w+)=\"(.*)\")?\)", text)
    if found is None:
        raise MalformedCall("not a call in Python's form", rule="python")
    name, argument, value = found.groups()
    return Call(name, {argument: value} if argument else {})


def test_text_actions_are_read_by_the_parser():
    env = TextActions(crm(), parse=python_call)
    env.reset(options=STATUS_TASK)
    order = IDENTIFIER.search(env.unwrapped.task.instruction).group()
    info = env.step(f'get_order_status(order_id="{order}")')[4]
    assert info["error"] is None
    assert json.loads(info["messages"][1]["content"])["order_id"] == order
    info = env.step("get_order_status, please")[4]
    assert info["error"] == "malformed_call"
    assert json.loads(info["messages"][1]["content"])["error"]["rule"] == "python"
    assert env.step(Call("search_orders", {"status": "paid"}))[4]["error"] is None


def test_a_parser_that_fails_is_the_operators_error():
    env = TextActions(crm(), parse=lambda text: {}[text])
    env.reset(seed=1)
    with pytest.raises(KeyError):
        env.step("x")


def test_texts_are_sampled_from_the_calls():
    env = TextActions(crm())
    space = env.action_space
    space.seed(4)
    drawn = [space.sample() for _ in range(30)]
    space.seed(4)
    assert drawn == [space.sample() for _ in range(30)]
    assert all(text in space and json.loads(text) in env.unwrapped.action_space for text in drawn)
    assert space.sample(["check_stock"]).startswith('{"name":"check_stock"')
    assert "any text" in space
    assert 3 not in space
    assert "x" * 70_000 not in space
    assert space == CallTextSpace(crm().action_space)
    assert space != CallTextSpace(crm().action_space, str)
    assert not space.is_np_flattenable
    assert "ToolCallSpace" in repr(space)
    assert pickle.loads(pickle.dumps(space)) == space


# -- aliases -------------------------------------------------------------------------------------------


def test_an_agent_sees_aliases_and_acts_by_them():
    env = EntityAliases(crm())
    observation, info = env.reset(options=STATUS_TASK)
    instruction = info["messages"][1]["content"]
    assert "<o1>" in instruction
    assert decode_text(observation["instruction"]) == instruction
    observation, _, _, _, info = env.step({"name": "get_order_by_id", "arguments": {"order_id": "<o1>"}})
    call, reply = info["messages"]
    assert call["tool_calls"][0]["function"]["arguments"] == {"order_id": "<o1>"}
    assert decode_text(observation["result"]) == reply["content"]
    assert json.loads(reply["content"])["id"] == "<o1>"
    assert json.loads(reply["content"])["customer_id"] == "<c1>"
    assert decode_text(observation["instruction"]) == instruction
    status = json.loads(reply["content"])["status"]
    real = env.unwrapped.messages[-1]["content"]
    assert env.aliases.reveal(reply["content"]) == real
    _, reward, _, _, info = env.step({"answer": f"Order <o1> is {status}."})
    assert reward == 1.0
    assert info["messages"][0]["content"] == f"Order <o1> is {status}."
    assert IDENTIFIER.search(env.unwrapped.messages[-1]["content"])


def test_no_identifier_is_left_in_what_an_agent_sees():
    env = EntityAliases(crm(families="all"))
    for seed in range(60):
        observation, info = env.reset(seed=seed)
        env.action_space.seed(seed)
        for _ in range(4):
            shown = json.dumps(info["messages"]) + decode_text(observation["result"])
            shown += decode_text(observation["instruction"])
            assert IDENTIFIER.search(shown) is None, shown
            assert re.search(EMAIL.pattern, shown) is None, shown
            name = ("search_orders", "search_tickets", "search_customers")[seed % 3]
            arguments = {"customer_id": "<c1>"} if name != "search_customers" else {"tier": "gold"}
            observation, _, _, _, info = env.step({"name": name, "arguments": arguments})


def test_an_unknown_alias_is_the_agents_error_and_numbers_begin_anew():
    env = EntityAliases(crm())
    env.reset(options=STATUS_TASK)
    info = env.step({"name": "get_order_status", "arguments": {"order_id": "<o9>"}})[4]
    assert info["error"] == "invalid_arguments"
    env.reset(options={"task": "crm/order_status/4"})
    assert env.aliases.seen()["order"] == IDENTIFIER.findall(env.unwrapped.task.instruction)


def test_a_wrapped_fork_has_the_same_aliases():
    env = EntityAliases(crm())
    env.reset(options=STATUS_TASK)
    env.step({"name": "search_orders", "arguments": {"status": "paid"}})
    fork = EntityAliases(env.unwrapped.fork())
    action = {"name": "get_order_by_id", "arguments": {"order_id": "<o4>"}}
    first, second = env.step(action), fork.step(action)
    assert first[4] == second[4]
    assert all(np.array_equal(first[0][key], second[0][key]) for key in first[0])


def test_only_the_given_kinds_are_hidden():
    env = EntityAliases(crm(), identifiers=[EMAIL])
    _, info = env.reset(options=STATUS_TASK)
    assert IDENTIFIER.search(info["messages"][1]["content"])


def test_text_outside_aliases_reads_any_form():
    env = TextActions(EntityAliases(crm()), parse=python_call)
    env.reset(options=STATUS_TASK)
    assert env.step('get_order_status(order_id="<o1>")')[4]["error"] is None
    assert env.step("get <o1>")[4]["messages"][0]["content"] == "get <o1>"


# -- numbers -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbered():
    return DiscreteActions(crm(), identifier_slots=2, value_slots=3)


def choose(env, text):
    return [str(choice) for choice in env.choices].index(text)


def test_the_table_lists_every_combination(numbered):
    names = [str(choice) for choice in numbered.choices]
    assert len(set(names)) == len(names) == numbered.action_space.n
    assert "get_order_status(order_id=<order 2>)" in names
    assert "cancel_order(order_id=<order 1>, reason=late)" in names
    assert "search_orders(customer_id=<customer 2>)" in names
    assert "answer(<value 3>)" in names
    assert "answer({values})" in names
    assert "answer(Done.)" in names
    assert not any(name.startswith(("refund_order", "search_customers", "add_customer_note")) for name in names)


def test_the_mask_follows_the_conversation(numbered):
    _, info = numbered.reset(options=STATUS_TASK)
    status = choose(numbered, "get_order_status(order_id=<order 1>)")
    second = choose(numbered, "get_order_status(order_id=<order 2>)")
    value = choose(numbered, "answer(<value 2>)")
    assert info["action_mask"][[status, second, value]].tolist() == [1, 0, 0]
    assert np.array_equal(info["action_mask"].astype(bool), numbered.action_masks())
    observation, reward, _, _, info = numbered.step(status)
    assert observation in numbered.observation_space
    assert info["action_mask"][[status, second, value]].tolist() == [1, 0, 1]
    assert choose(numbered, "answer(<value 3>)") not in np.flatnonzero(info["action_mask"])
    _, reward, terminated, _, info = numbered.step(np.array(value))
    assert (reward, terminated) == (1.0, True)


def test_all_values_can_be_answered_together(numbered):
    numbered.reset(options=STATUS_TASK)
    numbered.step(choose(numbered, "get_order_status(order_id=<order 1>)"))
    info = numbered.step(choose(numbered, "answer({values})"))[4]
    order, status = (
        numbered.unwrapped.task.variables["order"]["id"],
        numbered.unwrapped.task.variables["order"]["status"],
    )
    assert info["messages"][0]["content"] == f"{order}, {status}"


@pytest.mark.parametrize(
    "action", [-1, 10**9, "x", '{"answer": "x"}', None, {"answer": "x"}, 1.5, [1], np.array([1, 2])]
)
def test_what_is_no_number_of_the_table_is_the_agents_error(numbered, action):
    numbered.reset(options=STATUS_TASK)
    assert numbered.step(action)[4]["error"] == "malformed_call"


def test_what_the_mask_forbids_is_the_agents_error(numbered):
    for name, error in (
        ("get_order_status(order_id=<order 2>)", "invalid_arguments"),
        ("answer(<value 1>)", "malformed_call"),
        ("answer({values})", "malformed_call"),
    ):
        numbered.reset(options=STATUS_TASK)
        assert numbered.step(choose(numbered, name))[4]["error"] == error


def test_observations_are_numbers_between_zero_and_one_and_never_the_identifiers(numbered):
    first, _ = numbered.reset(options=STATUS_TASK)
    for _ in range(30):
        numbered.action_space.seed(3)
        observation, info = numbered.reset(options=STATUS_TASK)
        assert np.array_equal(observation, first)
        for _ in range(4):
            observation, _, terminated, truncated, info = numbered.step(
                numbered.action_space.sample(info["action_mask"])
            )
            assert observation in numbered.observation_space
            if terminated or truncated:
                break
    other = DiscreteActions(ToolEnv(DESK), buckets=64)
    seen = set()
    for seed in range(20):
        observation, _ = other.reset(seed=seed, options={"family": "cancel_order"})
        seen.add(observation.tobytes())
    assert len(seen) == 1


def test_without_a_plain_answer_there_may_be_nothing_to_choose():
    with pytest.raises(ValueError, match="without values"):
        DiscreteActions(crm(), answers=["{value}", "{values}"])
    assert DiscreteActions(crm(), tools=(), answers=["No."]).action_space.n == 1


def test_wrappers_are_recorded_in_the_spec():
    env = DiscreteActions(crm(), tools=["check_stock"])
    again = gymnasium.make(env.spec)
    assert isinstance(again, DiscreteActions)
    assert again.choices == env.choices
    assert gymnasium.make(EntityAliases(crm()).spec).reset(seed=1)[1]["task"] == crm().reset(seed=1)[1]["task"]
    pickle.dumps(partial(EntityAliases, identifiers=(EMAIL,)))


@tool(effect=READ)
def pack(world: object, size: Literal["small", "large"], gift: bool, kind: Literal["box"]) -> None:
    """Pack it.

    Args:
        size: How large.
        gift: Whether it is a gift.
        kind: In what.
    """


@tool(effect=READ)
def ping(world: object) -> str:
    """Answer."""
    return "pong"


@tool(effect=READ)
def write_down(world: object, text: str) -> None:
    """Write it down.

    Args:
        text: What.
    """


def test_enumerations_booleans_and_constants_are_listed():
    env = ToolEnv(DESK)
    env.toolbox = Toolbox([pack, ping, write_down])
    calls = [str(choice) for choice in DiscreteActions(env).choices if str(choice)[:6] != "answer"]
    sizes = [f"pack(size={size}, gift={gift}, kind=box)" for size in ("small", "large") for gift in (False, True)]
    assert calls == [*sizes, "ping()"]


@pytest.mark.slow
def test_maskable_ppo_trains_on_it(monkeypatch, capsys):
    pytest.importorskip("sb3_contrib")
    monkeypatch.syspath_prepend(REPOSITORY / "examples")
    example = pytest.importorskip("maskable_ppo")
    monkeypatch.setattr(sys, "argv", ["maskable_ppo.py", "--steps", "6000", "--episodes", "50", "--envs", "4"])
    example.main()
    printed = capsys.readouterr().out
    before, after = (float(share) for share in re.findall(r"solved ([\d.]+)%", printed))
    assert after > before
