"""Rewards: functions from what happened in a step to a number. One is injected into an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from toolenv.scenarios.goals import Grade
from toolenv.tools.calls import ToolResult


@dataclass(frozen=True, slots=True)
class StepEvent:
    """What happened in a step.

    Attributes:
        result: of the call; None if the step was the answer.
        grade: of the episode; None unless the step ended it.
    """

    result: ToolResult | None = None
    grade: Grade | None = None


class Reward(Protocol):
    """The reward of one step."""

    def __call__(self, event: StepEvent) -> float: ...


@dataclass(frozen=True, slots=True)
class OutcomeReward:
    """1 for a solved task, at its end; else 0. With costs, less for each step and each rejected call.

    Attributes:
        step_cost: taken off at every step.
        error_cost: taken off, besides, at every call that was rejected.
    """

    success: float = 1.0
    failure: float = 0.0
    step_cost: float = 0.0
    error_cost: float = 0.0

    def __call__(self, event: StepEvent) -> float:
        reward = 0.0 - self.step_cost
        if event.result is not None and not event.result.ok:
            reward -= self.error_cost
        if event.grade is not None:
            reward += self.success if event.grade.success else self.failure
        return reward
