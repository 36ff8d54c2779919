"""Losses by span: what the weights and the reduction mean, against sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.dialects import SpanKind
from toolenv.agents.language_model import ModelError
from toolenv.training.losses import SpanLoss, cross_entropy, entropy, forward_kl, span_factors
from toolenv.training.reduction import Reduction
from toolenv.training.spans import KINDS

counts = st.lists(st.integers(0, 300), min_size=3, max_size=3).map(lambda three: [0, *three])
weights = st.lists(st.sampled_from([0.0, 0.3, 1.0, 3.0]), min_size=3, max_size=3).map(lambda three: [0.0, *three])


def factors(counts: list[int], weights: list[float], reduction: Reduction) -> list[float]:
    return span_factors(torch.tensor(counts), torch.tensor(weights), reduction).tolist()


@given(counts, st.sampled_from([0.5, 1.0, 4.0]))
def test_equal_weights_of_tokens_are_the_mean_over_tokens(counts: list[int], weight: float) -> None:
    counts[1] = 0  # nothing is observed
    total = sum(counts)
    expected = 1 / total if total else weight
    assert factors(counts, [0.0, 0.0, weight, weight], Reduction.TOKEN)[2:] == pytest.approx([expected] * 2)


@given(counts, weights, st.sampled_from(Reduction))
def test_a_constant_loss_of_every_token_is_the_loss_of_the_step(
    counts: list[int], weights: list[float], reduction: Reduction
) -> None:
    """So the scale does not depend on weights, reduction or lengths."""
    step = sum(n * factor for n, factor in zip(counts, factors(counts, weights, reduction), strict=True))
    trained = any(n and weight for n, weight in zip(counts, weights, strict=True))
    assert step == pytest.approx(1.0 if trained else 0.0)


@given(counts, weights, st.sampled_from([0.1, 7.0]), st.sampled_from(Reduction))
def test_only_the_ratio_of_weights_counts(
    counts: list[int], weights: list[float], scale: float, reduction: Reduction
) -> None:
    scaled = factors(counts, [scale * weight for weight in weights], reduction)
    if any(n and weight for n, weight in zip(counts, weights, strict=True)):
        assert scaled == pytest.approx(factors(counts, weights, reduction))


def test_by_span_a_short_act_weighs_as_much_as_a_long_thought() -> None:
    by_token = factors([50, 0, 90, 10], [0, 0, 1, 1], Reduction.TOKEN)
    by_span = factors([50, 0, 90, 10], [0, 0, 1, 1], Reduction.SPAN)
    assert [n * f for n, f in zip((90, 10), by_token[2:], strict=True)] == pytest.approx([0.9, 0.1])
    assert [n * f for n, f in zip((90, 10), by_span[2:], strict=True)] == pytest.approx([0.5, 0.5])
    threefold = factors([50, 0, 90, 10], [0, 0, 1, 3], Reduction.SPAN)
    assert [n * f for n, f in zip((90, 10), threefold[2:], strict=True)] == pytest.approx([0.25, 0.75])
    assert factors([50, 0, 0, 10], [0, 0, 1, 3], Reduction.SPAN)[3] == pytest.approx(0.1)


def test_losses_of_tokens_are_those_of_torch() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 11).log_softmax(-1), torch.randn(5, 11).log_softmax(-1)
    targets = torch.randint(11, (5,))
    functional = torch.nn.functional
    assert torch.allclose(cross_entropy(student, targets), functional.nll_loss(student, targets, reduction="none"))
    divergence = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    assert torch.allclose(forward_kl(teacher, student), divergence)
    assert torch.all(divergence > 0)
    assert torch.allclose(forward_kl(teacher, teacher), torch.zeros(5))
    assert torch.allclose(entropy(teacher), torch.distributions.Categorical(logits=teacher).entropy())
    assert float(entropy(torch.zeros(1, 11).log_softmax(-1))) == pytest.approx(math.log(11))


def test_a_teacher_sure_of_the_target_is_cross_entropy() -> None:
    student, targets = torch.randn(4, 7).log_softmax(-1), torch.tensor([0, 3, 6, 2])
    sure = (torch.nn.functional.one_hot(targets, 7) * 200.0).log_softmax(-1)
    assert torch.allclose(forward_kl(sure, student), cross_entropy(student, targets))


def test_weights_stand_in_the_order_of_the_kinds_and_padding_has_none() -> None:
    loss = SpanLoss(reason_weight=2, act_weight=3, observe_weight=4)
    assert dict(zip(KINDS, loss.weights, strict=True)) == {
        None: 0,
        SpanKind.OBSERVE: 4,
        SpanKind.REASON: 2,
        SpanKind.ACT: 3,
    }
    with pytest.raises(ModelError, match="nothing to train on"):
        SpanLoss(reason_weight=0, act_weight=0)
