"""The shipped support scenario: four families of tools in one toolbox, and tasks that need several of them."""

from __future__ import annotations

import pytest

from toolenv.scenarios.audit import audit, default_seeds
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.sampler import Sampler
from toolenv.scenarios.schema import Family, Step
from toolenv.tools.identifiers import Aliases

SCENARIO = "support"
TAGS = {
    *("routing", "aggregation", "ranking", "group_by", "write", "files", "statistics", "arithmetic", "decision"),
    *("refusal", "missing_information", "wrong_id", "multi_step", "amount", "free_text"),
}
TWINS = (("credit_largest_of_day", "credit_refused"),)


def kinds_of(scenario: Scenario, plan: list[Step]) -> set[str]:
    """The families of the tools that a plan prefers."""
    return {scenario.toolbox[step.call].spec.family or "" for step in plan if step.call is not None}


def calls_of(family: Family) -> set[str]:
    steps = [step for plan in (family.plan, *family.routes) for step in plan if step.call is not None]
    return {step.call for step in steps if step.call} | {other.call for step in steps for other in step.or_}


def test_one_toolbox_holds_all_kinds_of_tools(scenario: Scenario) -> None:
    assert len(scenario.toolbox) >= 35
    assert {spec.family for spec in scenario.toolbox.specs} == {"crm", "database", "interpreter", "exchange", "user"}
    writing = {tool.spec.family for tool in scenario.toolbox if tool.writes}
    assert writing == {"crm"}, "the rules of the CRM hold whatever is called"


def test_most_families_need_tools_of_several_kinds(scenario: Scenario) -> None:
    several = [name for name, family in scenario.families.items() if len(kinds_of(scenario, family.plan)) >= 2]
    assert len(several) >= 15
    together = set().union(*(kinds_of(scenario, scenario.families[name].plan) for name in several))
    assert together == {"crm", "database", "interpreter", "exchange", "user"}


def test_the_hardest_need_an_export_code_and_the_crm(scenario: Scenario) -> None:
    hardest = [family for family in scenario.families.values() if family.difficulty == 5]
    assert len(hardest) >= 2
    for family in hardest:
        assert kinds_of(scenario, family.plan) >= {"crm", "interpreter", "exchange"}


def test_what_is_reconciled_does_not_agree(sampler: Sampler) -> None:
    """In every world some of what was paid for orders that came to nothing is refunded, and some is not."""
    for seed in range(0, 400, 10):
        task = sampler.task_of("refunds_owed", seed)
        owed, world = task.variables["sum"]["n"], task.world.open()
        status = task.variables["status"]
        paid = world.value("SELECT sum(paid) FROM orders WHERE status = ?", (status,))
        world.close()
        assert 0 < task.variables["tops"][0]["gap"] < owed < paid


def test_there_are_families_of_every_kind(scenario: Scenario) -> None:
    unseen = [family for family in scenario.families.values() if family.split == "unseen"]
    assert len(unseen) >= 3
    assert {tag for family in scenario.families.values() for tag in family.tags} >= TAGS
    assert {family.difficulty for family in scenario.families.values()} == {1, 2, 3, 4, 5}
    assert all(len(family.phrasings) >= 3 for family in scenario.families.values())


def test_kinds_overlap(scenario: Scenario) -> None:
    """The same task by a look-up of the CRM or a query; by a query or by code over an export."""
    assert calls_of(scenario.families["order_total"]) >= {"get_order_by_id", "get_row_by_id", "run_sql"}
    for name in ("top_spender_note", "cancel_largest", "median_file", "spread_of_totals"):
        assert calls_of(scenario.families[name]) >= {"run_sql", "run_python"}


def test_texts_are_short_enough_for_a_small_student(scenario: Scenario, sampler: Sampler) -> None:
    assert len(scenario.file.policy.split()) <= 96
    for name in scenario.families:
        for seed in range(8):
            assert len(sampler.task_of(name, seed).instruction.split()) <= 40


@pytest.mark.parametrize("twins", TWINS)
def test_the_requests_of_twins_do_not_give_away_the_outcome(scenario: Scenario, twins: tuple[str, str]) -> None:
    allowed, refused = (scenario.families[name] for name in twins)
    assert allowed.phrasings == refused.phrasings
    assert allowed.plan[:2] == refused.plan[:2]


def test_aliases_of_all_kinds_go_back_to_what_they_stand_for(scenario: Scenario, sampler: Sampler) -> None:
    """Kinds that share a letter share its numbers, and no identifier of the shop is taken for a company's."""
    toolbox = scenario.toolbox
    for name in scenario.families:
        task = sampler.task_of(name, 3)
        world, aliases = task.world.open(), Aliases(toolbox.shown_identifiers)
        for table in world.image.shown:
            sql = f"SELECT * FROM {table} LIMIT 40"
            content = toolbox.dispatch(world, "run_sql", {"sql": sql}).content
            hidden = aliases.hide(content)
            assert aliases.reveal(hidden) == content
        seen = {entity for entity, values in aliases.seen().items() if values}
        assert seen == {
            *("customer", "order", "item", "product", "shipment", "invoice", "ticket", "note", "email", "refund"),
            *("credit", "tracking_number"),
        }
        world.close()


def test_the_scenario_passes_its_audit(scenario: Scenario) -> None:
    report = audit(scenario, seeds=default_seeds(4))
    assert report.ok, [str(breach) for breach in report.breaches[:5]]
    for family in report.families:
        assert "superfluous" in family.outcomes, family.family
