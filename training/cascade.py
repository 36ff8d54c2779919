"""Fitting and measuring a cascade: how far doubt can be trusted, and where to hand over.

1. The small model acts on validation tasks. Each of its steps is judged on a fork (`agents.equivalence`), so whether it
   was right is known exactly.
2. On the first half of the tasks a logistic model of "this step is not right" is fitted. Only steps at which the task
   could still be solved count: where it can not, nothing is right any more.
3. On the other half its calibration is measured, and cascades are tried at many thresholds: up to a hand-over the small
   model's steps are those that it took alone, so they are carried out from its record, and the frontier goes on from
   there. For policies that decide by the episode alone this is, step by step, what the cascade does when it is run.
4. The cheapest threshold is chosen whose success reaches the target, a share of the frontier's own on the same tasks.

What this omits: a correction for having tried many thresholds on the same tasks. So the chosen one is measured anew, on
test tasks, by `measure_cascade`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from toolenv.agents.cascade import (
    CascadeFile,
    Prices,
    Spent,
    handed_over,
    spent_by,
    tokens_of,
)
from toolenv.agents.doubt import FEATURES, Doubt, Familiar, features_of
from toolenv.agents.equivalence import Guide
from toolenv.agents.intervals import Floats, Metric, bootstrap, proportion
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policy import Decision, Episode, Policy
from toolenv.agents.records import whole_file
from toolenv.agents.rollout import DEFAULT_BATCH, Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario
from toolenv.tools.calls import Json
from toolenv.tools.errors import OperatorError, SandboxLost

MEASURED: Final = "fit.json"
CASCADE: Final = "cascade.json"
_FEATURES, _RIGHT = "features", "right"
_BINS: Final = 10
_ROUNDS: Final = 100

Advance = Callable[[int], None]


class NothingToFit(OperatorError):
    """The small model's steps were all right or all wrong, or every sandbox was lost."""


# -- the small model's steps, judged -----------------------------------------------------------------------


class Observed:
    """A policy whose steps are labelled with their features, and with whether they were right.

    `right` is None where the task can not be solved any more, or a sandbox of a fork was lost.
    """

    def __init__(self, policy: Policy, familiar: Familiar) -> None:
        self.policy, self.name, self.familiar = policy, policy.name, familiar

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        views = [Episode(e.env, e.trial, e.memory.setdefault("observed", {})) for e in episodes]
        return [self._labelled(e, d) for e, d in zip(episodes, self.policy.act(views), strict=True)]

    def _labelled(self, episode: Episode, decision: Decision) -> Decision:
        if "guide" not in episode.memory:
            episode.memory["guide"] = Guide.start(episode.env)
        features = features_of(episode, decision, self.familiar)
        labels: dict[str, Json] = {_FEATURES: features, _RIGHT: _judged(episode, decision)}
        return replace(decision, labels={**decision.labels, **labels})


def _judged(episode: Episode, decision: Decision) -> bool | None:
    guide: Guide | None = episode.memory["guide"]
    if guide is None:
        return None
    try:
        judgement = guide.judge(episode.env, decision.action)
    except SandboxLost:  # of a fork: where the episode stands is not known any more
        episode.memory["guide"] = None
        return None
    episode.memory["guide"] = judgement.after
    return judgement.label.right if judgement.solvable else None


@dataclass(frozen=True, slots=True)
class Observation:
    """A step with what was seen before it, and whether it was right."""

    features: dict[str, float]
    right: bool


def observations(trajectories: Iterable[Trajectory]) -> list[Observation]:
    """The steps of `Observed` episodes at which the task could still be solved."""
    labels = [step.labels for trajectory in trajectories for step in trajectory.steps]
    return [Observation(label[_FEATURES], label[_RIGHT]) for label in labels if label[_RIGHT] is not None]


# -- fitting ------------------------------------------------------------------------------------------------


def fit_doubt(steps: Sequence[Observation], familiar: Familiar, *, penalty: float = 1.0) -> Doubt:
    """The logistic model of "this step is not right", by Newton's method.

    Args:
        penalty: half of it times the squared norm of the weights of standardised features is added to the summed
            negative log-likelihood in nats (L2); the intercept is free.

    Raises:
        NothingToFit: the steps are all right or all wrong.
    """
    wrong = np.array([not step.right for step in steps], np.float64)
    if not len(wrong) or wrong.min() == wrong.max():
        kind = "there are none" if not len(wrong) else "all are wrong" if wrong[0] else "all are right"
        raise NothingToFit(f"no doubt can be fitted to {len(wrong)} steps: {kind}")
    table = np.array([[step.features[name] for name in FEATURES] for step in steps])
    mean, scale = table.mean(axis=0), table.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = np.column_stack((np.ones(len(table)), (table - mean) / scale))
    ridge = np.diag([0.0, *[penalty] * len(FEATURES)])
    weights = np.zeros(design.shape[1])
    for _ in range(_ROUNDS):
        chance = _sigmoid(design @ weights)
        gradient = design.T @ (chance - wrong) + ridge @ weights
        curvature = design.T @ (design * np.maximum(chance * (1 - chance), 1e-9)[:, None]) + ridge
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(
            1.0, 5.0 / float(np.abs(step).max() + 1e-12)
        )  # bounded, so that it can not overshoot
        if float(np.abs(step).max()) < 1e-9:
            break
    plain = weights[1:] / scale
    return Doubt(
        intercept=round(float(weights[0] - plain @ mean), 9),
        weights={name: round(float(weight), 9) for name, weight in zip(FEATURES, plain, strict=True)},
        familiar=familiar,
    )


def _sigmoid(odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -500, 500))), np.float64)


@dataclass(frozen=True, slots=True)
class Bin:
    """Steps of like doubt: its mean, and the share that was in fact not right."""

    doubt: float
    wrong: Metric


@dataclass(frozen=True, slots=True)
class DoubtQuality:
    """How far doubt can be trusted, on steps that it was not fitted on.

    Attributes:
        steps, wrong: how many, and how many of them were not right.
        calibration_error: mean over the bins, by their size, of |mean doubt - share wrong| (ECE).
        brier: mean squared difference of doubt and outcome; `brier_of_rate` is that of always saying the share wrong.
        auc: the chance that a wrong step is in more doubt than a right one; None without both.
        bins: of equal size.
        risk_coverage: (coverage, risk): of the least doubtful share of the steps, the share wrong.
        area: under that curve, by its mean over all steps.
    """

    steps: int
    wrong: int
    calibration_error: float
    brier: float
    brier_of_rate: float
    auc: float | None
    bins: tuple[Bin, ...]
    risk_coverage: tuple[tuple[float, float], ...]
    area: float


def doubt_quality(doubts: Sequence[float], wrong: Sequence[bool]) -> DoubtQuality:
    """Calibration and risk-coverage of doubts.

    Raises:
        ValueError: there is no step.
    """
    if not doubts:
        raise ValueError("there is no step to measure doubt on")
    d, w = np.array(doubts), np.array(wrong, np.float64)
    order = np.argsort(d, kind="stable")
    groups = [group for group in np.array_split(order, min(_BINS, len(d))) if len(group)]
    curve = risk_coverage(doubts, wrong)
    rate = float(w.mean())
    return DoubtQuality(
        steps=len(d),
        wrong=int(w.sum()),
        calibration_error=float(sum(len(g) * abs(d[g].mean() - w[g].mean()) for g in groups) / len(d)),
        brier=float(((d - w) ** 2).mean()),
        brier_of_rate=rate * (1 - rate),
        auc=_auc(d, w),
        bins=tuple(Bin(float(d[g].mean()), _share(w[g])) for g in groups),
        risk_coverage=tuple(curve),
        area=_area(curve),
    )


def risk_coverage(doubts: Sequence[float], wrong: Sequence[bool]) -> list[tuple[float, float]]:
    """(coverage, risk) where steps are taken in order of doubt, least first; steps of equal doubt are taken at once."""
    order = sorted(range(len(doubts)), key=doubts.__getitem__)
    points, errors = [], 0
    for taken, index in enumerate(order, 1):
        errors += wrong[index]
        if taken == len(order) or doubts[order[taken]] > doubts[index]:
            points.append((taken / len(order), errors / taken))
    return points


def _area(curve: Sequence[tuple[float, float]]) -> float:
    """The mean of the risk over coverage."""
    before, area = 0.0, 0.0
    for coverage, risk in curve:
        area += (coverage - before) * risk
        before = coverage
    return area


def _auc(doubts: Floats, wrong: Floats) -> float | None:
    bad, good = doubts[wrong == 1], np.sort(doubts[wrong == 0])
    if not len(bad) or not len(good):
        return None
    below = (np.searchsorted(good, bad, "left") + np.searchsorted(good, bad, "right")) / 2
    return float(below.mean() / len(good))


def _share(hits: Floats) -> Metric:
    metric = proportion(hits, np.ones(len(hits)))
    assert metric is not None, "there is at least one"
    return metric


# -- thresholds ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tried:
    """A cascade at one threshold, or a tier alone.

    Attributes:
        name: "small", "frontier" or "cascade".
        threshold: 0 is the frontier alone, 1 the small one.
        episodes, steps: shares handed over; of the steps, those that the frontier took.
        cost: an episode's, in the unit of the prices.
        relative: to the frontier's cost on the same tasks.
        seconds: of the policies, an episode: those that were recorded, shared out evenly among an episode's steps.
        reached: whether success is at least the target's share of the frontier's.
    """

    name: str
    threshold: float
    success: Metric
    episodes: Metric
    steps: Metric
    cost: float
    relative: Metric
    seconds: float
    reached: bool


@dataclass(frozen=True, slots=True)
class _Alone:
    """An episode of the small model, with the doubt of each step."""

    trajectory: Trajectory
    doubts: tuple[float, ...]

    def hand_over(self, threshold: float) -> int | None:
        """The index of the first step in more doubt than the threshold."""
        return next((i for i, doubt in enumerate(self.doubts) if doubt > threshold), None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an episode of a cascade ended, and what it took."""

    success: bool
    spent: Spent
    handed: bool
    seconds: float

    @property
    def taken(self) -> int:
        """Steps that were carried out; one of the small model's was not where the frontier took over after asking."""
        return self.spent.small_steps + self.spent.frontier_steps


class Sweep:
    """Cascades of one small model's episodes at any threshold; the frontier goes on from each hand-over once.

    Args:
        alone: the small model's episodes, with the doubt of each step. Those that lost a sandbox are left out.
        families: as in these episodes' rollout.

    Raises:
        NothingToFit: every episode lost its sandbox.
    """

    def __init__(
        self,
        scenario: Scenario,
        alone: Sequence[tuple[Trajectory, Sequence[float]]],
        frontier: Policy,
        *,
        batch: int = DEFAULT_BATCH,
        **env_options: Any,
    ) -> None:
        kept = [_Alone(t, tuple(doubts)) for t, doubts in alone if not t.sandbox_lost]
        if not kept:
            raise NothingToFit(f"of {len(alone)} episodes all lost their sandbox")
        self._alone = {(a.trajectory.task, a.trajectory.trial): a for a in kept}
        self._scenario, self._frontier, self._batch, self._options = scenario, frontier, batch, env_options
        self._done: dict[tuple[str, int, int], Trajectory] = {}

    def thresholds(self, count: int) -> list[float]:
        """0, 1 and at most `count` between: they hand over shares of the episodes from one in a hundred to nearly all,
        evenly by their logarithm, since it is the small shares that are cheap."""
        most = [max(a.doubts, default=0.0) for a in self._alone.values()]
        shares = np.geomspace(0.01, 0.99, count)
        return sorted({0.0, 1.0, *(float(level) for level in np.quantile(most, 1 - shares, method="lower"))})

    def outcomes(self, threshold: float, advance: Advance = lambda _: None) -> dict[tuple[str, int], Outcome]:
        """Of each episode that kept its sandbox: (task, trial) -> its outcome."""
        at = {key: self._at(a, threshold) for key, a in self._alone.items()}
        self._go_on([(key, k) for key, k in at.items() if k is not None], advance)
        found = {}
        for key, k in at.items():
            if (outcome := self._outcome(key, k, asked=threshold > 0)) is not None:
                found[key] = outcome
        return found

    @staticmethod
    def _at(alone: _Alone, threshold: float) -> int | None:
        return 0 if threshold == 0 else alone.hand_over(threshold)

    def _go_on(self, wanted: Iterable[tuple[tuple[str, int], int]], advance: Advance) -> None:
        attempts = []
        for key, k in wanted:
            if (*key, k) not in self._done:
                trajectory = self._alone[key].trajectory
                prefix = tuple(step.action for step in trajectory.steps[:k])
                attempts.append(Attempt(trajectory.seed, trajectory.family, trajectory.trial, prefix))
        options: dict[str, Any] = {"families": "all", "batch": self._batch, **self._options}
        for trajectory in rollout(self._scenario, self._frontier, attempts, **options):
            given = sum("given" in step.labels for step in trajectory.steps)
            self._done[trajectory.task, trajectory.trial, given] = trajectory
            advance(1)

    def _outcome(self, key: tuple[str, int], k: int | None, *, asked: bool) -> Outcome | None:
        alone = self._alone[key].trajectory
        small = alone.steps if k is None else alone.steps[: k + 1] if asked else ()
        tokens = sum(tokens_of(step.text, step.token_ids) for step in small)
        spent, seconds = Spent(tokens, len(small)), _seconds(alone) * len(small) / max(1, len(alone.steps))
        if k is None:
            return Outcome(alone.success, spent, False, seconds)
        after = self._done[(*key, k)]
        if after.sandbox_lost:
            return None
        own = [step for step in after.steps if "given" not in step.labels]
        spent += Spent(0, 0, sum(tokens_of(step.text, step.token_ids) for step in own), len(own))
        return Outcome(after.success, spent, True, seconds + _seconds(after))


def _seconds(trajectory: Trajectory) -> float:
    return 0.0 if trajectory.timing is None else trajectory.timing.policy_s


def tried(
    name: str,
    threshold: float,
    outcomes: Mapping[Any, Outcome],
    frontier: Mapping[Any, Outcome],
    prices: Prices,
    target: float,
) -> Tried:
    """The outcomes in numbers, beside the frontier's on the same tasks.

    Raises:
        NothingToFit: no episode kept its sandbox in both.
    """
    keys = sorted(outcomes.keys() & frontier.keys())
    if not keys:
        raise NothingToFit("no episode kept its sandbox under both the cascade and the frontier")
    mine, theirs = [outcomes[key] for key in keys], [frontier[key] for key in keys]
    success = _share(np.array([o.success for o in mine], np.float64))
    costs = np.array([[o.spent.cost(prices), f.spent.cost(prices)] for o, f in zip(mine, theirs, strict=True)])
    value, low, high = bootstrap(costs, lambda sums: sums[:, :1] / np.maximum(sums[:, 1:], 1e-12), seed=0)
    taken = np.array([o.taken - (o.handed and o.spent.small_steps > 0) for o in mine], np.float64)
    by_frontier = proportion([o.spent.frontier_steps for o in mine], taken)
    assert by_frontier is not None, "an episode has at least one step"
    goal = target * sum(o.success for o in theirs) / len(theirs)
    return Tried(
        name=name,
        threshold=threshold,
        success=success,
        episodes=_share(np.array([o.handed for o in mine], np.float64)),
        steps=by_frontier,
        cost=float(costs[:, 0].mean()),
        relative=Metric(float(value[0]), float(low[0]), float(high[0]), len(keys)),
        seconds=round(sum(o.seconds for o in mine) / len(mine), 6),
        reached=success.value >= goal - 1e-9,
    )


def swept(
    sweep: Sweep, thresholds: Iterable[float], prices: Prices, target: float, advance: Advance = lambda _: None
) -> list[Tried]:
    """The table of a sweep, by threshold; the tiers alone are its ends."""
    frontier = sweep.outcomes(0.0, advance)
    names = {0.0: "frontier", 1.0: "small"}
    return [
        tried(names.get(t, "cascade"), t, sweep.outcomes(t, advance), frontier, prices, target)
        for t in sorted({0.0, 1.0, *thresholds})
    ]


def choose(table: Sequence[Tried]) -> Tried:
    """The cheapest that reached the target; the frontier alone always does."""
    return min((row for row in table if row.reached), key=lambda row: (row.cost, row.threshold))


# -- the whole of it -----------------------------------------------------------------------------------------


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
    alone = [(t, [doubt(step.labels[_FEATURES]) for step in t.steps]) for t in rest]
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
    alone = [(t, [file.doubt(step.labels[_FEATURES]) for step in t.steps]) for t in observed]
    sweep = Sweep(scenario, alone, frontier, batch=settings.batch, **env_options)
    thresholds = [*sweep.thresholds(settings.thresholds), file.threshold]
    table = swept(sweep, thresholds, file.prices, file.target, advance)
    cascade = file.policy(small, frontier)
    outcomes = {
        (t.task, t.trial): Outcome(t.success, spent_by(t.steps), handed_over(t) is not None, _seconds(t))
        for t in _play(scenario, cascade, settings, advance, env_options)
        if not t.sandbox_lost
    }
    run = tried("run", file.threshold, outcomes, sweep.outcomes(0.0), file.prices, file.target)
    steps = observations(observed)
    quality = doubt_quality([file.doubt(step.features) for step in steps], [not step.right for step in steps])
    return Measured(run, tuple(table), quality, (settings.seed_start, settings.n), settings.families)
