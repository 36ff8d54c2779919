"""The majority of samples by effect: different words for one deed are one vote, and a fork finds out."""

from __future__ import annotations

import pytest

from toolenv.agents.consistent import ConsistentPolicy
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policies import make_policy
from toolenv.agents.policy import Decision, PolicyStopped
from toolenv.agents.replay import Replayer
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.usage import Usage

READ = {"name": "get_order_status", "arguments": {"order_id": "ORD-00000"}}


class Scripted:
    """Gives the samples of one state, then answers."""

    name = "scripted"
    resumable = True

    def __init__(self, *samples) -> None:
        self.samples = samples

    def act(self, episodes):
        first = len(episodes[0].messages) == 2
        actions = self.samples if first else [{"answer": "Bye"}] * len(episodes)
        return [Decision(action, usage=Usage(10, 1, requests=1)) for action in actions]


def first_step(scenario, *samples, family=None):
    policy = ConsistentPolicy(Scripted(*samples), samples=len(samples))
    (trajectory,) = rollout(scenario, policy, [Attempt(0, family)], families="all")
    assert Replayer(scenario).replay(trajectory).same, "the forks left no trace"
    return trajectory, trajectory.steps[0]


def test_the_same_result_is_the_same_vote(scenario):
    other = {"name": "get_order", "arguments": {"order_id": "ORD-00000"}}
    reasoned = {**READ, "reasoning": "In other words."}
    trajectory, step = first_step(scenario, other | {"name": "no_such_tool"}, READ, reasoned)
    assert step.action == READ
    assert step.labels == {"votes": 2, "samples": 3}
    assert trajectory.usage[0] == Usage(30, 3, requests=3), "all samples were paid for"


def test_answers_are_the_same_but_for_case_spaces_and_a_full_stop(scenario):
    _, step = first_step(scenario, {"answer": "No"}, {"answer": "It is paid."}, {"answer": " it is  PAID"})
    assert step.action == {"answer": "It is paid."}
    assert step.labels["votes"] == 2


def test_the_first_of_equals_wins(scenario):
    _, step = first_step(scenario, {"answer": "A"}, {"answer": "B"})
    assert step.action == {"answer": "A"}
    assert step.labels == {"votes": 1, "samples": 2}


def test_what_can_not_be_read_has_no_vote_unless_all_are_so(scenario):
    _, step = first_step(scenario, "{", "[", READ)
    assert step.action == READ
    _, step = first_step(scenario, "{", "[")
    assert step.error == "malformed_call"


def test_writes_are_the_same_by_what_they_change(scenario):
    """Two calls that change the world alike outvote one that changes it otherwise."""
    (solved,) = rollout(scenario, OraclePolicy(), [Attempt(0, "cancel_order")], families="all")
    write = next(step.action for step in solved.steps if step.effect == "write")
    reworded = {**write, "reasoning": "Because it was asked."}
    otherwise = {**write, "arguments": {**write["arguments"], "reason": "duplicate"}}
    _, step = first_step(scenario, otherwise, reworded, write, family="cancel_order")
    assert step.action["arguments"] == write["arguments"]
    assert step.labels["votes"] == 2


def test_by_name(play):
    (plain,) = play("oracle", [3])
    (voted,) = play("consistent:3:oracle", [3])
    assert [step.labels for step in voted.steps] == [{"votes": 3, "samples": 3}] * len(voted.steps)
    assert voted.success
    assert [step.tool for step in voted.steps] == [step.tool for step in plain.steps]
    assert voted.policy == "oracle+consistent:3"
    with pytest.raises(ValueError, match="at least 1; got 0"):
        make_policy("consistent:0:oracle")


def test_a_policy_that_is_stopped_decides_where_all_samples_are_there(scenario):
    class Stopped(Scripted):
        def act(self, episodes):
            stopped = PolicyStopped("enough")
            decided = [Decision({"answer": "A"}) for _ in episodes]
            stopped.decided = [*decided[:-1], None]
            raise stopped

    run = rollout(scenario, ConsistentPolicy(Stopped(), samples=2), [Attempt(seed) for seed in range(3)])
    done = []
    with pytest.raises(PolicyStopped) as raised:
        done.extend(run)
    assert [trajectory.seed for trajectory in done] == [0, 1]
    assert [record.seed for record in raised.value.unfinished] == [2]
