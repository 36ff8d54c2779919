"""The contract suite notices what it is there to notice: each broken environment fails the expectation it breaks."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from toolenv.envs.conformance import EXPECTATIONS, ContractBroken, check_tool_env
from toolenv.envs.spaces import ToolCallSpace
from toolenv.envs.tool_env import ToolEnv

DESK = Path(__file__).parents[1] / "data" / "desk.yaml"


class SharesItsWorld(ToolEnv):
    def fork(self):
        other = super().fork()
        other._episode, other._session = self._episode, self._session
        return other


class ForgetsTheConversation(ToolEnv):
    def restore(self, snapshot):
        messages = self._episode.messages if self._episode else []
        super().restore(snapshot)
        self._episode.messages = messages


class Raises(ToolEnv):
    def step(self, action):
        if isinstance(action, bytes):
            raise TypeError("bytes")
        return super().step(action)


class NeverEnds(ToolEnv):
    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        self._episode.ended = False
        return observation, reward, terminated, False, info


class TellsTheTime(ToolEnv):
    clock = itertools.count()

    def reset(self, **options):
        observation, info = super().reset(**options)
        return observation, {**info, "time": next(self.clock)}


class RollsDice(ToolEnv):
    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "luck": random.random()}


class ReusesItsArrays(ToolEnv):
    result = np.zeros(16_384, np.uint8)

    def step(self, action):
        observation, *rest = super().step(action)
        self.result[:] = observation["result"]
        return {**observation, "result": self.result}, *rest


class LeavesItsSpace(ToolEnv):
    def step(self, action):
        observation, *rest = super().step(action)
        return {**observation, "step": self.max_steps + 1}, *rest


class WritesWhenItReads(ToolEnv):
    def step(self, action):
        step = super().step(action)
        self.session._world.execute("UPDATE products SET stock = stock + 1")
        return step


class IgnoresItsSeed(ToolEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None if seed is None else random.randrange(1_000), options=options)


class DrawsNonsense(ToolEnv):
    class Space(ToolCallSpace):
        def sample(self, mask=None, probability=None):
            return {"name": "get_order_status", "arguments": {"order_id": "ORD-1"}}

    def __init__(self, scenario):
        super().__init__(scenario)
        self.action_space = self.Space(self.toolbox)


class AlwaysPays(ToolEnv):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 1.0, *rest


BREACHES = {
    SharesItsWorld: "A fork and its original do not touch each other.",
    ForgetsTheConversation: "After `restore` the episode goes on as it did from the snapshot.",
    Raises: "A bad action never raises",
    NeverEnds: "An episode is truncated, and graded, at the step limit and not before.",
    TellsTheTime: "The same seed gives the same observation and info, to the byte.",
    RollsDice: "The same seed and the same actions give the same bytes.",
    ReusesItsArrays: "What was returned is not changed by later steps.",
    LeavesItsSpace: "Every observation lies in the observation space.",
    WritesWhenItReads: "A call that is rejected does not change the world.",
    IgnoresItsSeed: "Gymnasium's own checker finds nothing to warn of.",
    DrawsNonsense: "A sampled action lies in its space",
    AlwaysPays: "An answer ends the episode with a grade, and the reward agrees with it.",
}


@pytest.mark.parametrize("broken", BREACHES, ids=lambda cls: cls.__name__)
def test_a_broken_environment_is_found_out(broken):
    sentence = BREACHES[broken]
    [expectation] = [each for each in EXPECTATIONS if each.sentence.startswith(sentence)]
    with pytest.raises(ContractBroken) as caught:
        expectation.check(lambda: broken(DESK), range(4))
    assert str(caught.value).startswith(expectation.sentence)


def test_the_whole_suite_stops_at_the_first_breach():
    with pytest.raises(ContractBroken, match="Seed 1"):
        check_tool_env(lambda: Raises(DESK), seeds=[1])
