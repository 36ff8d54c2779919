"""Metrics: hand-built episodes with known values, and what must hold of any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.intervals import Metric, wilson
from toolenv.agents.trajectory import SCHEMA_VERSION, Step, Trajectory
from toolenv.envs.actions import parse_action
from toolenv.scenarios.loading import parse_scenario
from toolenv.scenarios.sampler import Sampler, Task
from toolenv.training.metrics import APPROXIMATE_TOKENS, TOKENS, EpisodeMeasure, measure, summarize
from toolenv.training.selection import ANSWER, UNKNOWN, UNREADABLE, tool_selection

SCENARIO = parse_scenario(b"""
schema_version: 1
name: shop
title: Shop
toolbox: [crm]
population: {worlds: 1, held_out_worlds: 1}
policy: You are a support agent. The demo order is ORD-77777.
families:
  status:
    description: One look-up, with an alternative call and another route.
    difficulty: 1
    variables: {order: {row: {table: orders}}}
    phrasings: ["What is the status of order {{ order.id }}?"]
    plan:
      - {think: t, call: get_order_status, with: {order_id: "{{ order.id }}"}, as: found,
         or: [{call: get_order_by_id, with: {order_id: "{{ order.id }}"}}]}
      - {think: t, answer: "{{ found.status }}"}
    routes:
      - - {think: t, call: search_orders, with: {customer_id: "{{ order.customer_id }}"}}
        - {think: t, answer: "I looked it up."}
    goal: {answer: [{contains: "{{ order.status }}"}]}
  note:
    description: Two look-ups that commute, a conditional step and a write that needs what was found.
    difficulty: 3
    variables: {order: {row: {table: orders}}}
    phrasings: ["Order {{ order.id }} of {{ order.customer_id }} is late; leave a note."]
    plan:
      - {think: t, call: get_order_status, with: {order_id: "{{ order.id }}"}, as: status}
      - {think: t, call: get_customer_by_id, with: {customer_id: "{{ order.customer_id }}"}, as: customer}
      - {think: t, when: "{{ status.status == 'lost' }}", call: search_orders,
         with: {customer_id: "{{ customer.id }}"}}
      - {think: t, call: add_customer_note, with: {customer_id: "{{ customer.id }}", text: late}}
      - {think: t, answer: Done.}
    goal: {changes: []}
""")
TOOLBOX = SCENARIO.toolbox


def task_of(family: str) -> Task:
    return Sampler(SCENARIO, "all").task_of(family, 900_000)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def step(action: Any, result: Any = None, error: str | None = None, **fields: Any) -> Step:
    """A step; its observation is the JSON of `result`, or of an error."""
    parsed = parse_action(action)
    text = ToolenvDialect().render(parsed)
    if error is not None:
        result = {"error": {"type": error, "message": str(result)}}
    observation = "" if isinstance(action, dict) and "answer" in action else orjson.dumps(result).decode()
    return Step(parsed.to_action(), observation, "read", error, 0.0, text, ToolenvDialect().spans(text), **fields)


def episode(steps: Sequence[Step], *, task: Task | None = None, **fields: Any) -> Trajectory:
    task = task_of("status") if task is None else task
    built = Trajectory(
        schema_version=SCHEMA_VERSION,
        id=f"{task.id}/hand/0",
        scenario="shop",
        scenario_version=SCENARIO.version,
        toolbox_version=TOOLBOX.version,
        tool_versions={},
        toolenv_version="0",
        task=task.id,
        family=task.family_name,
        difficulty=task.family.difficulty,
        split="test",
        seed=task.seed,
        policy="hand",
        trial=0,
        system=task.system,
        instruction=task.instruction,
        steps=tuple(steps),
        reward=0.0,
        success=True,
        truncated=False,
        sandbox_lost=False,
        grade={},
        world_digest="",
    )
    return replace(built, **fields)


ANSWERED = step({"answer": "Done."})


# -- schema validity and errors ------------------------------------------------------------------------


def test_what_counts_as_attempted_and_as_valid() -> None:
    measured = measure(
        episode(
            [
                step(call("get_order_status", order_id="ORD-77777"), {"status": "paid"}),
                step("not JSON", error="malformed_call"),
                step(call("open_order"), error="unknown_tool"),
                step(call("get_order_status", order=1), error="invalid_arguments"),
                step(call("get_order_status", order_id="ORD-77777"), error="not_found"),
                step(call("cancel_order", order_id="ORD-77777", reason="late"), error="rule_violation"),
                ANSWERED,
            ]
        ),
        TOOLBOX,
    )
    assert (measured.calls, measured.valid, measured.steps) == (6, 3, 7)
    scores = summarize([measured])
    assert scores.schema_validity is not None
    assert (scores.schema_validity.value, scores.schema_validity.n) == (0.5, 6)
    assert {kind: metric.value for kind, metric in scores.errors.items()} == dict.fromkeys(
        ("invalid_arguments", "malformed_call", "not_found", "rule_violation", "unknown_tool"), pytest.approx(1 / 6)
    )


# -- hallucination -------------------------------------------------------------------------------------


def hallucination(*steps: Step, instruction: str = "About order ORD-00042, please.") -> tuple[int, int]:
    """Identifiers passed, and those never seen."""
    measured = measure(episode(steps, instruction=instruction), TOOLBOX)
    return measured.identifiers, measured.invented


def lookup(order: Any, result: Any = None, error: str | None = None) -> Step:
    return step(call("get_order_status", order_id=order), {} if result is None else result, error)


def test_an_id_from_the_request_the_policy_or_a_result_was_seen() -> None:
    assert hallucination(lookup("ORD-00042"), lookup("ORD-77777")) == (2, 0)
    assert hallucination(lookup("ORD-00042", {"twin": "ORD-00043"}), lookup("ORD-00043")) == (2, 0)


def test_an_id_from_nowhere_was_not() -> None:
    assert hallucination(lookup("ORD-00043")) == (1, 1)


def test_a_later_result_does_not_excuse_an_earlier_call() -> None:
    assert hallucination(lookup("ORD-00043", {"id": "ORD-00043"}), lookup("ORD-00043")) == (2, 1)


def test_an_error_that_repeats_a_made_up_id_is_no_source() -> None:
    echo = lookup("ORD-00043", "there is no order ORD-00043", "not_found")
    assert hallucination(echo, echo) == (2, 2)


def test_an_error_that_names_an_id_of_its_own_is_a_source() -> None:
    hint = lookup("ORD-00042", "it was replaced by ORD-00044", "rule_violation")
    assert hallucination(hint, lookup("ORD-00044")) == (2, 0)


@pytest.mark.parametrize("near", ["ORD-0004", "ORD-000421", "00042", "RD-00042", ""])
def test_a_part_of_an_id_is_not_the_id(near: str) -> None:
    assert hallucination(lookup(near)) == (1, 1)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("I am ann@shop.com.", True),
        ("注文者ann@shop.comです", True),
        ("I am ann@shop.com.au", False),
        ("I am joann@shop.com", False),
        ("I am jo.ann@shop.com", False),
        ("I am jo+ann@shop.com", False),
    ],
)
def test_emails_are_whole_words(text: str, seen: bool) -> None:
    find = step(call("find_customer_by_email", email="ann@shop.com"), {})
    assert hallucination(find, instruction=text) == (1, 0 if seen else 1)


def test_only_text_in_identifier_arguments_of_known_tools_is_counted() -> None:
    assert hallucination(
        lookup(None),
        lookup(["ORD-00043"]),
        step(call("no_such_tool", order_id="ORD-00043"), error="unknown_tool"),
        step(call("search_products", query="ORD-00043"), {}),
        step("ORD-00043", error="malformed_call"),
        ANSWERED,
    ) == (0, 0)


# -- tool selection ------------------------------------------------------------------------------------


def selection(family: str, *steps: Step) -> dict[tuple[str, str], int]:
    task = task_of(family)
    trajectory = episode(steps, task=task)
    return tool_selection(trajectory.steps, [s.parsed for s in trajectory.steps], task, TOOLBOX)


ORDER = task_of("status").variables["order"]
STATUS = step(call("get_order_status", order_id=ORDER["id"]), {"status": ORDER["status"]})
DONE = {(ANSWER, ANSWER): 1}

LATE = task_of("note").variables["order"]
LATE_STATUS = step(call("get_order_status", order_id=LATE["id"]), {"status": "paid"})
LATE_CUSTOMER = step(call("get_customer_by_id", customer_id=LATE["customer_id"]), {"id": LATE["customer_id"]})
LATE_NOTE = step(call("add_customer_note", customer_id=LATE["customer_id"], text="late"), {"id": "NOT-00001"})
NOTED = {
    ("get_order_status", "get_order_status"): 1,
    ("get_customer_by_id", "get_customer_by_id"): 1,
    ("add_customer_note", "add_customer_note"): 1,
    **DONE,
}


def test_the_plan_is_right() -> None:
    assert selection("status", STATUS, ANSWERED) == {("get_order_status", "get_order_status"): 1, **DONE}
    assert selection("note", LATE_STATUS, LATE_CUSTOMER, LATE_NOTE, ANSWERED) == NOTED


def test_an_alternative_call_and_another_route_are_right() -> None:
    alternative = step(call("get_order_by_id", order_id=ORDER["id"]), {"status": "paid"})
    assert selection("status", alternative, ANSWERED) == {("get_order_by_id", "get_order_by_id"): 1, **DONE}
    route = step(call("search_orders", customer_id=ORDER["customer_id"]), {"orders": []})
    assert selection("status", route, ANSWERED) == {("search_orders", "search_orders"): 1, **DONE}


def test_calls_that_can_be_written_already_may_come_in_any_order() -> None:
    assert selection("note", LATE_CUSTOMER, LATE_STATUS, LATE_NOTE, ANSWERED) == NOTED


def test_a_step_that_is_put_off_and_never_made_is_missed() -> None:
    cells = selection("note", LATE_CUSTOMER, LATE_NOTE, ANSWERED)
    assert cells[("get_order_status", ANSWER)] == 1
    assert cells[("add_customer_note", "add_customer_note")] == 1
    assert (ANSWER, ANSWER) not in cells


def test_a_call_of_another_route_is_superfluous_once_a_route_is_taken() -> None:
    route = step(call("search_orders", customer_id=ORDER["customer_id"]), {"orders": []})
    assert selection("status", STATUS, route, ANSWERED)[(ANSWER, "search_orders")] == 1


def test_a_wrong_tool_is_set_against_the_preferred_one() -> None:
    wrong = step(call("get_product_by_id", product_id="PRD-00001"), {"id": "PRD-00001"})
    assert selection("status", wrong, STATUS, ANSWERED) == {
        ("get_order_status", "get_product_by_id"): 1,
        ("get_order_status", "get_order_status"): 1,
        **DONE,
    }


def test_a_repetition_is_superfluous() -> None:
    assert selection("status", STATUS, STATUS, ANSWERED)[(ANSWER, "get_order_status")] == 1


def test_a_failed_call_of_the_right_tool_may_be_repeated() -> None:
    failed = step(call("get_order_status", order_id="ORD-1"), error="invalid_arguments")
    assert selection("status", failed, STATUS, ANSWERED) == {("get_order_status", "get_order_status"): 2, **DONE}


def test_the_right_tool_for_another_object_may_be_repeated_or_not() -> None:
    other = step(call("get_order_status", order_id="ORD-99999"), {"status": "paid"})
    assert selection("status", other, ANSWERED) == {("get_order_status", "get_order_status"): 1, **DONE}
    assert selection("status", other, STATUS, ANSWERED) == {("get_order_status", "get_order_status"): 2, **DONE}


def test_an_early_answer_misses_the_next_call() -> None:
    assert selection("status", ANSWERED) == {("get_order_status", ANSWER): 1}
    assert selection("note", LATE_STATUS, ANSWERED)[("get_customer_by_id", ANSWER)] == 1


def test_an_answer_while_a_condition_is_unknown_misses_what_is_sure() -> None:
    unknown = step(call("get_order_status", order_id=LATE["id"]), {"nothing": "of use"})
    cells = selection("note", unknown, LATE_CUSTOMER, ANSWERED)
    assert cells[("add_customer_note", ANSWER)] == 1
    assert ("search_orders", ANSWER) not in cells


def test_a_skipped_step_costs_one_decision() -> None:
    cells = selection("note", LATE_STATUS, LATE_NOTE, ANSWERED)
    assert cells == {
        ("get_order_status", "get_order_status"): 1,
        ("get_customer_by_id", "add_customer_note"): 1,
        **DONE,
    }


def test_a_conditional_step_is_acceptable_while_its_condition_is_unknown() -> None:
    search = step(call("search_orders", customer_id=LATE["customer_id"]), {"orders": []})
    unknown = step(call("get_order_status", order_id=LATE["id"]), {"nothing": "of use"})
    cells = selection("note", unknown, LATE_CUSTOMER, search, LATE_NOTE, ANSWERED)
    assert cells == {**NOTED, ("search_orders", "search_orders"): 1}
    ruled_out = selection("note", LATE_STATUS, LATE_CUSTOMER, search, LATE_NOTE, ANSWERED)
    assert ruled_out == {**NOTED, ("add_customer_note", "search_orders"): 1}


def test_unreadable_texts_and_unknown_tools_are_decisions_too() -> None:
    unreadable, unknown = step("hm", error="malformed_call"), step(call("order_status"), error="unknown_tool")
    assert selection("status", unreadable, unknown, STATUS, ANSWERED) == {
        ("get_order_status", UNREADABLE): 1,
        ("get_order_status", UNKNOWN): 1,
        ("get_order_status", "get_order_status"): 1,
        **DONE,
    }


def test_precision_recall_and_f1_follow_from_the_confusion_matrix() -> None:
    wrong = step(call("get_product_by_id", product_id="PRD-00001"), {"id": "PRD-00001"})
    task = task_of("status")
    scores = summarize([measure(episode([wrong, STATUS, ANSWERED]), TOOLBOX, task)])
    tools, metrics = scores.tools, (scores.tool_precision, scores.tool_recall, scores.tool_f1)
    assert tools["get_order_status"].precision == Metric(1.0, *wilson(1, 1), 1)
    assert tools["get_order_status"].recall is not None
    assert tools["get_order_status"].recall.value == 0.5
    assert tools["get_order_status"].f1 == pytest.approx(2 / 3)
    assert tools["get_product_by_id"].recall is None
    assert tools["get_product_by_id"].f1 == 0
    # Macro: precision over the two tools called, recall over the one due, F1 over both.
    assert [metric.value for metric in metrics if metric] == pytest.approx([0.5, 0.5, 1 / 3])
    assert scores.confusion["get_order_status"] == {"get_order_status": 1, "get_product_by_id": 1}
    assert scores.confusion[ANSWER] == {ANSWER: 1}


def test_without_a_task_selection_is_not_judged() -> None:
    scores = summarize([measure(episode([STATUS, ANSWERED]), TOOLBOX)])
    assert scores.tool_f1 is None
    assert scores.confusion == {}


def test_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match="the episode is of shop/status/900000"):
        measure(episode([ANSWERED]), TOOLBOX, task_of("note"))
    with pytest.raises(ValueError, match="at version old"):
        measure(episode([ANSWERED], scenario_version="old"), TOOLBOX, task_of("status"))


# -- tokens, steps, groups -----------------------------------------------------------------------------


def test_tokens_are_the_policy_s_own_where_it_recorded_them() -> None:
    recorded = replace(ANSWERED, token_ids=(1, 2, 3))
    counted = summarize([measure(episode([recorded]), TOOLBOX)])
    assert (counted.tokens.value, counted.token_unit) == (3, TOKENS)
    # <|answer|>Done.<|end|> has 22 characters; a single step without tokens makes all of them approximate.
    mixed = summarize([measure(episode([recorded, ANSWERED]), TOOLBOX)])
    assert (mixed.tokens.value, mixed.token_unit) == (11.0, APPROXIMATE_TOKENS)


def test_reasoning_is_what_stands_before_the_control_token() -> None:
    thought = step({"answer": "Done.", "reasoning": "1234567890"})
    assert summarize([measure(episode([thought, ANSWERED]), TOOLBOX)]).reasoning.value == 5.0


def measured(seed: int, *, trial: int = 0, success: bool = True, steps: int = 2, lost: bool = False) -> EpisodeMeasure:
    one = measure(episode([STATUS] * (steps - 1) + [ANSWERED], success=success, sandbox_lost=lost), TOOLBOX)
    return replace(one, task=f"shop/status/{seed}", seed=seed, trial=trial)


def test_steps_per_solved_task_charge_the_failures_too() -> None:
    scores = summarize([measured(0, steps=2), measured(1, steps=4, success=False)])
    assert scores.steps.value == 3.0
    assert scores.steps_per_solved is not None
    assert (scores.steps_per_solved.value, scores.steps_per_solved.n) == (6.0, 1)
    assert summarize([measured(0, success=False)]).steps_per_solved is None


def test_lost_episodes_say_nothing() -> None:
    scores = summarize([measured(0), measured(1, success=False, lost=True)])
    assert (scores.episodes, scores.lost, scores.success.value) == (1, 1, 1.0)


def test_no_episode_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="no episode to measure: of 0 given"):
        summarize([])
    with pytest.raises(ValueError, match="of 1 given, 1 lost their sandbox"):
        summarize([measured(0, lost=True)])


outcomes = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12)


@given(outcomes, st.randoms(use_true_random=False))
def test_success_is_pass_1_and_no_order_matters(tasks: list[list[bool]], rng: Any) -> None:
    measures = [
        measured(seed, trial=trial, success=success)
        for seed, trials in enumerate(tasks)
        for trial, success in enumerate(trials)
    ]
    scores = summarize(measures)
    assert scores.success.value == pytest.approx(sum(map(sum, tasks)) / (3 * len(tasks)))
    assert scores.pass_k[0].value == pytest.approx(scores.success.value)
    assert len(scores.pass_k) == 3
    assert (scores.success.n, scores.pass_k[0].n, scores.tasks) == (3 * len(tasks), len(tasks), len(tasks))
    rng.shuffle(measures)
    assert summarize(measures) == scores
