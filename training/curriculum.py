"""Easy first: which batches a student is trained on, in which order.

How hard a trajectory is (arXiv 2505.13820): C(τ) = α·|reason tokens| + β·|action tokens| + γ·teacher entropy. The paper
trains in ascending order and publishes neither α, β, γ nor a pacing; ours is linear: a share of the batches at the
start, all of them from some point of the training on. The teacher's entropy is the sum over the assistant's tokens, so
that all three terms grow with length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from math import floor
from random import Random

from pydantic import BaseModel, ConfigDict, Field

from toolenv.agents.dialects import SpanKind
from toolenv.training.examples import Example


class Curriculum(BaseModel):
    """What is hard, and how fast the hard is let in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(1.0, ge=0, description="Of each token of reasoning.")
    beta: float = Field(1.0, ge=0, description="Of each token of calls and answers.")
    gamma: float = Field(0.0, ge=0, description="Of each nat of the teacher's entropy; needs a local teacher.")
    start: float = Field(0.2, ge=0, le=1, description="Share of the batches, the easiest, that training starts with.")
    end: float = Field(0.5, gt=0, le=1, description="Share of the training after which every batch is let in.")

    def difficulty(self, example: Example, entropy: float = 0.0) -> float:
        """C(τ); `entropy` is the teacher's, in nats, summed over the assistant's tokens."""
        reason, act = (example.kinds.count(kind) for kind in (SpanKind.REASON, SpanKind.ACT))
        return self.alpha * reason + self.beta * act + self.gamma * entropy

    def share(self, progress: float) -> float:
        """Share of the batches that are let in when `progress` (0 to 1) of the training is done."""
        return min(1.0, self.start + (1 - self.start) * progress / self.end)


def draw_order(
    tokens: Sequence[int],
    budget: float,
    seed: int,
    curriculum: Curriculum | None = None,
    hardness: Sequence[float] = (),
) -> list[int]:
    """The batches to train on, one after the other, until a budget is spent.

    The batch drawn is always one of those let in that were drawn least often so far: without a curriculum, and with
    one as long as no batch is left over, that is a random order of all batches, then another.

    Args:
        tokens: (B,) tokens of each batch, each at least 1.
        budget: tokens to draw; the last batch may go beyond.
        seed: decides the order.
        hardness: (B,) how hard each batch is, if there is a curriculum.

    Returns:
        Indices of batches.
    """
    rng = Random(seed)
    rank = hardness if curriculum is not None else [0.0] * len(tokens)
    waiting = deque(sorted(range(len(tokens)), key=lambda batch: (rank[batch], rng.random())))
    open_batches: list[tuple[int, float, int]] = []  # times drawn, chance, batch
    order: list[int] = []
    spent = 0
    while spent < budget:
        share = 1.0 if curriculum is None else curriculum.share(spent / budget)
        while waiting and len(open_batches) <= floor(share * len(tokens)):
            heappush(open_batches, (0, rng.random(), waiting.popleft()))
        times, _, batch = heappop(open_batches)
        heappush(open_batches, (times + 1, rng.random(), batch))
        order.append(batch)
        spent += tokens[batch]
    return order
