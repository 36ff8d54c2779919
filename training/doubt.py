"""How far a cascade's doubt can be trusted: fitted to the small model's steps, and measured on others.

Whether a step was right is known exactly, since each is judged on a fork (`agents.equivalence`). Only steps at which
the task could still be solved count: where it can not, nothing is right any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from toolenv.agents.doubt import FEATURES, Doubt, Familiar, features_of
from toolenv.agents.equivalence import Guide
from toolenv.agents.intervals import Floats, Metric, share
from toolenv.agents.policy import Decision, Episode, Policy
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.calls import Json
from toolenv.tools.errors import OperatorError, SandboxLost

_FEATURES, _RIGHT = "features", "right"
_BINS: Final = 10
_ROUNDS: Final = 100


class NothingToFit(OperatorError):
    """The small model's steps were all right or all wrong, or every sandbox was lost."""


class Observed:
    """A policy whose steps are labelled with their features, and with whether they were right.

    `right` is None where the task can not be solved any more, or a sandbox of a fork was lost.
    """

    def __init__(self, policy: Policy, familiar: Familiar) -> None:
        self.policy, self.name, self.familiar = policy, policy.name, familiar

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        views = [episode.view("observed") for episode in episodes]
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
        bins=tuple(Bin(float(d[g].mean()), share(w[g])) for g in groups),
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


def doubts_in(trajectory: Trajectory, doubt: Doubt) -> tuple[float, ...]:
    """The doubt in each step of an `Observed` episode."""
    return tuple(doubt(step.labels[_FEATURES]) for step in trajectory.steps)
