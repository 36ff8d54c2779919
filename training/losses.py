"""Losses by span: pure functions of log-probabilities, kinds and counts. K is the number of kinds (`spans.KINDS`).

Structured agent distillation (SAD, arXiv 2505.13820) adds up a loss on reasoning and one on actions,
L = λ_reason · L_CoT + λ_act · L_Act, each a token-level forward KL(teacher ‖ student) over its own mask. A teacher that
only gives text has no distribution; then it is cross-entropy on its tokens, weighted in the same way.

The paper takes equal weights and leaves the reduction open. With one sum over all tokens, equal weights are ordinary
fine-tuning or distillation; so the reduction is a setting. Only the ratio of the weights counts: the loss is divided
by their sum, which keeps its scale, and what gradient clipping does, the same for every setting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolenv.agents.language_model import ModelError
from toolenv.training.reduction import Reduction

if TYPE_CHECKING:
    from torch import Tensor


class SpanLoss(BaseModel):
    """How the tokens of a step make up its loss. As it stands, it is plain fine-tuning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason_weight: float = Field(1.0, ge=0, description="λ of reasoning; 0 trains on actions alone.")
    act_weight: float = Field(1.0, ge=0, description="λ of calls and answers.")
    observe_weight: float = Field(0.0, ge=0, description="Weight of what others wrote: prompts and tool replies.")
    reduction: Reduction = Field(
        Reduction.TOKEN, description="Weigh tokens, or the mean over each kind's tokens, however few they are."
    )
    teacher: str | None = Field(None, description="Folder of a local teacher with the student's tokenizer.")
    kl_weight: float = Field(
        1.0, ge=0, le=1, description="With a teacher: share of KL(teacher ‖ student); the rest is cross-entropy."
    )

    @model_validator(mode="after")
    def _trains_on_something(self) -> SpanLoss:
        if not any(self.weights):
            raise ModelError("nothing to train on: the weights of reasoning, actions and observations are all 0")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """(K,) in the order of `spans.KINDS`."""
        return 0.0, self.observe_weight, self.reason_weight, self.act_weight


def span_factors(counts: Tensor, weights: Tensor, reduction: Reduction) -> Tensor:
    """What the loss of one token is multiplied by, a kind: the sum over a step's tokens is then the step's loss.

    Args:
        counts: (K,) tokens of each kind in the whole step.
        weights: (K,) λ of each kind.
        reduction: TOKEN: Σ λ·loss over Σ λ, both over tokens; equal weights are the mean over tokens.
            SPAN: the mean over each kind's tokens, then Σ λ·mean over Σ λ, both over the kinds that occur.

    Returns:
        (K,); all 0 if the step has no token of a kind with a weight.
    """
    if reduction is Reduction.TOKEN:
        factors, total = weights, (weights * counts).sum()
    else:
        present = weights * (counts > 0)
        factors, total = present / counts.clamp(min=1), present.sum()
    return factors / total.where(total > 0, 1)


def cross_entropy(student: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) in nats: log-probabilities (N, V), ids (N,) -> (N,)."""
    return -student.gather(-1, targets[:, None])[:, 0]


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher ‖ student) in nats, over the whole vocabulary: log-probabilities (N, V), (N, V) -> (N,)."""
    return (teacher.exp() * (teacher - student)).sum(-1)


def entropy(logprobs: Tensor) -> Tensor:
    """Entropy in nats: log-probabilities (N, V) -> (N,)."""
    return -(logprobs.exp() * logprobs).sum(-1)
