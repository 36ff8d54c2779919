"""Evaluation: a policy on tasks it was not trained on, as numbers with intervals.

An `Evaluation` is a versioned record: what was run, the metrics overall and by family, difficulty and exposure, and
the outcome of every episode, so that two of them can be compared pair by pair later. It depends on the policy, the
scenario and the seeds alone, not on batches or processes (as far as the policy's own arithmetic does not).

What this omits: a correction for comparing many policies. Whoever picks the best of ten should keep seeds apart for
it.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from toolenv.agents.drift import behind_drift
from toolenv.agents.intervals import Metric
from toolenv.agents.mentor import MentoredPolicy
from toolenv.agents.policies import make_policy
from toolenv.agents.policy import Policy
from toolenv.agents.records import write_jsonl
from toolenv.agents.rollout import DEFAULT_BATCH, Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.agents.user_model import UserModel, user_settings
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.sampler import Sampler
from toolenv.scenarios.splits import FIRST_TEST_SEED, split_of
from toolenv.tools.drift import DriftedToolbox
from toolenv.tools.errors import RecordError, SandboxLost
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.version import __version__
from toolenv.training.metrics import EpisodeMeasure, Scores, measure, summarize

if TYPE_CHECKING:
    from toolenv.agents.chat_client import EndpointSettings

SCHEMA_VERSION: Final = 1
_STRICT = ConfigDict(extra="forbid", strict=True)
_SEEDS_A_TASK: Final = 64

EXPOSURES: Final = {"train": "families trained on", "unseen": "families never seen"}
"""What a scenario says of a family -> what tables call such families."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """What was run. `splits` counts the seeds by split: a fair test has "test" alone. `user` is the model that played
    the users, None for their scripts."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    scenario: str
    scenario_version: str
    toolbox_version: str
    toolenv_version: str
    policy: str
    families: tuple[str, ...]
    seed_start: int
    n: int
    trials: int
    splits: dict[str, int]
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A policy, measured.

    Attributes:
        by_family, by_difficulty: metrics of the episodes of each; difficulties are "1" to "5".
        by_exposure: "train" of families that training may use, "unseen" of the others.
        outcomes: task id -> one letter a trial: 1 solved, 0 not, - sandbox lost.
        difficulties: family -> its difficulty, 1 to 5; empty in evaluations that were kept before there was the field.
        elapsed_s: seconds the evaluation took; not compared, since it does not replay.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    schema_version: Literal[1]
    config: EvaluationConfig
    overall: Scores
    by_family: dict[str, Scores]
    by_difficulty: dict[str, Scores]
    by_exposure: dict[str, Scores]
    outcomes: dict[str, str]
    difficulties: dict[str, int] = field(default_factory=dict)
    elapsed_s: float = field(default=0.0, compare=False)

    @property
    def success(self) -> Metric:
        """The share of episodes that the grader accepts; of a policy that was run, every outcome is known."""
        assert self.overall.success is not None
        return self.overall.success

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes | str, where: str = "<evaluation>") -> Evaluation:
        """Read what `to_json` wrote.

        Raises:
            RecordError: damaged, incomplete or of another version; names field and rule.
        """
        try:
            return _adapter().validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            _raise_if_other_version(data, where)
            name = ".".join(str(part) for part in first["loc"]) or "evaluation"
            raise RecordError(f"{where}: {name}: {first['msg']}") from None

    def groups(self) -> Iterator[tuple[str, Scores]]:
        """All groups with their names, from overall to single families."""
        yield "all", self.overall
        yield from ((EXPOSURES[name], scores) for name, scores in self.by_exposure.items())
        yield from ((f"difficulty {level}", scores) for level, scores in self.by_difficulty.items())
        yield from self.by_family.items()


@lru_cache(1)
def _adapter() -> TypeAdapter[Evaluation]:
    return TypeAdapter(Evaluation)


def _raise_if_other_version(data: bytes | str, where: str) -> None:
    try:
        version: Any = orjson.loads(data).get("schema_version")
    except (orjson.JSONDecodeError, AttributeError):
        return
    if version != SCHEMA_VERSION:
        raise RecordError(f"{where}: schema_version: this is version {version}; version {SCHEMA_VERSION} is read here")


# -- running -------------------------------------------------------------------------------------------


def evaluate(
    scenario: str | Path | Scenario,
    policy: str | Policy,
    *,
    seed_start: int = FIRST_TEST_SEED,
    n: int = 300,
    families: str | Iterable[str] = "train",
    trials: int = 1,
    batch: int = DEFAULT_BATCH,
    processes: int = 1,
    progress: Progress | None = None,
    trajectories: Path | None = None,
    bootstrap_seed: int = 0,
    judge_steps: bool = True,
    drift: DriftedToolbox | None = None,
    user: str | None = None,
    **env_options: Any,
) -> Evaluation:
    """Run a policy on the tasks of `n` seeds and measure it.

    Args:
        scenario: a shipped scenario's name, a YAML file, or a loaded scenario.
        policy: a policy, or a name as `make_policy` takes it.
        seed_start: the first seed; test tasks begin at 900,000.
        n: seeds, so tasks.
        families: "train", "unseen", "all", or names; what tasks are drawn from.
        trials: attempts at each task.
        batch: episodes at once, in each process.
        processes: more than one needs a policy that can be pickled, or its name: then each process makes its own.
        progress: called with episodes done and episodes in all.
        trajectories: a JSONL file to keep the episodes in.
        bootstrap_seed: of the resampling behind the intervals.
        judge_steps: run every step on a fork first, to tell what it is worth (`agents.equivalence`); some 0.5 ms each.
        drift: of the scenario's toolbox, behind which the policy acts. Then steps are not judged and the choice of
            tools is not told: both go by the plan's own tools.
        user: "llm:MODEL" or "llm:FILE.yaml", a model that plays the users; their scripts if left out.
        env_options: further arguments of `ToolEnv`.

    Raises:
        PolicyStopped: an endpoint's budget is spent, or it is down.
        ValueError: `n`, `trials`, `batch` or `processes` is below 1, `seed_start` below 0, or no policy of that name.
        ScenarioError: the scenario or a family is wrong.
        SandboxLost: every episode was lost.
    """
    _require_at_least_one(n=n, trials=trials, batch=batch, processes=processes)
    if seed_start < 0:
        raise ValueError(f"seed_start must be at least 0, not {seed_start}")
    began = time.perf_counter()
    loaded = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
    names = Sampler(loaded, families).names
    asked = None if user is None else user_settings(user, loaded)
    job = _Job(loaded, policy, names, batch, trajectories is not None, judge_steps, drift, asked, env_options)
    attempts = [Attempt(seed, trial=trial) for seed in range(seed_start, seed_start + n) for trial in range(trials)]
    measures: list[EpisodeMeasure] = []

    def kept() -> Iterator[Trajectory]:
        for measured, trajectory in _run_all(job, attempts, processes, _SEEDS_A_TASK * trials):
            measures.append(measured)
            if progress is not None:
                progress(len(measures), len(attempts))
            if trajectory is not None:
                yield trajectory

    if trajectories is None:
        deque(kept(), maxlen=0)
    else:
        write_jsonl(kept(), trajectories)
    config = EvaluationConfig(
        scenario=loaded.name,
        scenario_version=loaded.version,
        toolbox_version=job.toolbox.version,
        toolenv_version=__version__,
        policy=measures[0].policy,
        families=names,
        seed_start=seed_start,
        n=n,
        trials=trials,
        splits=dict(Counter(split_of(seed).value for seed in range(seed_start, seed_start + n))),
        user=None if asked is None else asked.model,
    )
    return _evaluation(config, loaded, measures, bootstrap_seed, began)


def _require_at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")


@dataclass(frozen=True)
class _Job:
    """What every process needs; a policy that is named is made when the first episodes run."""

    scenario: Scenario
    policy: str | Policy
    families: tuple[str, ...]
    batch: int
    keep: bool
    judge_steps: bool
    drift: DriftedToolbox | None
    user: EndpointSettings | None
    env_options: dict[str, Any]

    @cached_property
    def _acting(self) -> Policy:
        policy = make_policy(self.policy) if isinstance(self.policy, str) else self.policy
        if self.drift is not None:
            return behind_drift(policy)
        return MentoredPolicy(policy, repairs=0) if self.judge_steps else policy

    @property
    def toolbox(self) -> Toolbox:
        return self.scenario.toolbox if self.drift is None else self.drift

    @cached_property
    def _user(self) -> UserModel | None:
        return None if self.user is None else UserModel(self.user)

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self.scenario, self.families)

    def run(self, attempts: Iterable[Attempt]) -> Iterator[tuple[EpisodeMeasure, Trajectory | None]]:
        options: dict[str, Any] = {
            "families": self.families,
            "batch": self.batch,
            "drift": self.drift,
            "user": self._user,
        }
        options |= self.env_options
        for trajectory in rollout(self.scenario, self._acting, attempts, **options):
            task = self._sampler.task_of(trajectory.family, trajectory.seed) if self.drift is None else None
            yield measure(trajectory, self.toolbox, task), trajectory if self.keep else None


_JOB: list[_Job] = []
"""The job of this process, if it is a worker."""


def _begin(job: _Job) -> None:
    _JOB[:] = [job]


def _run_chunk(attempts: Sequence[Attempt]) -> list[tuple[EpisodeMeasure, Trajectory | None]]:
    return list(_JOB[0].run(attempts))


def _run_all(
    job: _Job, attempts: Sequence[Attempt], processes: int, chunk: int
) -> Iterator[tuple[EpisodeMeasure, Trajectory | None]]:
    if processes == 1:
        yield from job.run(attempts)
        return
    chunks = [attempts[start : start + chunk] for start in range(0, len(attempts), chunk)]
    # Spawned, not forked: SQLite connections and threads of a model do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(job,)) as pool:
        for results in pool.map(_run_chunk, chunks):
            yield from results


def _evaluation(
    config: EvaluationConfig, scenario: Scenario, measures: Sequence[EpisodeMeasure], seed: int, began: float
) -> Evaluation:
    if all(m.lost for m in measures):
        raise SandboxLost(f"all {len(measures)} episodes lost their sandbox: there is nothing to measure")
    exposure = {name: scenario.families[name].split for name in config.families}
    outcomes: dict[str, str] = defaultdict(str)
    for m in sorted(measures, key=lambda m: (m.seed, m.trial)):
        outcomes[m.task] += "-" if m.lost else str(int(m.success))
    return Evaluation(
        schema_version=SCHEMA_VERSION,
        config=config,
        overall=summarize(measures, seed=seed),
        by_family=_by(measures, lambda m: m.family, config.families, seed),
        by_difficulty=_by(measures, lambda m: str(m.difficulty), "12345", seed),
        by_exposure=_by(measures, lambda m: exposure[m.family], tuple(EXPOSURES), seed),
        outcomes=dict(outcomes),
        difficulties={name: scenario.families[name].difficulty for name in config.families},
        elapsed_s=round(time.perf_counter() - began, 3),
    )


def _by(
    measures: Iterable[EpisodeMeasure], key: Callable[[EpisodeMeasure], str], order: Sequence[str], seed: int
) -> dict[str, Scores]:
    """Metrics of each group that has an episode, in order."""
    groups: dict[str, list[EpisodeMeasure]] = defaultdict(list)
    for m in measures:
        if not m.lost:
            groups[key(m)].append(m)
    return {name: summarize(groups[name], seed=seed) for name in order if name in groups}
