"""States of episodes as values: the task, and the actions that lead there. They are how RL begins in mid episode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from toolenv.agents.equivalence import Guide
from toolenv.agents.rollout import Attempt
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.splits import mix
from toolenv.tools.calls import Json
from toolenv.tools.errors import RecordError


@dataclass(frozen=True, slots=True)
class State:
    """Where an episode stands before a step.

    Attributes:
        task: its id, `scenario/family/seed`.
        prefix: the actions so far.
    """

    task: str
    prefix: tuple[Json, ...] = ()

    def attempt(self, trial: int) -> Attempt:
        """An episode that goes on from here."""
        _, family, seed = self.task.split("/")
        return Attempt(int(seed), family, trial, self.prefix)

    def enter(self, env: ToolEnv) -> Guide:
        """Bring `env` to this state; the guide of the state.

        Raises:
            ValueError: the prefix ends the episode.
        """
        env.reset(options={"task": self.task})
        guide = Guide.start(env)
        for action in self.prefix:
            guide = guide.judge(env, action).after
            if any(env.step(action)[2:4]):
                raise ValueError(f"{self.task}: the {len(self.prefix)} actions before the state end the episode")
        return guide


def states_of(trajectory: Trajectory) -> Iterator[State]:
    """The state before each step: K steps give K sub-trajectories (SWiRL, arXiv 2504.04736).

    Raises:
        RecordError: its user was played by a model, so that its states do not follow from actions.
    """
    if trajectory.user is not None:
        raise RecordError(
            f"{trajectory.id}: user: played by {trajectory.user}; states are entered with the script's user alone"
        )
    actions = tuple(step.action for step in trajectory.steps)
    return (State(trajectory.task, actions[:length]) for length in range(len(actions)))


def trial_number(seed: int, place: int, number: int) -> int:
    """A trial for sample `number` at the state in `place`, such as no other step or sample of a run has."""
    return mix(seed, place, number) >> 1
