"""Fitting and measuring a cascade: how far doubt can be trusted, and where to hand over.

1. The small model acts on validation tasks, and each of its steps is judged on a fork.
2. On the first half of the tasks a logistic model of "this step is not right" is fitted (`training.doubt`).
3. On the other half its calibration is measured, and cascades are tried at many thresholds (`training.sweep`).
4. The cheapest threshold is chosen whose success reaches the target, a share of the frontier's own on the same tasks.

What this omits: a correction for having tried many thresholds on the same tasks. So the chosen one is measured anew, on
test tasks, by `measure_cascade`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from toolenv.agents.cascade import CascadeFile, Prices, handed_over, spent_by
from toolenv.agents.doubt import Familiar
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policy import Policy
from toolenv.agents.records import whole_file
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario
from toolenv.training.doubt import DoubtQuality, Observed, doubt_quality, doubts_in, fit_doubt, observations
from toolenv.training.sweep import Advance, Outcome, Sweep, Tried, choose, policy_seconds, swept, tried

MEASURED: Final = "fit.json"
CASCADE: Final = "cascade.json"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was fitted and measured.

    Attributes:
        fitted_seeds, measured_seeds: (first, number) of the tasks that doubt was fitted on, and of the others.
        table: on the latter.
    """

    chosen: Tried
    quality: DoubtQuality
    table: tuple[Tried, ...]
    fitted_seeds: tuple[int, int]
    measured_seeds: tuple[int, int]
    families: str
    weights: dict[str, float]

    def to_json(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_INDENT_2)


@dataclass(frozen=True, slots=True)
class CascadeSettings:
    """How a cascade is fitted.

    Attributes:
        seed_start, n: the validation tasks: doubt is fitted on the first half of them.
        target: share of the frontier's success that is to be kept.
        thresholds: at most so many between 0 and 1.
        taught: training tasks that the oracle plays, where no episodes say what the small model was trained on.
    """

    seed_start: int
    n: int = 800
    families: str = "all"
    target: float = 0.99
    thresholds: int = 24
    taught: int = 6_000
    prices: Prices = field(default_factory=Prices)
    batch: int = 32

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be at least 1; got {self.n}")
        if not 0 <= self.target <= 1:
            raise ValueError(f"target must be within 0 to 1; got {self.target}")


def fit_cascade(
    scenario: Scenario,
    small: tuple[str, Policy],
    frontier: tuple[str, Policy],
    output: Path,
    settings: CascadeSettings,
    *,
    taught: Iterable[Trajectory] | None = None,
    advance: Advance = lambda _: None,
    **env_options: Any,
) -> Fitted:
    """Fit doubt, choose the threshold and write `cascade.json` and `fit.json` into a folder.

    Args:
        small, frontier: each its name, as `make_policy` takes it, and the policy.
        taught: solved episodes that the small model was trained on; without them, the oracle's of training tasks.
        advance: called with episodes that have ended.

    Raises:
        NothingToFit: the small model's steps were all right or all wrong.
    """
    familiar = Familiar.of(_taught(scenario, settings) if taught is None else taught, scenario.toolbox)
    half = settings.n // 2
    observed = _play(scenario, Observed(small[1], familiar), settings, advance, env_options)
    middle = settings.seed_start + half
    doubt = fit_doubt(observations(t for t in observed if t.seed < middle), familiar)
    rest = [t for t in observed if t.seed >= middle]
    steps = observations(rest)
    quality = doubt_quality([doubt(step.features) for step in steps], [not step.right for step in steps])
    alone = [(t, doubts_in(t, doubt)) for t in rest]
    sweep = Sweep(scenario, alone, frontier[1], batch=settings.batch, **env_options)
    table = swept(sweep, sweep.thresholds(settings.thresholds), settings.prices, settings.target, advance)
    chosen = choose(table)
    fitted = Fitted(
        chosen,
        quality,
        tuple(table),
        (settings.seed_start, half),
        (middle, settings.n - half),
        settings.families,
        doubt.weights,
    )
    CascadeFile(
        scenario=scenario.name,
        scenario_version=scenario.version,
        small=small[0],
        frontier=frontier[0],
        threshold=chosen.threshold,
        target=settings.target,
        prices=settings.prices,
        doubt=doubt,
    ).write(output / CASCADE)
    with whole_file(output / MEASURED) as stream:
        stream.write(fitted.to_json() + b"\n")
    return fitted


def _taught(scenario: Scenario, settings: CascadeSettings) -> Iterator[Trajectory]:
    return rollout(scenario, OraclePolicy(), [Attempt(seed) for seed in range(settings.taught)])


def _play(
    scenario: Scenario, policy: Policy, settings: CascadeSettings, advance: Advance, env_options: dict[str, Any]
) -> list[Trajectory]:
    seeds = range(settings.seed_start, settings.seed_start + settings.n)
    options: dict[str, Any] = {"families": settings.families, "batch": settings.batch, **env_options}
    played = []
    for trajectory in rollout(scenario, policy, [Attempt(seed) for seed in seeds], **options):
        played.append(trajectory)
        advance(1)
    return sorted(played, key=lambda trajectory: trajectory.seed)


@dataclass(frozen=True, slots=True)
class Measured:
    """A cascade on other tasks than those it was fitted on.

    Attributes:
        run: the cascade as it was really run, at its threshold.
        quality: of doubt, on the steps at which the task could still be solved.
        seeds: (first, number).
    """

    run: Tried
    table: tuple[Tried, ...]
    quality: DoubtQuality
    seeds: tuple[int, int]
    families: str

    def to_json(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_INDENT_2)


def measure_cascade(
    scenario: Scenario,
    file: CascadeFile,
    small: Policy,
    frontier: Policy,
    settings: CascadeSettings,
    *,
    advance: Advance = lambda _: None,
    **env_options: Any,
) -> Measured:
    """Measure a cascade and both its tiers on the tasks of `settings`, whose prices and target give way to the file's.

    Raises:
        ValueError: the cascade was fitted on another scenario.
        NothingToFit: every episode lost its sandbox.
    """
    if file.scenario != scenario.name:
        raise ValueError(f"the cascade was fitted on {file.scenario}, not on {scenario.name}")
    observed = _play(scenario, Observed(small, file.doubt.familiar), settings, advance, env_options)
    alone = [(t, doubts_in(t, file.doubt)) for t in observed]
    sweep = Sweep(scenario, alone, frontier, batch=settings.batch, **env_options)
    thresholds = [*sweep.thresholds(settings.thresholds), file.threshold]
    table = swept(sweep, thresholds, file.prices, file.target, advance)
    cascade = file.policy(small, frontier)
    outcomes = {
        (t.task, t.trial): Outcome(t.success, spent_by(t.steps), handed_over(t) is not None, policy_seconds(t))
        for t in _play(scenario, cascade, settings, advance, env_options)
        if not t.sandbox_lost
    }
    run = tried("run", file.threshold, outcomes, sweep.outcomes(0.0), file.prices, file.target)
    steps = observations(observed)
    quality = doubt_quality([file.doubt(step.features) for step in steps], [not step.right for step in steps])
    return Measured(run, tuple(table), quality, (settings.seed_start, settings.n), settings.families)
