"""Replay: carry a record's actions out again, and compare everything that came of them.

What is compared, in this order: the versions of scenario and tools, the task, every observation, effect, error and
reward, how the episode ended, its grade, and the digest of the final world. What was sampled (text, tokens, labels) and
timing are not made again, so they are not compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from toolenv.agents.policy import Decision, Episode
from toolenv.agents.recorded_user import begin_again
from toolenv.agents.trajectory import Step, Trajectory
from toolenv.envs.drifted_env import open_env
from toolenv.envs.rewards import Reward
from toolenv.scenarios.loading import Scenario
from toolenv.tools.calls import json_text
from toolenv.tools.errors import RecordError, ScenarioError

_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that did not come out as recorded.

    Attributes:
        step: its number, from 1; 0 before the first step, None after the last.
        field: such as "observation".
    """

    step: int | None
    field: str
    recorded: object
    replayed: object

    def __str__(self) -> str:
        where = "at the end" if self.step is None else "at the start" if self.step == 0 else f"step {self.step}"
        return f"{where}: {self.field}: recorded {_shown(self.recorded)}, replayed {_shown(self.replayed)}"


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay found.

    Attributes:
        id: of the trajectory.
        steps: how many steps came out the same.
        difference: the first one; None if all is the same.
        versions: differences of versions, which explain others; an episode may come out the same in spite of them.
    """

    id: str
    steps: int
    difference: Difference | None = None
    versions: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether everything came out as recorded, under the same versions."""
        return self.difference is None and not self.versions

    def __str__(self) -> str:
        found = [*self.versions, *([] if self.difference is None else [str(self.difference)])]
        return f"{self.id}: {'; '.join(found) or f'the same in all {self.steps} steps'}"


class Replayer:
    """Replays trajectories of one scenario.

    Args:
        reward: what the episodes were recorded with.
        env_options: further arguments of `open_env`, such as `sandbox`.
    """

    def __init__(self, scenario: Scenario, *, reward: Reward | None = None, **env_options: Any) -> None:
        self.scenario = scenario
        self._env = open_env(scenario, families="all", reward=reward, **env_options)
        self._max_steps = self._env.max_steps

    def replay(self, trajectory: Trajectory) -> ReplayReport:
        """Carry the recorded actions out again and compare."""
        versions = tuple(self._version_differences(trajectory))
        try:
            info = begin_again(self._env, trajectory)
        except ScenarioError as error:
            return ReplayReport(trajectory.id, 0, Difference(0, "task", trajectory.task, str(error)), versions)
        # An episode that was cut off ends where it was cut off, whatever limit it ran under.
        cut_off = trajectory.truncated and not trajectory.sandbox_lost
        self._env.max_steps = len(trajectory.steps) if cut_off else max(self._max_steps, len(trajectory.steps) + 1)
        done, difference = 0, self._start_difference(trajectory)
        ended, success, grade = False, False, {}
        for number, step in enumerate(trajectory.steps, 1):
            if difference is not None or (trajectory.sandbox_lost and number == len(trajectory.steps)):
                break
            if ended:
                difference = Difference(number, "ended", False, True)
                break
            _, reward, terminated, truncated, info = self._env.step(step.action)
            ended, success, grade = terminated or truncated, info.get("success", False), info.get("grade", {})
            difference = _step_difference(number, step, reward, info)
            done += difference is None
        if difference is None and not trajectory.sandbox_lost:
            difference = self._end_difference(trajectory, ended, success, grade)
        return ReplayReport(trajectory.id, done, difference, versions)

    def close(self) -> None:
        self._env.close()

    def _version_differences(self, trajectory: Trajectory) -> Iterator[str]:
        now = {"scenario_version": self.scenario.version, "toolbox_version": self._env.toolbox.version}
        for field, version in now.items():
            if (recorded := getattr(trajectory, field)) != version:
                yield f"{field}: recorded {recorded}, here {version}"

    def _start_difference(self, trajectory: Trajectory) -> Difference | None:
        task = self._env.task
        return _first(
            0,
            [
                ("family", trajectory.family, task.family_name),
                ("seed", trajectory.seed, task.seed),
                ("system", trajectory.system, task.system),
                ("instruction", trajectory.instruction, task.instruction),
            ],
        )

    def _end_difference(self, trajectory: Trajectory, ended: bool, success: bool, grade: Any) -> Difference | None:
        reward = sum(step.reward for step in trajectory.steps)
        return _first(
            None,
            [
                ("ended", True, ended),
                ("success", trajectory.success, success),
                ("grade", trajectory.grade, grade),
                ("reward", trajectory.reward, reward),
                ("world_digest", trajectory.world_digest, self._env.session.digest()),
            ],
        )


def replay(trajectory: Trajectory, scenario: Scenario, **options: Any) -> ReplayReport:
    """Replay one trajectory; `options` are those of `Replayer`. For many, keep one `Replayer`."""
    replayer = Replayer(scenario, **options)
    try:
        return replayer.replay(trajectory)
    finally:
        replayer.close()


class ReplayPolicy:
    """A policy that plays recorded actions; under the same scenario the rollout gives the same trajectories.

    Args:
        trajectories: at most one for each task and trial.
        name: the policy's name in new records; by default that of the recorded policy.

    Raises:
        ValueError: there is no trajectory.
    """

    def __init__(self, trajectories: Iterable[Trajectory], name: str | None = None) -> None:
        kept = {(trajectory.task, trajectory.trial): trajectory for trajectory in trajectories}
        if not kept:
            raise ValueError("there is no trajectory to replay")
        self._steps = {key: trajectory.steps for key, trajectory in kept.items()}
        self.name = next(iter(kept.values())).policy if name is None else name

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        """Raises:
        RecordError: nothing was recorded for an episode, or it goes on beyond its record.
        """
        return [self._decide(episode) for episode in episodes]

    def _decide(self, episode: Episode) -> Decision:
        position = episode.memory.get("position", 0)
        episode.memory["position"] = position + 1
        steps = self._steps.get((episode.task.id, episode.trial), ())
        if position >= len(steps):
            raise RecordError(f"{episode.task.id}, trial {episode.trial}: no step {position + 1} was recorded")
        step = steps[position]
        return Decision(step.action, step.text, step.spans, step.token_ids, step.logprobs, step.labels)


def _step_difference(number: int, step: Step, reward: float, info: dict[str, Any]) -> Difference | None:
    messages = info["messages"]
    observation = messages[-1]["content"] if len(messages) == 2 else ""
    return _first(
        number,
        [
            ("observation", step.observation, observation),
            ("effect", step.effect, info["effect"]),
            ("error", step.error, info["error"]),
            ("reward", step.reward, reward),
        ],
    )


def _first(step: int | None, pairs: Sequence[tuple[str, object, object]]) -> Difference | None:
    found = next((pair for pair in pairs if pair[1] != pair[2]), None)
    return None if found is None else Difference(step, *found)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json_text(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
