"""Recorded episodes, measured without running a policy: datasets of ours, and logs from elsewhere.

Of an episode of ours everything can be told, since its task and its world can be made again: with `judge_steps` every
step is run on a fork. Of a log from elsewhere what it shows by itself can: validity against the tools that it declares,
identifiers that nothing had shown, errors, repeated calls, steps, tokens, and the outcome where it is logged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson

from toolenv.agents.dataset import declared_toolbox, scenario_of
from toolenv.agents.equivalence import label_steps
from toolenv.agents.mentor import judged
from toolenv.agents.records import read_trajectories
from toolenv.agents.trajectory import ELSEWHERE, Trajectory
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.sampler import Sampler
from toolenv.tools.errors import RecordError
from toolenv.tools.toolbox import Toolbox
from toolenv.training.metrics import EpisodeMeasure, Scores, measure, summarize

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """The metrics of a dataset.

    Attributes:
        elsewhere: how many of the episodes are logs from elsewhere.
        graded: of how many episodes the outcome is known.
        by_type: task type, or family -> metrics.
        by_policy: the same by who acted.
    """

    schema_version: int
    dataset: str
    elsewhere: int
    graded: int
    overall: Scores
    by_type: dict[str, Scores]
    by_policy: dict[str, Scores]

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    def groups(self) -> Iterator[tuple[str, Scores]]:
        """All groups with their names; policies only where there are several."""
        yield "all", self.overall
        if len(self.by_policy) > 1:
            yield from self.by_policy.items()
        yield from self.by_type.items()


def measure_dataset(
    path: str | Path,
    *,
    scenario: Scenario | None = None,
    judge_steps: bool = True,
    progress: Callable[[int], None] | None = None,
    bootstrap_seed: int = 0,
) -> Measured:
    """Measure the episodes of a dataset's folder or file.

    Args:
        scenario: of the episodes of ours, where the dataset does not tell; its tools are those of the others.
        judge_steps: run the steps of episodes of ours on a fork, where their records hold no labels yet.
        progress: called with 1 after each episode.
        bootstrap_seed: of the resampling behind the intervals.

    Raises:
        RecordError: the dataset is missing, empty or damaged, or of another version of the scenario.
        ValueError: every episode lost its sandbox.
    """
    gauge = _Gauge(Path(path), scenario, judge_steps)
    measures: list[EpisodeMeasure] = []
    for trajectory in read_trajectories(path):
        measures.append(gauge.measure(trajectory))
        if progress is not None:
            progress(1)
    gauge.close()
    return Measured(
        schema_version=SCHEMA_VERSION,
        dataset=str(path),
        elsewhere=gauge.elsewhere,
        graded=sum(m.graded and not m.lost for m in measures),
        overall=summarize(measures, seed=bootstrap_seed),
        by_type=_by(measures, lambda m: m.family, bootstrap_seed),
        by_policy=_by(measures, lambda m: m.policy, bootstrap_seed),
    )


def _by(measures: Sequence[EpisodeMeasure], key: Callable[[EpisodeMeasure], str], seed: int) -> dict[str, Scores]:
    groups: dict[str, list[EpisodeMeasure]] = defaultdict(list)
    for m in measures:
        if not m.lost:
            groups[key(m)].append(m)
    return {name: summarize(groups[name], seed=seed) for name in sorted(groups)}


class _Gauge:
    """Measures single episodes; scenario and tools are looked for when the first of their kind comes."""

    def __init__(self, path: Path, scenario: Scenario | None, judge_steps: bool) -> None:
        self._path, self._scenario, self._judge_steps = path, scenario, judge_steps
        self._sampler: Sampler | None = None
        self._env: ToolEnv | None = None
        self._declared: Toolbox | None = None
        self.elsewhere = 0

    def measure(self, trajectory: Trajectory) -> EpisodeMeasure:
        if trajectory.scenario == ELSEWHERE:
            self.elsewhere += 1
            return measure(trajectory, self._toolbox())
        if self._sampler is None:
            self._scenario = self._scenario or scenario_of(self._path)
            self._sampler = Sampler(self._scenario, "all")
        sampler = self._sampler
        ours = sampler.scenario
        if (trajectory.scenario, trajectory.scenario_version) != (ours.name, ours.version):
            raise RecordError(
                f"{trajectory.id}: of {trajectory.scenario} at version {trajectory.scenario_version}; "
                f"here is {ours.name} at version {ours.version}"
            )
        return measure(self._labelled(trajectory, ours), ours.toolbox, sampler.task_by_id(trajectory.task))

    def _toolbox(self) -> Toolbox:
        if self._scenario is not None:
            return self._scenario.toolbox
        if self._declared is None:
            self._declared = declared_toolbox(self._path)
        return self._declared

    def _labelled(self, trajectory: Trajectory, scenario: Scenario) -> Trajectory:
        """The episode with the labels of its steps, where they are missing."""
        has_labels = any("label" in step.labels for step in trajectory.steps)
        if not self._judge_steps or has_labels or trajectory.sandbox_lost:
            return trajectory
        if self._env is None:
            self._env = ToolEnv(scenario, families="all")
        judgements = label_steps(self._env, trajectory)
        steps = zip(trajectory.steps, judgements, strict=True)
        return replace(trajectory, steps=tuple(replace(s, labels=s.labels | judged(j)) for s, j in steps))

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
