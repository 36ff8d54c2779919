"""The shipped CRM scenario: what it must cover, and that all of it can be drawn, solved and not cheated."""

from __future__ import annotations

from random import Random

import pytest

from toolenv.scenarios.audit import audit, default_seeds
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.plan import PlannedStep
from toolenv.scenarios.sampler import Sampler, Task
from toolenv.scenarios.schema import Family
from toolenv.tools.sandbox.embedded import EmbeddedSandbox

SCENARIO = "crm"
TAGS = {
    *("routing", "no_tool", "refusal", "missing_information", "wrong_id", "near_synonym", "pagination"),
    *("multi_step", "multi_turn", "change_of_mind", "decision"),
}


def tools_of(family: Family) -> set[str]:
    return {step.call for plan in (family.plan, *family.routes) for step in plan if step.call is not None}


def steps_of(task: Task, rng: Random | None = None) -> list[PlannedStep]:
    """The gold plan, carried out."""
    session, run, steps = task.open(EmbeddedSandbox()), task.start_plan(rng), list[PlannedStep]()
    while (step := run.next()) is not None:
        steps.append(step)
        if step.call is not None:
            run.feed(session.call(step.call.name, step.call.arguments).content)
    return steps


def test_there_are_families_of_every_kind(scenario: Scenario) -> None:
    train = [family for family in scenario.families.values() if family.split == "train"]
    unseen = [family for family in scenario.families.values() if family.split == "unseen"]
    assert len(train) >= 20
    assert len(unseen) >= 4
    assert {tag for family in train for tag in family.tags} >= TAGS
    assert {family.difficulty for family in train} == {1, 2, 3, 4, 5}
    assert all(len(family.phrasings) >= 3 for family in scenario.families.values())


def test_unseen_families_recombine_known_tools(scenario: Scenario) -> None:
    known = set().union(*(tools_of(family) for family in scenario.families.values() if family.split == "train"))
    plans = {
        tuple(s.call for s in family.plan if s.call) for family in scenario.families.values() if family.split == "train"
    }
    for family in scenario.families.values():
        if family.split == "unseen" and "refusal" not in family.tags:
            assert tools_of(family) <= known
            assert tuple(step.call for step in family.plan if step.call) not in plans


def test_most_tools_are_needed_somewhere(scenario: Scenario) -> None:
    used = set().union(*(tools_of(family) for family in scenario.families.values()))
    assert len(used) >= 24


def test_from_one_look_up_to_eight_steps_with_a_decision(scenario: Scenario, sampler: Sampler) -> None:
    lengths = {name: {len(steps_of(sampler.task_of(name, seed))) for seed in range(8)} for name in scenario.families}
    assert lengths["order_status"] == {2}
    longest = max(lengths, key=lambda name: max(lengths[name]))
    assert max(lengths[longest]) == 8
    assert len(lengths[longest]) > 1, "the decision on the way changes what is done"
    assert max(max(found) for found in lengths.values()) <= scenario.file.max_steps


def test_texts_are_short_enough_for_a_small_student(scenario: Scenario, sampler: Sampler) -> None:
    assert len(scenario.file.policy.split()) <= 95
    for name in scenario.families:
        for seed in range(8):
            task = sampler.task_of(name, seed)
            assert len(task.instruction.split()) <= 40, task.instruction
            for step in steps_of(task, Random(seed)):
                assert len(step.reasoning.split()) <= 14, step.reasoning
                assert len((step.answer or "").split()) <= 20, step.answer


def test_the_requests_of_twins_do_not_give_away_the_outcome(scenario: Scenario) -> None:
    """What is allowed and what is refused is asked for in the same words, so that only looking tells."""
    for allowed, refused in (
        ("cancel_order", "cancel_too_late"),
        ("set_tier", "gold_refused"),
        ("goodwill_credit", "credit_refused"),
        ("refund_order", "refund_twice"),
        ("return_order", "return_too_late"),
    ):
        assert scenario.families[allowed].phrasings == scenario.families[refused].phrasings
        assert scenario.families[allowed].plan[0] == scenario.families[refused].plan[0]


def test_the_scenario_passes_its_audit(scenario: Scenario) -> None:
    report = audit(scenario, seeds=default_seeds(8))
    assert report.ok, [str(breach) for breach in report.breaches[:5]]


@pytest.mark.slow
def test_there_are_a_hundred_thousand_distinct_tasks(scenario: Scenario) -> None:
    training = Sampler(scenario, "train")
    distinct: set[int] = set()
    for seed in range(300_000):
        distinct.add(hash(training.task(seed).content))
        if len(distinct) >= 100_000:
            return
    pytest.fail(f"only {len(distinct)} distinct tasks in 300,000 seeds")
