"""Splits and the choice of families: decided by the seed, stable as a scenario grows."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.scenarios.splits import SEEDS_PER_CYCLE, Split, WeightedChoice, mix, salt, split_of

SEEDS = st.integers(0, 10**12)
NAMES = st.dictionaries(st.text("abcdef", min_size=1, max_size=6), st.floats(0.01, 100), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("seed", "split"),
    [
        (0, Split.TRAIN),
        (799_999, Split.TRAIN),
        (800_000, Split.VALIDATION),
        (899_999, Split.VALIDATION),
        (900_000, Split.TEST),
        (999_999, Split.TEST),
        (1_000_000, Split.TRAIN),
        (7_850_000, Split.VALIDATION),
    ],
)
def test_the_splits_lie_where_they_are_documented(seed: int, split: Split) -> None:
    assert split_of(seed) is split


@given(SEEDS)
def test_splits_repeat_every_million_seeds(seed: int) -> None:
    assert split_of(seed) is split_of(seed + SEEDS_PER_CYCLE)


def test_the_hashes_are_frozen() -> None:
    """Published tasks hang on these numbers: a change here changes every task."""
    assert [mix(0), mix(1), mix(1, 2), mix(2, 1)] == [
        16294208416658607535,
        10451216379200822465,
        13608149317741381227,
        16171810823986729605,
    ]
    assert salt("crm/order_status") == 12678667894679694053
    choose = WeightedChoice({"a": 1, "b": 2, "c": 1})
    assert "".join(choose(seed) for seed in range(20)) == "bababbabbbbbbbaabcbb"


@given(st.lists(st.integers(0, 2**70), min_size=1, max_size=4))
def test_mix_gives_64_bits(values: list[int]) -> None:
    assert 0 <= mix(*values) < 2**64


@given(NAMES, st.floats(0.01, 100), SEEDS)
def test_a_new_family_takes_seeds_and_moves_none_between_the_others(
    weights: dict[str, float], weight: float, seed: int
) -> None:
    before = WeightedChoice(weights)(seed)
    after = WeightedChoice({**weights, "new_family": weight})(seed)
    assert after in (before, "new_family")


@given(NAMES, SEEDS)
def test_the_order_of_the_families_does_not_matter(weights: dict[str, float], seed: int) -> None:
    assert WeightedChoice(weights)(seed) == WeightedChoice(dict(reversed(weights.items())))(seed)


def test_families_are_drawn_by_their_weights() -> None:
    counts = Counter(map(WeightedChoice({"a": 1, "b": 2, "c": 5}), range(40_000)))
    assert counts["a"] / 40_000 == pytest.approx(1 / 8, abs=0.01)
    assert counts["b"] / 40_000 == pytest.approx(2 / 8, abs=0.01)
