"""Replay: the same actions give the same episode, and the first difference is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from toolenv.agents.replay import Replayer, ReplayPolicy, replay
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.rewards import OutcomeReward
from toolenv.scenarios.loading import parse_scenario
from toolenv.tools.errors import RecordError


@pytest.fixture(scope="module")
def replayer(scenario) -> Replayer:
    return Replayer(scenario)


@pytest.fixture
def solved(faulty) -> Trajectory:
    return next(t for t in faulty if t.success and len(t.steps) > 2)


def changed(trajectory: Trajectory, number: int, **fields: Any) -> Trajectory:
    steps = list(trajectory.steps)
    steps[number - 1] = replace(steps[number - 1], **fields)
    return replace(trajectory, steps=tuple(steps))


def test_every_recorded_episode_replays(faulty, replayer):
    for trajectory in faulty:
        report = replayer.replay(trajectory)
        assert report.same, str(report)
        assert report.steps == len(trajectory.steps)


def test_random_and_truncated_episodes_replay(play, replayer, scenario):
    recorded = ReplayPolicy(play("random", range(50)))
    cut = list(rollout(scenario, recorded, map(Attempt, range(50)), families="all", max_steps=1))
    assert any(trajectory.truncated for trajectory in cut)
    for trajectory in [*play("random", range(50)), *cut]:
        assert (report := replayer.replay(trajectory)).same, str(report)


def test_a_changed_observation_is_found(replayer, solved):
    report = replayer.replay(changed(solved, 2, observation="{}"))
    assert not report.same
    assert report.steps == 1
    assert report.difference is not None
    assert (report.difference.step, report.difference.field) == (2, "observation")
    assert report.difference.replayed == solved.steps[1].observation
    assert "step 2: observation: recorded {}, replayed" in str(report)


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"effect": "other"}, "effect"), ({"error": "other"}, "error"), ({"reward": 0.5}, "reward")],
)
def test_a_changed_step_is_found(replayer, solved, fields, field):
    report = replayer.replay(changed(solved, 1, **fields))
    assert (report.difference.step, report.difference.field) == (1, field)


def test_another_action_is_found_by_what_it_brings(replayer, solved):
    report = replayer.replay(changed(solved, 1, action={"name": "nothing", "arguments": {}}))
    assert (report.difference.step, report.difference.field) == (1, "observation")


@pytest.mark.parametrize(
    ("fields", "step", "field"),
    [
        ({"instruction": "Something else."}, 0, "instruction"),
        ({"seed": 10**9}, 0, "seed"),
        ({"task": "crm/no_such_family/1"}, 0, "task"),
        ({"success": False}, None, "success"),
        ({"grade": {}}, None, "grade"),
        ({"world_digest": "0"}, None, "world_digest"),
        ({"reward": 7.0}, None, "reward"),
    ],
)
def test_a_changed_episode_is_found(replayer, solved, fields, step, field):
    report = replayer.replay(replace(solved, **fields))
    assert (report.difference.step, report.difference.field) == (step, field)


def test_a_missing_and_a_superfluous_step_are_found(replayer, solved):
    short = replayer.replay(replace(solved, steps=solved.steps[:-1]))
    assert (short.difference.step, short.difference.field) == (None, "ended")
    long = replayer.replay(replace(solved, steps=(*solved.steps, solved.steps[-1])))
    assert (long.difference.step, long.difference.field) == (len(solved.steps) + 1, "ended")


def test_other_versions_are_named(scenario, solved):
    newer = parse_scenario(scenario.source + b"\n# a comment\n")
    report = replay(replace(solved, toolbox_version="old"), newer)
    assert report.difference is None, "nothing came out differently"
    assert not report.same
    assert [text.partition(":")[0] for text in report.versions] == ["scenario_version", "toolbox_version"]
    assert solved.scenario_version in str(report)


def test_rewards_are_those_of_the_recording(scenario, solved):
    (trajectory,) = rollout(
        scenario,
        ReplayPolicy([solved]),
        [Attempt(solved.seed, solved.family)],
        reward=OutcomeReward(step_cost=0.1),
    )
    assert replay(trajectory, scenario, reward=OutcomeReward(step_cost=0.1)).same
    assert replay(trajectory, scenario).difference.field == "reward"


def test_what_the_lost_sandbox_took_is_not_compared(replayer, solved):
    lost = replace(solved, sandbox_lost=True, truncated=True, success=False, grade={}, world_digest="")
    assert replayer.replay(lost).same
    assert len(lost.messages) == len(solved.messages) - 1, "the last step got no reply"


# -- the policy ----------------------------------------------------------------------------------------


def test_the_replay_policy_makes_the_same_records(scenario, faulty):
    attempts = [Attempt(trajectory.seed, trajectory.family) for trajectory in faulty]
    again = sorted(rollout(scenario, ReplayPolicy(faulty), attempts), key=lambda trajectory: trajectory.seed)
    assert [t.without_timing() for t in again] == [t.without_timing() for t in faulty]


def test_the_replay_policy_has_nothing_for_other_episodes(scenario, faulty):
    with pytest.raises(RecordError, match="no step 1 was recorded"):
        list(rollout(scenario, ReplayPolicy(faulty[:1]), [Attempt(5_000)]))
    with pytest.raises(ValueError, match="no trajectory"):
        ReplayPolicy([])
