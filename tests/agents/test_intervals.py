"""Intervals: published values, and what must hold of any."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.intervals import Metric, bootstrap, pass_hat_k, proportion, ratio, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Published values: Newcombe 1998, table I (method 3).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


counts = st.integers(1, 5_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_wilson_lies_within_0_and_1_and_holds_its_value(count: tuple[int, int]) -> None:
    low, high = wilson(*count)
    assert 0 <= low <= count[0] / count[1] <= high <= 1
    assert low < high


@given(counts.filter(lambda count: count[0] < count[1]))
def test_wilson_rises_with_the_successes(count: tuple[int, int]) -> None:
    successes, n = count
    (low, high), (higher_low, higher_high) = wilson(successes, n), wilson(successes + 1, n)
    assert higher_low > low or successes == 0
    assert higher_high > high or successes + 1 == n


@given(counts)
def test_wilson_narrows_with_n(count: tuple[int, int]) -> None:
    (low, high), (narrow_low, narrow_high) = wilson(*count), wilson(4 * count[0], 4 * count[1])
    assert narrow_high - narrow_low < high - low


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5), (0, -1), (float("nan"), 5)])
def test_wilson_refuses_what_is_no_proportion(successes: float, n: float) -> None:
    with pytest.raises(ValueError, match="a proportion needs"):
        wilson(successes, n)


def test_independent_trials_have_the_plain_interval() -> None:
    hits = [1] * 81 + [0] * 182
    assert proportion(hits, [1] * 263) == Metric(81 / 263, *wilson(81, 263), 263)


def test_trials_that_resemble_each_other_count_less() -> None:
    alike = proportion([10] * 10 + [0] * 10, [10] * 20)
    mixed = proportion([5] * 20, [10] * 20)
    assert alike is not None
    assert mixed is not None
    assert (alike.value, alike.n) == (mixed.value, mixed.n) == (0.5, 200)
    assert mixed.high - mixed.low == pytest.approx(np.diff(wilson(100, 200))[0])
    assert alike.high - alike.low > 2.9 * (mixed.high - mixed.low)


def test_of_one_cluster_nothing_is_known_of_the_spread() -> None:
    metric = proportion([16], [16])
    assert metric is not None
    assert (metric.low, metric.high) == wilson(1, 1)


def test_nothing_to_measure_is_no_metric() -> None:
    assert proportion([], []) is None
    assert proportion([0, 0], [0, 0]) is None
    assert ratio([1.0], [0], seed=0) is None
    assert pass_hat_k([1], [1], 2) is None


clusters = st.lists(st.integers(1, 9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1)


@given(clusters)
def test_a_proportion_lies_within_its_interval(pairs: list[tuple[int, int]]) -> None:
    metric = proportion(*zip(*pairs, strict=True))
    assert metric is not None
    assert 0 <= metric.low <= metric.value <= metric.high <= 1
    assert metric.n == sum(n for _, n in pairs)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), min_size=1, max_size=20), st.integers(0, 9))
def test_a_ratio_lies_within_its_interval_and_follows_from_the_seed(pairs: list[tuple[int, int]], seed: int) -> None:
    tops, bottoms = zip(*pairs, strict=True)
    metric = ratio(tops, bottoms, seed=seed)
    assert metric is not None
    assert metric.low <= metric.value <= metric.high
    assert metric.value == pytest.approx(sum(tops) / sum(bottoms))
    assert metric == ratio(tops, bottoms, seed=seed)


def test_the_bootstrap_of_a_mean_agrees_with_theory() -> None:
    values = np.random.default_rng(1).normal(10, 2, size=400)
    table = np.column_stack((values, np.ones(400)))
    _, low, high = bootstrap(table, lambda sums: sums[:, :1] / sums[:, 1:], seed=0, resamples=4_000)
    half = 1.96 * values.std() / 20
    assert [low[0], high[0]] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.02)


def test_pass_hat_k_is_the_chance_that_k_trials_succeed() -> None:
    wins, trials = [4, 2, 0], [4, 4, 4]
    values = [pass_hat_k(wins, trials, k) for k in (1, 2, 3, 4)]
    assert [metric.value for metric in values if metric] == pytest.approx([1.5 / 3, (1 + 1 / 6) / 3, 1 / 3, 1 / 3])
    assert all(metric.n == 3 for metric in values if metric)


@given(st.lists(st.integers(0, 5), min_size=1))
def test_pass_hat_k_begins_at_success_and_falls(wins: list[int]) -> None:
    metrics = [pass_hat_k(wins, [5] * len(wins), k) for k in range(1, 6)]
    values = [metric.value for metric in metrics if metric is not None]
    assert values[0] == pytest.approx(sum(wins) / (5 * len(wins)))
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(values))
