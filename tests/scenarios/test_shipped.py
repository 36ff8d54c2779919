"""What every shipped scenario holds to: all of it can be drawn in every world, solved, and not cheated."""

from __future__ import annotations

import pytest

from toolenv.scenarios.audit import audit, default_seeds
from toolenv.scenarios.loading import Scenario, parse_scenario, shipped_scenarios
from toolenv.scenarios.sampler import Sampler

every_scenario = pytest.mark.parametrize("scenario", sorted(shipped_scenarios()), indirect=True, scope="module")


@every_scenario
def test_every_family_can_be_drawn_in_every_world(scenario: Scenario, sampler: Sampler) -> None:
    population, first = scenario.file.population, next(iter(scenario.families))
    seeds = (*range(600), *range(800_000, 800_150), *range(900_000, 900_150))
    seed_of = {sampler.task_of(first, seed).world.name: seed for seed in seeds}
    assert len(seed_of) == population.worlds + 2 * population.held_out_worlds
    for name in scenario.families:
        for seed in seed_of.values():
            assert sampler.task_of(name, seed).instruction


@pytest.mark.slow
@every_scenario
def test_the_scenario_passes_its_audit_at_many_seeds(scenario: Scenario) -> None:
    report = audit(scenario)
    assert report.ok, [str(breach) for breach in report.breaches[:5]]


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["de_DE", "ja_JP"])
@pytest.mark.parametrize("scenario", ["code", "crm", "database"], indirect=True, scope="module")
def test_the_scenario_passes_its_audit_in_other_locales(scenario: Scenario, locale: str) -> None:
    other = parse_scenario(scenario.source.replace(b"locale: en_US", f"locale: {locale}".encode()))
    report = audit(other, seeds=default_seeds(8))
    assert report.ok, [str(breach) for breach in report.breaches[:5]]
