"""Gold plans: what comes next, given what the calls before it returned."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from toolenv.scenarios.plan import CompiledPlan, PlannedStep
from toolenv.scenarios.schema import Step
from toolenv.scenarios.templates import TemplateError
from toolenv.tools.calls import ToolCall


def plan(*steps: dict[str, Any]) -> CompiledPlan:
    return CompiledPlan([Step.model_validate(step) for step in steps])


LOOK = {"think": "Look at {{ id }}.", "call": "get_order_by_id", "with": {"order_id": "{{ id }}"}, "as": "found"}
END = {"think": "Done.", "answer": "{{ found.status }}"}


def test_a_later_step_uses_an_earlier_result() -> None:
    run = plan(LOOK, END).start({"id": "ORD-00001"})
    assert run.next() == PlannedStep("Look at ORD-00001.", ToolCall("get_order_by_id", {"order_id": "ORD-00001"}))
    run.feed({"status": "paid"})
    assert run.next() == PlannedStep("Done.", answer="paid")
    assert run.next() is None


def test_an_answer_is_text_even_if_its_template_gives_a_number() -> None:
    run = plan({"think": "{{ 1 }}", "answer": "{{ 2.5 }}"}).start({})
    assert run.next() == PlannedStep("1", answer="2.5")


def test_arguments_keep_their_types() -> None:
    step = {"think": "Page.", "call": "search_orders", "with": {"page": "{{ n + 1 }}", "status": "paid", "flag": True}}
    run = plan(step, {"think": "Done.", "answer": "Done."}).start({"n": 1})
    planned = run.next()
    assert planned is not None
    assert planned.call == ToolCall("search_orders", {"page": 2, "status": "paid", "flag": True})


def test_take_keeps_a_part_of_the_result() -> None:
    run = plan({**LOOK, "take": "{{ result.rows[0] }}"}, END).start({"id": "x"})
    run.next()
    run.feed({"rows": [{"status": "paid"}]})
    assert run.next() == PlannedStep("Done.", answer="paid")


def test_an_error_is_remembered_as_it_is() -> None:
    end = {"think": "Oh.", "answer": "{{ found.error.type }}"}
    run = plan({**LOOK, "take": "{{ result.rows[0] }}"}, end).start({"id": "x"})
    run.next()
    run.feed({"error": {"type": "not_found"}})
    assert run.next() == PlannedStep("Oh.", answer="not_found")


@pytest.mark.parametrize(("status", "answers"), [("paid", "cancelled"), ("shipped", "refused")])
def test_a_decision_depends_on_what_was_seen(status: str, answers: str) -> None:
    branch = {"when": "{{ found.status == 'shipped' }}", "think": "Too late.", "answer": "refused"}
    run = plan(LOOK, branch, {"think": "Fine.", "answer": "cancelled"}).start({"id": "x"})
    run.next()
    run.feed({"status": status})
    planned = run.next()
    assert planned is not None
    assert planned.answer == answers
    assert run.next() is None, "an answer ends the plan"


def test_steps_whose_condition_is_false_are_skipped() -> None:
    skipped = {**LOOK, "when": "{{ false }}"}
    run = plan(skipped, skipped, {"think": "Done.", "answer": "Done."}).start({"id": "x"})
    assert run.next() == PlannedStep("Done.", answer="Done.")


# -- wordings and alternatives ---------------------------------------------------------------------------

VARIED = {
    **LOOK,
    "think": ["First.", "Second."],
    "or": [
        {"call": "get_order_status", "with": {"order_id": "{{ id }}"}, "take": "{{ {'status': result.s} }}"},
        {"think": "The invoice has it too.", "call": "get_invoice_by_order", "with": {"order_id": "{{ id }}"}},
    ],
}


def test_without_a_generator_the_first_of_everything_is_taken() -> None:
    planned = plan(VARIED, END).start({"id": "x"}).next()
    assert planned == PlannedStep("First.", ToolCall("get_order_by_id", {"order_id": "x"}))


def test_a_generator_draws_wordings_and_calls_and_each_call_has_its_own_reasoning() -> None:
    drawn = set()
    for seed in range(60):
        planned = plan(VARIED, END).start({"id": "x"}, Random(seed)).next()
        assert planned is not None
        assert planned.call is not None
        drawn.add((planned.reasoning, planned.call.name))
    assert drawn == {
        ("First.", "get_order_by_id"),
        ("Second.", "get_order_by_id"),
        ("First.", "get_order_status"),
        ("Second.", "get_order_status"),
        ("The invoice has it too.", "get_invoice_by_order"),
    }


def test_the_first_call_can_be_preferred_while_wordings_vary() -> None:
    starts = [plan(VARIED, END).start({"id": "x"}, Random(seed), prefer_first_call=True) for seed in range(30)]
    planned = [step for run in starts if (step := run.next()) is not None]
    assert {step.call.name for step in planned if step.call} == {"get_order_by_id"}
    assert {step.reasoning for step in planned} == {"First.", "Second."}


def test_the_result_of_an_alternative_is_taken_its_own_way() -> None:
    for seed in range(20):
        run = plan(VARIED, END).start({"id": "x"}, Random(seed))
        planned = run.next()
        assert planned is not None
        assert planned.call is not None
        run.feed({"s": "paid"} if planned.call.name == "get_order_status" else {"status": "paid"})
        assert run.next() == PlannedStep("Done.", answer="paid")


def test_the_same_generator_gives_the_same_plan() -> None:
    first, second = (plan(VARIED, END).start({"id": "x"}, Random(5)).next() for _ in range(2))
    assert first == second


def test_a_plan_that_does_not_fit_its_results_is_the_operators_error() -> None:
    run = plan(LOOK, END).start({"id": "x"})
    run.next()
    run.feed({"state": "paid"})
    with pytest.raises(TemplateError, match="status"):
        run.next()


def test_runs_of_one_plan_do_not_touch_each_other_or_the_variables() -> None:
    variables = {"id": "x"}
    shared = plan(LOOK, END)
    first, second = shared.start(variables), shared.start(variables)
    first.next()
    first.feed({"status": "paid"})
    second.next()
    second.feed({"status": "shipped"})
    assert first.next() == PlannedStep("Done.", answer="paid")
    assert second.next() == PlannedStep("Done.", answer="shipped")
    assert variables == {"id": "x"}


# -- calls chosen from outside -------------------------------------------------------------------------


def test_a_guided_run_offers_every_call_of_a_step_and_takes_what_the_chosen_one_takes() -> None:
    other = {"call": "search_orders", "with": {"query": "{{ id }}"}, "take": "{{ result.orders[0] }}"}
    run = plan({**LOOK, "or": [other]}, {"think": "t", "call": "ship", "with": {"to": "{{ found.city }}"}}, END).guided(
        {"id": "ORD-00001"}
    )
    look, search = run.options()
    assert (look.name, search) == ("get_order_by_id", ToolCall("search_orders", {"query": "ORD-00001"}))
    run.feed({"orders": [{"city": "Bonn"}]}, 1)
    assert (run.position, run.options()) == (1, [ToolCall("ship", {"to": "Bonn"})])
    run.feed({})
    assert run.options() == [], "the answer is due"


def test_a_guided_run_passes_over_steps_whose_condition_does_not_hold() -> None:
    skipped = {"think": "t", "call": "ship", "with": {}, "when": "{{ found.status == 'lost' }}"}
    run = plan(LOOK, skipped, END).guided({"id": "ORD-00001"})
    with pytest.raises(TemplateError):
        plan(skipped, END).guided({}).options()
    run.options()
    run.feed({"status": "paid"})
    assert (run.options(), run.position) == ([], 2)


def test_an_error_is_remembered_whole() -> None:
    run = plan({**LOOK, "take": "{{ result.status }}"}, END).guided({"id": "ORD-00001"})
    run.options()
    run.feed({"error": {"type": "not_found"}})
    assert run.context["found"] == {"error": {"type": "not_found"}}
