"""The episode loop when the sandbox fails: an episode without a world is recorded as lost, and the others go on."""

from __future__ import annotations

import pytest

from toolenv.agents.card import outcome_of
from toolenv.agents.policies import make_policy
from toolenv.agents.policy import Decision
from toolenv.agents.records import read_trajectories, write_jsonl
from toolenv.agents.replay import Replayer
from toolenv.agents.rollout import Attempt, rollout
from toolenv.envs.actions import Malformed
from toolenv.tools.errors import MalformedCall, OperatorError, SandboxLost
from toolenv.tools.sandbox.embedded import EmbeddedSandbox


class FailingSandbox(EmbeddedSandbox):
    """Opens no world at the times given, counted from 0."""

    def __init__(self, fails: set[int], error: type[OperatorError] = SandboxLost) -> None:
        super().__init__()
        self.fails, self.error, self.opened = fails, error, 0

    def open(self, image, toolbox):
        self.opened += 1
        if self.opened - 1 in self.fails:
            raise self.error("the engine is gone")
        return super().open(image, toolbox)


def play(scenario, sandbox, attempts, batch=3):
    done = rollout(scenario, make_policy("oracle"), attempts, families="all", batch=batch, sandbox=sandbox)
    return {(trajectory.seed, trajectory.trial): trajectory for trajectory in done}


@pytest.mark.parametrize("batch", [1, 3])
def test_an_episode_without_a_world_is_recorded_as_lost_and_the_others_go_on(scenario, batch):
    attempts = [Attempt(seed, trial=seed % 2) for seed in range(8)]
    whole = play(scenario, EmbeddedSandbox(), attempts, batch)
    sandbox = FailingSandbox({0, 4, 7})
    done = play(scenario, sandbox, attempts, batch)
    assert sandbox.opened == len(attempts), "none is tried again"
    assert done.keys() == whole.keys()
    lost = {key for key, trajectory in done.items() if trajectory.sandbox_lost}
    assert len(lost) == 3
    assert (0, 0) in lost
    for key, trajectory in done.items():
        if key not in lost:
            assert trajectory.without_timing() == whole[key].without_timing()
            continue
        assert (trajectory.id, trajectory.instruction) == (whole[key].id, whole[key].instruction)
        assert (trajectory.steps, trajectory.reward, trajectory.success) == ((), 0.0, False)
        assert (trajectory.truncated, trajectory.grade, trajectory.world_digest) == (True, {}, "")
        assert [message["role"] for message in trajectory.messages] == ["system", "user"]
        assert outcome_of(trajectory) == "sandbox_lost"


def test_it_is_of_the_family_that_was_asked_for(scenario):
    family = list(scenario.families)[-1]
    done = play(scenario, FailingSandbox({0}), [Attempt(5, family)])
    assert done[5, 0].family == family


def test_such_a_record_is_written_read_and_replayed(scenario, tmp_path):
    lost = play(scenario, FailingSandbox({0}), [Attempt(5)])[5, 0]
    write_jsonl([lost], tmp_path / "lost.jsonl")
    assert [*read_trajectories(tmp_path / "lost.jsonl")] == [lost]
    replayer = Replayer(scenario)
    assert replayer.replay(lost).same
    replayer.close()


def test_what_the_operator_must_mend_is_raised(scenario):
    with pytest.raises(OperatorError, match="the engine is gone"):
        play(scenario, FailingSandbox({1}, OperatorError), [Attempt(seed) for seed in range(4)])


class Garbled:
    """A policy whose dialect refuses what it wrote, for a reason of its own; then it gives up."""

    name = "garbled"

    def act(self, episodes):
        refused = Malformed("<call>nonsense", MalformedCall("no tag was closed", field="arguments", rule="dialect"))
        return [Decision("{}" if len(episode.messages) > 4 else refused, "…", ()) for episode in episodes]


def test_what_a_dialect_could_not_read_replays(scenario):
    """A record keeps the text alone, so the dialect's own reason must not reach the conversation."""
    (trajectory,) = rollout(scenario, Garbled(), [Attempt(1)], max_steps=3)
    assert "no tag was closed" not in trajectory.steps[0].observation
    assert trajectory.steps[0].error == "malformed_call"
    assert Replayer(scenario).replay(trajectory).same
