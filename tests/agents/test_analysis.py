"""What interactions cost and which are worth distilling; the normal form of sequences; and skeletons that load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.analysis import Interaction, analyze, interaction_of, type_of
from toolenv.agents.conversations import UNTYPED, Notes, read_conversation
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.sequences import normal_form
from toolenv.agents.skeleton import skeleton_of
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import parse_scenario

# -- sequences -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "form"),
    [
        ("", ""),
        ("a b", "a b"),
        ("a a a", "a+"),
        ("s g g g r", "s g+ r"),
        ("a b a b", "(a b)+"),
        ("a b b a b", "(a b+)+"),
        ("x a b c a b c y", "x (a b c)+ y"),
        ("a b a b c a b c", "(a b)+ c a b c"),
        ("a b b c a b c", "(a b+ c)+"),
    ],
)
def test_loops_are_folded(calls, form):
    assert normal_form(calls.split()) == form


TOOLS = st.sampled_from("abc")


@given(before=st.lists(TOOLS, max_size=3), loop=st.lists(TOOLS, min_size=1, max_size=4), times=st.integers(2, 9))
def test_how_often_a_loop_turns_makes_no_difference(before, loop, times):
    before = [tool.upper() for tool in before]
    assert normal_form([*before, *loop * times]) == normal_form([*before, *loop * 2])


@given(calls=st.lists(TOOLS, max_size=30))
def test_a_form_names_the_tools_that_were_called(calls):
    assert set(normal_form(calls)) - set("()+ ") == set(calls)


def test_an_endless_sequence_is_cut():
    assert normal_form([f"t{i}" for i in range(100_000)]).endswith("t199 …")


# -- cost ----------------------------------------------------------------------------------------------


def made(kind: str, sequence: str, tokens: int, success: bool | None = None, n: int = 1) -> list[Interaction]:
    tools = tuple(sorted(set(sequence.split())))
    return [Interaction(kind, sequence, tools, tokens, 1.0, None, 3, success)] * n


def test_the_dearest_fifth_and_the_groups_that_make_it_up():
    found = analyze(
        [
            *made("refund", "get refund", 300, True, n=15),
            *made("refund", "get refund+", 300, False, n=5),
            *made("status", "get", 50, n=80),
        ]
    )
    assert (found.cost, found.tokens, found.costless, found.usd) == ("tokens", 10_000, 0, None)
    assert dict(found.dearest)[0.2] == pytest.approx(0.6)
    assert [(group.type, group.sequence, group.n) for group in found.groups] == [
        ("refund", "get refund", 15),
        ("status", "get", 80),
        ("refund", "get refund+", 5),
    ]
    assert [round(group.cost_so_far, 6) for group in found.groups] == [0.45, 0.85, 1.0]
    assert found.groups[0].success is not None
    assert found.groups[0].success.value == 1.0
    assert found.groups[1].success is None
    assert orjson.loads(found.to_json())["groups"][0]["n"] == 15


def test_a_type_is_worth_it_if_it_is_frequent_repetitive_and_narrow():
    many = [one for i in range(60) for one in made("broad", f"t{i}", 10)]
    mixed = [one for i in range(40) for one in made("mixed", f"a{' b' * (i % 10)} c", 10)]
    found = analyze(
        [*made("good", "get", 10, n=40), *many, *mixed, *made("rare", "get", 900), *made("talk", "", 10, n=40)]
    )
    against = {candidate.type: candidate.against for candidate in found.candidates}
    assert found.candidates[0].type == "good"
    assert against["good"] == ()
    assert against["rare"] == ("comes 1 times, fewer than 30",)
    assert against["talk"] == ("calls no tool",)
    assert against["mixed"] == ("its 3 commonest sequences cover 30%, less than 60%",)
    assert "needs 60 tools, more than 12" in against["broad"]
    assert [c.type for c in analyze(made("rare", "get", 1), often=1).candidates if not c.against] == ["rare"]


@given(tokens=st.lists(st.integers(0, 1_000), min_size=1, max_size=60))
def test_shares_add_up_whatever_the_costs(tokens):
    found = analyze([one for i, spent in enumerate(tokens) for one in made(f"type{i % 7}", f"t{i % 3}", spent)])
    assert sum(group.n for group in found.groups) == len(tokens)
    assert sum(group.cost_share for group in found.groups) == pytest.approx(1)
    assert found.groups[-1].so_far == pytest.approx(1)
    costs = [group.cost_share for group in found.groups]
    assert costs == sorted(costs, reverse=True)
    assert all(cost >= share - 1e-9 for share, cost in found.dearest)
    assert found.cost == ("tokens" if any(tokens) else "seconds")


def test_there_must_be_something():
    with pytest.raises(ValueError, match="no interactions"):
        analyze([])


def conversation(kind: str | None, order: str, *, success: bool | None = None, amount: int = 5) -> Trajectory:
    def call(name: str, arguments: Any, call_id: str) -> dict[str, Any]:
        function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
        return {"role": "assistant", "tool_calls": [{"id": call_id, "function": function}], "usage": USED}

    messages = [
        {"role": "user", "content": f"Send the money for {order} back, {{please}}."},
        call("look_up", {"order": order}, "a"),
        {"role": "tool", "tool_call_id": "a", "content": orjson.dumps({"payment": f"P{order}"}).decode()},
        call("pay_back", {"payment": f"P{order}", "amount": amount}, "b"),
        {"role": "tool", "tool_call_id": "b", "content": "{}"},
        {"role": "assistant", "content": f"I paid for {order}.", "usage": USED},
    ]
    row = {"messages": messages, "task_type": kind, "success": success}
    return read_conversation(row, None, order, Notes())


USED = {"prompt_tokens": 1_000, "completion_tokens": 100}


def test_what_a_record_tells_of_its_cost():
    found = interaction_of(conversation(None, "A-7"), lambda used: used.input_tokens / 1_000)
    assert (found.type, found.tokens, found.usd, found.success) == (f"{UNTYPED}: look_up, pay_back", 3_300, 3.0, None)
    assert interaction_of(conversation("refund", "A-7")).usd is None
    assert analyze([found]).cost == "usd"


# -- skeletons -----------------------------------------------------------------------------------------


def test_a_skeleton_of_known_tools_is_a_scenario_that_its_plans_solve(scenario):
    attempts = [Attempt(seed, "order_status") for seed in range(40)]
    played = list(rollout(scenario, OraclePolicy(), attempts, families="all"))
    skeleton = skeleton_of(played, ["order_status"], name="My Orders")
    assert not any("does not load" in point for point in skeleton.open_points)
    loaded = parse_scenario(skeleton.source, "skeleton.yaml")
    assert (loaded.name, skeleton.families) == ("my_orders", ("order_status",))
    assert set(loaded.toolbox.names) == {tool for one in played for tool in one.tool_sequence}
    family = loaded.families["order_status"]
    assert family.variables["order"].row is not None
    assert all("{{ order.id }}" in phrasing for phrasing in family.phrasings)
    assert all(one.success for one in rollout(loaded, OraclePolicy(), map(Attempt, range(20))))


def test_any_family_that_ships_gives_a_skeleton_that_loads(scenario, play):
    episodes = play("oracle", range(300))
    types = sorted({type_of(one) for one in episodes})
    skeleton = skeleton_of(episodes, types, name="all")
    assert parse_scenario(skeleton.source, "all.yaml").families.keys() == set(skeleton.families) == set(types)


def test_tools_of_ones_own_are_comments_and_told(tmp_path):
    episodes = [conversation("Refund, please!", f"A-{i}", success=i != 3, amount=i) for i in range(10)]
    skeleton = skeleton_of(episodes, ["Refund, please!"], name="7 refunds")
    assert {"tool look_up", "tool pay_back"} <= {point.partition(":")[0] for point in skeleton.open_points}
    text = skeleton.source.decode()
    assert '# to be filled in, call 2: pay_back with {"payment":"PA-0","amount":0}' in text
    loaded = parse_scenario(skeleton.source, "skeleton.yaml")
    assert list(loaded.families) == ["refund_please"]
    assert loaded.name == "type_7_refunds"


def test_a_template_in_a_request_is_no_template(scenario):
    episodes = list(rollout(scenario, OraclePolicy(), [Attempt(s, "order_status") for s in range(3)], families="all"))
    hostile = [replace(one, instruction=one.instruction + " {{ 7 * 7 }} {% if %}") for one in episodes[:2]]
    skeleton = skeleton_of([*hostile, episodes[2]], ["order_status"], name="x")
    assert len(parse_scenario(skeleton.source, "x.yaml").families["order_status"].phrasings) == 1


def test_without_a_success_there_is_no_plan():
    with pytest.raises(ValueError, match="there is no plan"):
        skeleton_of([conversation("refund", "A-7", success=False)], ["refund"], name="x")
