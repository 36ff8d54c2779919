"""The episodes of a run, read for its report: which are shown, what went wrong, and what they measure.

What can not be told of an episode (its scenario is not here, it does not come out as recorded, its task is none of the
scenario's) is counted, and `notes` says it to the reader of the page.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from toolenv.agents.dataset import declared_toolbox, scenario_of
from toolenv.agents.inert import visible
from toolenv.agents.mentor import judged
from toolenv.agents.retrace import Retracer, Traced
from toolenv.agents.trajectory import ELSEWHERE, Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.sampler import Sampler, Task
from toolenv.tools.errors import RecordError, ScenarioError
from toolenv.tools.toolbox import Toolbox
from toolenv.training.metrics import EpisodeMeasure, measure
from toolenv.training.report_episodes import FAILED, card, causes, labels_of, outcome
from toolenv.training.run_files import RunFiles

DEFAULT_LIMIT: Final = 2_000
_RIGHT: Final = ("preferred", "acceptable")

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report shows.

    Attributes:
        title: of the page; the inputs' names if empty.
        limit: the most episodes to browse; of more, whole tasks are left out at equal distances.
        changes: retrace the episodes, to show which rows each write changed.
        label: also judge every step on forks; some 0.5 ms each.
        scenario: of the episodes, where their folder does not tell: a name or a YAML file.
        sandbox: where tools run when episodes are retraced.
    """

    title: str = ""
    limit: int = DEFAULT_LIMIT
    changes: bool = True
    label: bool = False
    scenario: str | None = None
    sandbox: str = "embedded"


@dataclass(slots=True)
class Failures:
    """Of one policy's episodes: how many, and what went wrong in those not solved.

    Attributes:
        causes: the grader's, each counted once an episode.
        errors: error type -> calls.
        first_wrong: (step, tool or "(answer)") -> failed episodes whose earliest wrong or wasteful step it is.
        judged: failed episodes whose steps were judged.
    """

    episodes: int = 0
    failed: int = 0
    lost: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first_wrong: Counter[tuple[int, str]] = field(default_factory=Counter)
    judged: int = 0


class EpisodeReader:
    """Reads every episode once to choose those that are shown, and once to count and to keep.

    Attributes:
        total: episodes in the run.
        cards: the episodes that are shown, as `report_episodes.card` lays them out.
        systems: their system messages -> number.
        failures, measures: policy -> what went wrong, and what was counted where there is no evaluation of it.
        exposure, difficulty: of families, as far as the episodes tell.
        versions: scenarios, each with its version, in the order of their first episode.
    """

    def __init__(self, run: RunFiles, options: ReportOptions) -> None:
        self.run, self.options = run, options
        self.total = 0
        self.cards: list[dict[str, Any]] = []
        self.systems: dict[str, int] = {}
        self.failures: dict[str, Failures] = defaultdict(Failures)
        self.measures: dict[str, list[EpisodeMeasure]] = defaultdict(list)
        self.exposure: dict[str, str] = {}
        self.difficulty: dict[str, int] = {}
        self.versions: dict[str, None] = {}
        self._scenarios: dict[Path, Scenario | str] = {}
        self._toolboxes: dict[Path, Toolbox | str] = {}
        self._retracers: dict[str, Retracer] = {}
        self._samplers: dict[str, Sampler] = {}
        self._untold: Counter[str] = Counter()
        self._unmeasured: Counter[str] = Counter()
        self._differing = self._taskless = 0

    def read(self, advance: Advance) -> None:
        """Read the whole run. Raises RecordError: a file is damaged; ScenarioError: the named scenario is wrong."""
        chosen = self._chosen()
        try:
            for path, policy, trajectory in self.run.trajectories():
                self._take(path, policy, trajectory, trajectory.task in chosen)
                advance(1)
        finally:
            for retracer in self._retracers.values():
                retracer.close()

    def notes(self) -> list[str]:
        """What the reader must know about what is missing."""
        found = []
        if len(self.cards) < self.total:
            found.append(
                f"{len(self.cards):,} of {self.total:,} episodes can be browsed: whole tasks are left out, at equal "
                "distances. What is counted is counted over all."
            )
        found += [f"Of {count:,} episodes nothing can be retraced: {why}." for why, count in self._untold.items()]
        found += [f"{count:,} episodes are not measured: {why}." for why, count in self._unmeasured.items()]
        if self._taskless:
            found.append(
                f"The task of {self._taskless:,} episodes is none of their scenario's; their choice of tools is not "
                "measured."
            )
        if self._differing:
            found.append(
                f"{self._differing:,} episodes do not come out here as they were recorded; what their steps changed is "
                "shown up to the first difference."
            )
        return found

    def _chosen(self) -> set[str]:
        """The tasks whose episodes are shown: all, or so many at equal distances that the limit is kept."""
        counts: Counter[str] = Counter(trajectory.task for _, _, trajectory in self.run.trajectories())
        self.total = sum(counts.values())
        if self.total <= self.options.limit:
            return set(counts)
        tasks = list(counts)
        keep = max(1, int(len(tasks) * self.options.limit / self.total))
        chosen: set[str] = set()
        left = self.options.limit
        for index in range(keep):
            task = tasks[index * len(tasks) // keep]
            if (left := left - counts[task]) < 0 and chosen:
                break
            chosen.add(task)
        return chosen

    def _take(self, path: Path, policy: str, trajectory: Trajectory, shown: bool) -> None:
        scenario = self._scenario(path, trajectory)
        traced = self._retraced(scenario, trajectory) if shown or self.options.label else None
        trajectory = _labelled(trajectory, traced or ())
        self._count(policy, trajectory)
        self.difficulty[trajectory.family] = trajectory.difficulty
        self.versions[f"{trajectory.scenario} at version {trajectory.scenario_version}"] = None
        if scenario is not None and trajectory.family in scenario.families:
            self.exposure[trajectory.family] = scenario.families[trajectory.family].split
        if policy not in self.run.evaluations:
            self._measure(path, policy, scenario, trajectory)
        if shown:
            system = self.systems.setdefault(visible(trajectory.system), len(self.systems))
            self.cards.append(card(trajectory, policy, traced, system))

    def _count(self, policy: str, trajectory: Trajectory) -> None:
        of = self.failures[policy]
        of.episodes += 1
        of.errors.update(step.error for step in trajectory.steps if step.error is not None)
        of.causes.update(causes(trajectory))
        of.lost += trajectory.sandbox_lost
        if outcome(trajectory) != FAILED:
            return
        of.failed += 1
        labels = labels_of(trajectory)
        if any(labels):
            of.judged += 1
            wrong = next((i for i, label in enumerate(labels) if label is not None and label not in _RIGHT), None)
            if wrong is not None:
                of.first_wrong[wrong + 1, trajectory.steps[wrong].tool or "(answer)"] += 1

    def _measure(self, path: Path, policy: str, scenario: Scenario | None, trajectory: Trajectory) -> None:
        if scenario is not None:
            self.measures[policy].append(measure(trajectory, scenario.toolbox, self._task(scenario, trajectory)))
        elif trajectory.scenario == ELSEWHERE:
            if isinstance(toolbox := self._toolbox(path), Toolbox):
                self.measures[policy].append(measure(trajectory, toolbox))
            else:
                self._unmeasured[toolbox] += 1
        else:
            self._unmeasured[f"{policy} has no evaluation here, and their scenario is not known"] += 1

    def _task(self, scenario: Scenario, trajectory: Trajectory) -> Task | None:
        if scenario.version not in self._samplers:
            self._samplers[scenario.version] = Sampler(scenario, "all")
        try:
            return self._samplers[scenario.version].task_by_id(trajectory.task)
        except ScenarioError:
            self._taskless += 1
            return None

    def _retraced(self, scenario: Scenario | None, trajectory: Trajectory) -> list[Traced] | None:
        if scenario is None or not (self.options.changes or self.options.label):
            return None
        if scenario.version not in self._retracers:
            self._retracers[scenario.version] = Retracer(
                scenario, judge=self.options.label, sandbox=self.options.sandbox
            )
        traced = list(self._retracers[scenario.version].retrace(trajectory))
        self._differing += len(traced) < len(trajectory.steps) and not trajectory.sandbox_lost
        return traced

    # What is not there is told as a sentence in its place.

    def _scenario(self, path: Path, trajectory: Trajectory) -> Scenario | None:
        """The episode's scenario, of the very version; else None, and the reason is counted."""
        if trajectory.scenario == ELSEWHERE:
            self._untold["they are logs from elsewhere"] += 1
            return None
        if path not in self._scenarios:
            self._scenarios[path] = self._load(path)
        scenario = self._scenarios[path]
        if isinstance(scenario, str):
            self._untold[scenario] += 1
            return None
        if (scenario.name, scenario.version) == (trajectory.scenario, trajectory.scenario_version):
            return scenario
        self._untold[
            f"they are of {trajectory.scenario} at version {trajectory.scenario_version}, and what there is here is "
            f"{scenario.name} at version {scenario.version}"
        ] += 1
        return None

    def _load(self, path: Path) -> Scenario | str:
        if self.options.scenario is not None:
            return load_scenario(self.options.scenario)
        try:
            return scenario_of(path)
        except RecordError as error:  # of an unknown scenario: a damaged record was told by `_chosen`
            return str(error)

    def _toolbox(self, path: Path) -> Toolbox | str:
        if path not in self._toolboxes:
            try:
                self._toolboxes[path] = declared_toolbox(path)
            except RecordError as error:
                self._toolboxes[path] = str(error)
        return self._toolboxes[path]


def _labelled(trajectory: Trajectory, traced: Sequence[Traced]) -> Trajectory:
    """The episode with the labels of the steps that were judged now."""
    judgements = [trace.judgement for trace in traced if trace.judgement is not None]
    if not judgements:
        return trajectory
    labelled = [replace(s, labels=s.labels | judged(j)) for s, j in zip(trajectory.steps, judgements, strict=False)]
    return replace(trajectory, steps=(*labelled, *trajectory.steps[len(labelled) :]))
