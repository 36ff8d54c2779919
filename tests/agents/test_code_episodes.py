"""Episodes in which code is run: they are recorded, replay, and are filtered as any others."""

from __future__ import annotations

import pytest

from toolenv.agents.filter_scores import score_filters
from toolenv.agents.filters import FILTERS
from toolenv.agents.policies import make_policy
from toolenv.agents.replay import Replayer
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.sampler import Sampler


@pytest.fixture(scope="module")
def code() -> Scenario:
    return load_scenario("code")


def episodes(code: Scenario, policy: str, count: int) -> list[Trajectory]:
    return list(rollout(code, make_policy(policy), [Attempt(seed) for seed in range(count)], families="all"))


def test_the_oracle_solves_all_and_no_filter_drops_it(code: Scenario) -> None:
    for trajectory in episodes(code, "oracle", 60):
        assert trajectory.success, trajectory.grade
        for name, keep in FILTERS.items():
            assert keep(trajectory, Sampler(code, "all")).keep, (name, trajectory.id)


@pytest.mark.parametrize("policy", ["oracle", "faulty:0.8", "random"])
def test_episodes_replay(code: Scenario, policy: str) -> None:
    replayer = Replayer(code)
    for trajectory in episodes(code, policy, 40):
        report = replayer.replay(trajectory)
        assert report.same, str(report)


def test_the_filters_find_the_faults(code: Scenario) -> None:
    faulty = episodes(code, "faulty:0.8", 150)
    scores = {score.name: score for score in score_filters(faulty, Sampler(code, "all"))}
    for name in ("skipped_steps", "malformed_calls"):
        assert scores[name].precision is not None
        assert scores[name].precision >= 0.95, scores[name].mistakes
        assert scores[name].recall is not None
        assert scores[name].recall >= 0.95, scores[name].mistakes
    assert scores["hallucinated_arguments"].false_positives == 0
    wrong = scores["wrong_state"]
    assert wrong.false_positives + wrong.false_negatives <= 1, wrong.mistakes
