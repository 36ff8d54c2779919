"""The shipped CRM scenario: what it must cover, and that all of it can be drawn, solved and not cheated."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import pytest

from toolenv.scenarios.audit import audit, default_seeds
from toolenv.scenarios.loading import Scenario, load_scenario, parse_scenario
from toolenv.scenarios.plan import PlannedStep
from toolenv.scenarios.sampler import Sampler, Task
from toolenv.scenarios.schema import Family

TAGS = {
    *("routing", "no_tool", "refusal", "missing_information", "wrong_id", "near_synonym", "pagination"),
    *("multi_step", "decision"),
}


@pytest.fixture(scope="module")
def crm() -> Scenario:
    return load_scenario("crm")


@pytest.fixture(scope="module")
def sampler(crm: Scenario) -> Sampler:
    return Sampler(crm, "all")


def tools_of(family: Family) -> set[str]:
    return {step.call for plan in (family.plan, *family.routes) for step in plan if step.call is not None}


def steps_of(task: Task, rng: Random | None = None) -> list[PlannedStep]:
    """The gold plan, carried out."""
    world, run, steps = task.world.open(), task.start_plan(rng), list[PlannedStep]()
    while (step := run.next()) is not None:
        steps.append(step)
        if step.call is not None:
            run.feed(task.scenario.toolbox.dispatch(world, step.call.name, step.call.arguments).content)
    return steps


def test_there_are_families_of_every_kind(crm: Scenario) -> None:
    train = [family for family in crm.families.values() if family.split == "train"]
    unseen = [family for family in crm.families.values() if family.split == "unseen"]
    assert len(train) >= 20
    assert len(unseen) >= 4
    assert {tag for family in train for tag in family.tags} >= TAGS
    assert {family.difficulty for family in train} == {1, 2, 3, 4, 5}
    assert all(len(family.phrasings) >= 3 for family in crm.families.values())


def test_unseen_families_recombine_known_tools(crm: Scenario) -> None:
    known = set().union(*(tools_of(family) for family in crm.families.values() if family.split == "train"))
    plans = {
        tuple(s.call for s in family.plan if s.call) for family in crm.families.values() if family.split == "train"
    }
    for family in crm.families.values():
        if family.split == "unseen" and "refusal" not in family.tags:
            assert tools_of(family) <= known
            assert tuple(step.call for step in family.plan if step.call) not in plans


def test_most_tools_are_needed_somewhere(crm: Scenario) -> None:
    used = set().union(*(tools_of(family) for family in crm.families.values()))
    assert len(used) >= 24


def test_from_one_look_up_to_eight_steps_with_a_decision(crm: Scenario, sampler: Sampler) -> None:
    lengths = {name: {len(steps_of(sampler.task_of(name, seed))) for seed in range(8)} for name in crm.families}
    assert lengths["order_status"] == {2}
    longest = max(lengths, key=lambda name: max(lengths[name]))
    assert max(lengths[longest]) == 8
    assert len(lengths[longest]) > 1, "the decision on the way changes what is done"
    assert max(max(found) for found in lengths.values()) <= crm.file.max_steps


def test_texts_are_short_enough_for_a_small_student(crm: Scenario, sampler: Sampler) -> None:
    assert len(crm.file.policy.split()) <= 95
    for name in crm.families:
        for seed in range(8):
            task = sampler.task_of(name, seed)
            assert len(task.instruction.split()) <= 40, task.instruction
            for step in steps_of(task, Random(seed)):
                assert len(step.reasoning.split()) <= 14, step.reasoning
                assert len((step.answer or "").split()) <= 20, step.answer


def test_every_family_can_be_drawn_in_every_world(crm: Scenario, sampler: Sampler) -> None:
    population = crm.file.population
    seeds_of: dict[str, list[int]] = defaultdict(list)
    for seed in (*range(400), *range(800_000, 800_100), *range(900_000, 900_100)):
        seeds_of[sampler.task_of("thanks", seed).world.name].append(seed)
    assert len(seeds_of) == population.worlds + 2 * population.held_out_worlds
    for name in crm.families:
        for seeds in seeds_of.values():
            assert sampler.task_of(name, seeds[0]).instruction


def test_the_requests_of_twins_do_not_give_away_the_outcome(crm: Scenario) -> None:
    """What is allowed and what is refused is asked for in the same words, so that only looking tells."""
    for allowed, refused in (
        ("cancel_order", "cancel_too_late"),
        ("set_tier", "gold_refused"),
        ("goodwill_credit", "credit_refused"),
        ("refund_order", "refund_twice"),
        ("return_order", "return_too_late"),
    ):
        assert crm.families[allowed].phrasings == crm.families[refused].phrasings
        assert crm.families[allowed].plan[0] == crm.families[refused].plan[0]


def test_the_scenario_passes_its_audit(crm: Scenario) -> None:
    report = audit(crm, seeds=default_seeds(8))
    assert report.ok, [str(breach) for breach in report.breaches[:5]]


@pytest.mark.slow
def test_the_scenario_passes_its_audit_at_many_seeds(crm: Scenario) -> None:
    report = audit(crm)
    assert report.ok, [str(breach) for breach in report.breaches[:5]]


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["de_DE", "ja_JP"])
def test_the_scenario_passes_its_audit_in_other_locales(crm: Scenario, locale: str) -> None:
    other = parse_scenario(crm.source.replace(b"locale: en_US", f"locale: {locale}".encode()))
    report = audit(other, seeds=default_seeds(8))
    assert report.ok, [str(breach) for breach in report.breaches[:5]]


@pytest.mark.slow
def test_there_are_a_hundred_thousand_distinct_tasks(crm: Scenario) -> None:
    training = Sampler(crm, "train")
    distinct: set[int] = set()
    for seed in range(300_000):
        distinct.add(hash(training.task(seed).content))
        if len(distinct) >= 100_000:
            return
    pytest.fail(f"only {len(distinct)} distinct tasks in 300,000 seeds")
