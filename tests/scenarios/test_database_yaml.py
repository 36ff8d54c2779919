"""The shipped database scenario: what it must cover, and that all of it can be drawn, solved and not cheated."""

from __future__ import annotations

from random import Random

import pytest

from toolenv.scenarios.audit import audit, default_seeds
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.plan import CompiledPlan, PlannedStep
from toolenv.scenarios.sampler import Sampler, Task
from toolenv.scenarios.schema import Family

SCENARIO = "database"
TAGS = {
    *("routing", "join", "aggregation", "group_by", "exploration", "write", "bulk", "refusal", "missing_information"),
    *("wrong_id", "no_tool", "multi_step", "search", "ranking"),
}
TWINS = (
    ("approve_expense", "approve_refused"),
    ("delete_expense", "delete_refused"),
    ("hand_out_asset", "hand_out_refused"),
    ("book_hours", "book_refused"),
)


def tools_of(family: Family) -> set[str]:
    plans = [family.plan, *family.routes]
    preferred = {step.call for plan in plans for step in plan if step.call is not None}
    return preferred | {other.call for plan in plans for step in plan for other in step.or_}


def steps_of(task: Task, rng: Random | None = None, route: int = 0) -> list[PlannedStep]:
    """A plan, carried out."""
    world, run, steps = task.world.open(), task.start_plan(rng, route), list[PlannedStep]()
    while (step := run.next()) is not None:
        steps.append(step)
        if step.call is not None:
            run.feed(task.scenario.toolbox.dispatch(world, step.call.name, step.call.arguments).content)
    return steps


def test_there_are_families_of_every_kind(scenario: Scenario) -> None:
    train = [family for family in scenario.families.values() if family.split == "train"]
    unseen = [family for family in scenario.families.values() if family.split == "unseen"]
    assert len(train) >= 12
    assert len(unseen) >= 3
    assert {tag for family in train for tag in family.tags} >= TAGS
    assert {family.difficulty for family in train} == {1, 2, 3, 4}
    assert all(len(family.phrasings) >= 3 for family in scenario.families.values())


def test_unseen_families_use_known_tools(scenario: Scenario) -> None:
    known = set().union(*(tools_of(family) for family in scenario.families.values() if family.split == "train"))
    for family in scenario.families.values():
        assert tools_of(family) <= known


def test_all_tools_but_one_are_of_use_somewhere(scenario: Scenario) -> None:
    used = set().union(*(tools_of(family) for family in scenario.families.values()))
    assert set(scenario.toolbox.names) - used == {"explain_query"}


def test_the_cheap_tool_is_preferred_and_the_general_one_accepted(scenario: Scenario) -> None:
    routed = [family for family in scenario.families.values() if "routing" in family.tags]
    assert len(routed) >= 5
    for family in routed:
        assert "run_sql" in tools_of(family)
        assert all(step.call != "run_sql" for step in family.plan)


def test_joins_need_a_query_or_several_look_ups(scenario: Scenario, sampler: Sampler) -> None:
    for name, family in scenario.families.items():
        if "join" in family.tags:
            assert [step.call for step in family.plan if step.call] == ["run_sql"]
            lengths = [len(steps_of(sampler.task_of(name, 0), route=i + 1)) for i in range(len(family.routes))]
            assert all(length > 2 for length in lengths)


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
    for allowed, refused in TWINS:
        assert scenario.families[allowed].phrasings == scenario.families[refused].phrasings
        assert scenario.families[allowed].plan[0] == scenario.families[refused].plan[0]


@pytest.mark.parametrize("twins", TWINS)
def test_who_carries_out_what_the_policy_forbids_fails(
    scenario: Scenario, sampler: Sampler, twins: tuple[str, str]
) -> None:
    allowed, refused = twins
    for seed in range(5):
        task = sampler.task_of(refused, seed)
        world, run = task.world.open(), CompiledPlan(scenario.families[allowed].plan).start(task.variables)
        results, answer, writes = [], None, 0
        while (step := run.next()) is not None:
            answer = step.answer
            if step.call is not None:
                result = scenario.toolbox.dispatch(world, step.call.name, step.call.arguments)
                assert result.ok, "the database would let it happen"
                results.append(result.text)
                writes += scenario.toolbox[step.call.name].writes
                run.feed(result.content)
        grade = task.grade(answer=answer, diff=world.diff(), results=results, violations=(), writes=writes)
        assert not grade.state
        assert not grade.success


def test_the_scenario_passes_its_audit(scenario: Scenario) -> None:
    report = audit(scenario, seeds=default_seeds(6))
    assert report.ok, [str(breach) for breach in report.breaches[:5]]
    for family in report.families:
        assert "superfluous" in family.outcomes, family.family
