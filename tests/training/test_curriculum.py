"""The order of batches: every batch in its turn, the easy ones first, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from math import floor

from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.dialects import SpanKind
from toolenv.training.curriculum import Curriculum, draw_order
from toolenv.training.examples import Example

sizes = st.lists(st.integers(1, 2_000), min_size=1, max_size=40)
seeds = st.integers(0, 5)
curricula = st.builds(Curriculum, start=st.floats(0, 1), end=st.floats(0.01, 1))


def test_difficulty_counts_reasoning_actions_and_entropy() -> None:
    kinds = [SpanKind.OBSERVE] * 9 + [SpanKind.REASON] * 3 + [SpanKind.ACT] * 5
    assert Curriculum(alpha=2, beta=10, gamma=0.5).difficulty(Example(list(range(17)), kinds), entropy=4.0) == 58.0


@given(sizes, seeds, st.integers(1, 3))
def test_without_a_curriculum_every_pass_holds_every_batch_once(tokens: list[int], seed: int, passes: int) -> None:
    order = draw_order(tokens, passes * sum(tokens), seed)
    assert len(order) == passes * len(tokens)
    for start in range(0, len(order), len(tokens)):
        assert sorted(order[start : start + len(tokens)]) == list(range(len(tokens)))
    assert order == draw_order(tokens, passes * sum(tokens), seed)


@given(sizes, seeds, st.floats(1, 50_000))
def test_a_budget_is_spent_and_not_more_than_a_batch_beyond(tokens: list[int], seed: int, budget: float) -> None:
    order = draw_order(tokens, budget, seed)
    assert sum(tokens[batch] for batch in order[:-1]) < budget <= sum(tokens[batch] for batch in order)


def test_another_seed_is_another_order() -> None:
    assert draw_order([1] * 20, 20, 0) != draw_order([1] * 20, 20, 1)


@given(sizes, seeds, curricula, st.floats(0.1, 3))
def test_only_what_is_let_in_is_drawn_and_the_hard_comes_last(
    tokens: list[int], seed: int, curriculum: Curriculum, passes: float
) -> None:
    budget = passes * sum(tokens)
    hardness = [float(size % 7) for size in tokens]
    order = draw_order(tokens, budget, seed, curriculum, hardness)
    assert order == draw_order(tokens, budget, seed, curriculum, hardness)
    ranked = sorted(hardness)
    spent = 0
    for batch in order:
        let_in = min(len(tokens), floor(curriculum.share(spent / budget) * len(tokens)) + 1)
        assert hardness[batch] <= ranked[let_in - 1]
        spent += tokens[batch]


@given(sizes, seeds, curricula)
def test_one_pass_of_a_curriculum_holds_every_batch_once(tokens: list[int], seed: int, curriculum: Curriculum) -> None:
    """The pool grows at least as fast as it is used up, when batches are of one size."""
    order = draw_order([1] * len(tokens), len(tokens), seed, curriculum, [float(size) for size in tokens])
    assert Counter(order) == Counter(range(len(tokens)))


@given(curricula, st.floats(0, 1), st.floats(0, 1))
def test_the_share_grows_to_all_by_the_end_of_pacing(curriculum: Curriculum, first: float, second: float) -> None:
    early, late = sorted((first, second))
    assert curriculum.start <= curriculum.share(early) <= curriculum.share(late) <= 1
    assert curriculum.share(curriculum.end) >= 1 - 1e-9


def test_slowest_pacing_is_ascending_order() -> None:
    hardness = [5.0, 1.0, 4.0, 2.0, 3.0]
    order = draw_order([1] * 5, 5, 0, Curriculum(start=0, end=1), hardness)
    assert [hardness[batch] for batch in order] == sorted(hardness)
