"""What the tests of the shipped scenarios share: the scenario that a module is about, and its tasks."""

from __future__ import annotations

import pytest

from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.sampler import Sampler


@pytest.fixture(scope="module")
def scenario(request: pytest.FixtureRequest) -> Scenario:
    """The scenario that the module names in SCENARIO, or the test as a parameter."""
    return load_scenario(getattr(request, "param", None) or request.module.SCENARIO)


@pytest.fixture(scope="module")
def sampler(scenario: Scenario) -> Sampler:
    return Sampler(scenario, "all")
