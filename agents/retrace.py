"""Retracing: a recorded episode is carried out again, to see what each step did to the world and what it was worth.

A record keeps what was said and what came back, not the rows that a write changed. They follow from the actions, so
they are computed: the world's difference from its beginning before and after a step gives the step's own changes.

Where a step does not come out as recorded (another version of the scenario, another sandbox) the retracing ends:
what follows would be of another episode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from toolenv.agents.equivalence import Guide, Judgement
from toolenv.agents.recorded_user import begin_again
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import Scenario
from toolenv.tools.calls import READ
from toolenv.tools.errors import ScenarioError
from toolenv.tools.world import RowChange


@dataclass(frozen=True, slots=True)
class Traced:
    """What a step did: the rows that it changed, and what it was worth if that was asked for."""

    changes: tuple[RowChange, ...]
    judgement: Judgement | None = None


class Retracer:
    """Retraces trajectories of one scenario.

    Args:
        judge: also judge every step on forks (`agents.equivalence`); some 0.5 ms each.
        env_options: further arguments of `ToolEnv`, such as `sandbox`.
    """

    def __init__(self, scenario: Scenario, *, judge: bool = False, **env_options: Any) -> None:
        self.scenario, self.judge = scenario, judge
        self._env = ToolEnv(scenario, families="all", **env_options)
        self._max_steps = self._env.max_steps

    def retrace(self, trajectory: Trajectory) -> Iterator[Traced]:
        """Of each step, in order; ends early where the episode does not come out as it was recorded.

        Raises:
            SandboxLost: no world could be opened, or it was lost while a step was judged.
        """
        env = self._env
        try:
            begin_again(env, trajectory)
        except ScenarioError:
            return
        if env.task.instruction != trajectory.instruction:
            return
        # An episode that was cut off ends where it was cut off, whatever limit it ran under.
        cut_off = trajectory.truncated and not trajectory.sandbox_lost
        env.max_steps = len(trajectory.steps) if cut_off else max(self._max_steps, len(trajectory.steps) + 1)
        guide = Guide.start(env) if self.judge else None
        before: tuple[RowChange, ...] = ()
        for number, step in enumerate(trajectory.steps, 1):
            if trajectory.sandbox_lost and number == len(trajectory.steps):
                return
            judgement = None if guide is None else guide.judge(env, step.action)
            guide = None if judgement is None else judgement.after
            _, _, terminated, truncated, info = env.step(step.action)
            messages = info["messages"]
            observation = messages[-1]["content"] if len(messages) == 2 else ""
            if (observation, info["effect"], info["error"]) != (step.observation, step.effect, step.error):
                return
            after = env.session.diff() if step.effect not in (None, READ) else before
            yield Traced(tuple(changes_between(before, after)), judgement)
            before = after
            if terminated or truncated:
                return

    def close(self) -> None:
        self._env.close()


def changes_between(before: Iterable[RowChange], after: Iterable[RowChange]) -> Iterator[RowChange]:
    """The changes that lead from one state of a world to another, both given as differences from one image."""
    was = {_row(change): change for change in before}
    now = {_row(change): change for change in after}
    for row in sorted(was.keys() | now.keys()):
        old, new = was.get(row), now.get(row)
        if old == new:
            continue
        if old is None:
            assert new is not None
            yield new
        elif new is None:
            yield _undone(old)
        elif (change := _between(old, new)) is not None:
            yield change


def _row(change: RowChange) -> tuple[str, str]:
    return change.table, repr(sorted(change.key.items()))


def _undone(change: RowChange) -> RowChange:
    op = {"insert": "delete", "delete": "insert", "update": "update"}[change.op]
    return RowChange(change.table, op, change.key, change.after, change.before)


def _between(old: RowChange, new: RowChange) -> RowChange | None:
    """From a row as `old` left it to how `new` did; None if that is the same."""
    if new.op == "delete":
        return RowChange(new.table, "delete", new.key, new.before | old.after)
    if old.op == "delete":
        return RowChange(new.table, "insert", new.key, after=old.before | new.after)
    # Of an update the columns that are not named are as in the image, and so in the other's `before`.
    columns = list(dict.fromkeys((*old.after, *new.after)))
    was = {column: old.after.get(column, new.before.get(column)) for column in columns}
    now = {column: new.after.get(column, old.before.get(column)) for column in columns}
    changed = [column for column in columns if was[column] != now[column]]
    if not changed:
        return None
    return RowChange(new.table, "update", new.key, {c: was[c] for c in changed}, {c: now[c] for c in changed})
