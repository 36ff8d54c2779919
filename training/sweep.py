"""Where a cascade hands over: tried at many thresholds without running it at each.

Up to a hand-over the small model's steps are those that it took alone, so they are carried out from its record, and the
frontier goes on from there. For policies that decide by the episode alone this is, step by step, what the cascade does
when it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolenv.agents.cascade import Prices, Spent, tokens_of
from toolenv.agents.intervals import Metric, bootstrap, proportion, share
from toolenv.agents.policy import Policy
from toolenv.agents.rollout import DEFAULT_BATCH, Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario
from toolenv.training.doubt import NothingToFit

Advance = Callable[[int], None]


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
        spent, seconds = Spent(tokens, len(small)), policy_seconds(alone) * len(small) / max(1, len(alone.steps))
        if k is None:
            return Outcome(alone.success, spent, False, seconds)
        after = self._done[(*key, k)]
        if after.sandbox_lost:
            return None
        own = [step for step in after.steps if "given" not in step.labels]
        spent += Spent(0, 0, sum(tokens_of(step.text, step.token_ids) for step in own), len(own))
        return Outcome(after.success, spent, True, seconds + policy_seconds(after))


def policy_seconds(trajectory: Trajectory) -> float:
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
    success = share([o.success for o in mine])
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
        episodes=share([o.handed for o in mine]),
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
