"""Scenarios and trajectories that the tests of this room share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from toolenv.agents.policies import make_policy
from toolenv.agents.policy import Policy
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.sampler import Sampler

Play = Callable[..., list[Trajectory]]
Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    return load_scenario("crm")


@pytest.fixture(scope="session")
def sampler(scenario: Scenario) -> Sampler:
    return Sampler(scenario, "all")


@pytest.fixture(scope="session")
def play(scenario: Scenario) -> Play:
    """Run a policy on seeds: trajectories in the order of seeds."""

    def run(
        policy: Policy | str, seeds: Iterable[int], *, family: str | None = None, batch: int = 16
    ) -> list[Trajectory]:
        policy = make_policy(policy) if isinstance(policy, str) else policy
        attempts = [Attempt(seed, family) for seed in seeds]
        done = rollout(scenario, policy, attempts, families="all", batch=batch)
        return sorted(done, key=lambda trajectory: trajectory.seed)

    return run


@pytest.fixture(scope="session")
def faulty(play: Play) -> list[Trajectory]:
    """600 episodes, four in five with a fault."""
    return play("faulty:0.8", range(600))


@pytest.fixture(scope="session")
def contents() -> Contents:
    """The files of a dataset's folder, timing taken out."""

    def read(folder: Path) -> dict[str, bytes]:
        timing = re.compile(rb',"timing":\{[^}]*\}')
        return {path.name: timing.sub(b"", path.read_bytes()) for path in sorted(folder.iterdir())}

    return read
