"""Values with 95% intervals, from recorded episodes.

Observations of one task (its calls, its repeated trials) resemble each other, so intervals are those of clustered
samples: a proportion has Wilson's interval at its effective sample size, a mean or a ratio a bootstrap over tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict

Floats = NDArray[np.float64]

Z_95: Final = 1.959963984540054
RESAMPLES: Final = 1_000
_BLOCK_CELLS: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Metric:
    """A value with its 95% interval and the number of observations behind it (at least 1)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    value: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); neither number need be whole.

    Raises:
        ValueError: `n` is not above 0, or `successes` not within 0 to `n`.
    """
    if not n > 0 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs n above 0 and successes within 0 to n; got {successes} of {n}")
    share, square = successes / n, z * z
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def share(hits: ArrayLike) -> Metric:
    """The share of hits among trials on their own, at least one; (trials,), each 0 or 1."""
    each = np.asarray(hits, dtype=np.float64)
    metric = proportion(each, np.ones(len(each)))
    assert metric is not None, "there is at least one"
    return metric


def proportion(hits: ArrayLike, trials: ArrayLike) -> Metric | None:
    """The share of hits among trials that come in clusters; None without a trial.

    Args:
        hits, trials: (clusters,); of each cluster.

    The interval is Wilson's at the effective sample size `trials / design effect` (Korn and Graubard 1998), where
    the design effect is the variance of the ratio over clusters beside that of independent trials, and at least 1.
    One cluster alone counts as one trial, since nothing shows how clusters differ.
    """
    hit, tried = np.asarray(hits, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    hit, tried = hit[tried > 0], tried[tried > 0]
    total, clusters = float(tried.sum()), len(tried)
    if clusters == 0:
        return None
    share = min(1.0, float(hit.sum()) / total)
    effect = 1.0 if clusters > 1 else total
    if clusters > 1 and 0 < share < 1:
        variance = clusters / (clusters - 1) * float(((hit - share * tried) ** 2).sum()) / total**2
        independent = share * (1 - share) / (total - 1)
        effect = max(1.0, round(variance / independent, 9))
    effective = total / effect
    return Metric(share, *wilson(share * effective, effective), round(total))


def bootstrap(
    table: Floats, statistic: Callable[[Floats], Floats], *, seed: int, resamples: int = RESAMPLES
) -> tuple[Floats, Floats, Floats]:
    """Statistics of column sums, and the ends of their 95% percentile intervals over resampled rows.

    Args:
        table: (rows, columns); one row a cluster.
        statistic: from (resamples, columns) sums to (resamples, statistics).
        seed: of the resampling.

    Returns:
        value, low, high: (statistics,) each. An interval is widened to its value where resampling missed it.
    """
    rows = len(table)
    rng = np.random.default_rng(seed)
    drawn: list[Floats] = []
    while (left := resamples - sum(map(len, drawn))) > 0:
        block = min(left, max(1, _BLOCK_CELLS // rows))
        picks = rng.integers(rows, size=(block, rows)) + np.arange(block)[:, None] * rows
        weights = np.bincount(picks.ravel(), minlength=block * rows).reshape(block, rows)
        drawn.append(statistic(weights.astype(np.float64) @ table))
    value = statistic(table.sum(axis=0, keepdims=True))[0]
    low, high = np.percentile(np.concatenate(drawn), (2.5, 97.5), axis=0)
    return value, np.minimum(low, value), np.maximum(high, value)


def ratio(numerators: ArrayLike, denominators: ArrayLike, *, seed: int) -> Metric | None:
    """Sum over sum, such as steps an episode, with a bootstrap over clusters; None if the denominators are all 0.

    Args:
        numerators, denominators: (clusters,); denominators are whole numbers. Resamples that sum up to 0 count as 1.
    """
    table = np.column_stack((np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)))
    n = round(float(table[:, 1].sum()))
    if n == 0:
        return None
    value, low, high = bootstrap(table, lambda sums: sums[:, :1] / np.maximum(sums[:, 1:], 1), seed=seed)
    return Metric(float(value[0]), float(low[0]), float(high[0]), n)


def pass_hat_k(successes: Sequence[int], trials: Sequence[int], k: int) -> Metric | None:
    """pass^k: the chance that k trials at a task all succeed, averaged over tasks (Yao et al. 2024, tau-bench).

    Per task C(c, k) / C(n, k) of c successes in n trials. Tasks with fewer than k trials are left out; None if all
    are.
    """
    shares = [math.comb(c, k) / math.comb(n, k) for c, n in zip(successes, trials, strict=True) if n >= k]
    return proportion(shares, np.ones(len(shares)))
