"""Decoding: a batch of contexts is continued by a language model, greedily or by sampling.

Each row draws from a generator of its own, one number a token, so that its text depends on its context and generator
alone and not on the batch it was in (as far as the model's arithmetic does not). What a model computed of an episode
is kept between turns (`Past`), so that a turn encodes what is new alone.

What this omits: top-k, nucleus and beam search, since a log-probability is then not the policy's own; and models whose
memory of the past is not keys and values (state-space models).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING

from toolenv.agents.decoding_batch import DecodingBatch, Past

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from toolenv.agents.grounded import Constraint


def decode(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    *,
    end: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    rngs: Sequence[Random] | None = None,
    pasts: Sequence[Past] | None = None,
    constraints: Sequence[Constraint] | None = None,
) -> list[tuple[list[int], list[float]]]:
    """A continuation of each context, through `end` or cut at `max_new_tokens`.

    Finished rows leave the batch, so that the cost follows what is still running. The model acts in evaluation mode and
    is left in the mode it was in.

    Args:
        temperature: 0 takes the likeliest token; else one is drawn from softmax(logits / temperature).
        rngs: one for each context; needed for a temperature above 0.
        pasts: one for each context, from its earlier turns or empty; updated.
        constraints: one for each context: which tokens may come next.

    Returns:
        For each context the new ids and their log-probabilities in nats, those of the model at temperature 1 whatever
        the temperature and the constraint.

    Raises:
        ValueError: the temperature is negative, or above 0 without a generator for each context.
    """
    if temperature < 0 or (temperature > 0 and (rngs is None or len(rngs) != len(contexts))):
        raise ValueError("sampling takes a temperature above 0 and a generator for each context")
    out: list[tuple[list[int], list[float]]] = [([], []) for _ in contexts]
    with _acting(model):
        batch = DecodingBatch(model, contexts, pasts, max_new_tokens)
        logits = batch.encode()
        for count in range(1, max_new_tokens + 1):
            draws = [rngs[row].random() for row in batch.rows] if rngs is not None and temperature else None
            allowed = None if constraints is None else _allowed([constraints[row] for row in batch.rows], logits)
            chosen, logprobs = choose(logits, temperature, draws, allowed)
            ended = []
            for i, (token, logprob) in enumerate(zip(chosen.tolist(), logprobs.tolist(), strict=True)):
                ids, scores = out[batch.rows[i]]
                ids.append(token)
                scores.append(logprob)
                if constraints is not None:
                    constraints[batch.rows[i]].accept(token)
                if token == end or count == max_new_tokens:
                    ended.append(i)
                    batch.keep_past(i, ids)
            chosen = batch.drop(ended, chosen)
            if not batch.rows:
                break
            logits = batch.step(chosen)
    return out


def _allowed(constraints: Sequence[Constraint], logits: torch.Tensor) -> torch.Tensor:
    """The tokens that may come next in each row, (B, V)."""
    import torch

    return torch.stack([constraint.allowed() for constraint in constraints]).to(logits.device)


@contextmanager
def _acting(model: PreTrainedModel) -> Iterator[None]:
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def choose(
    logits: torch.Tensor,
    temperature: float = 0.0,
    draws: Sequence[float] | None = None,
    allowed: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of each row, and its log-probability in nats at temperature 1: logits (B, V) -> (B,), (B,).

    Args:
        draws: a number of [0, 1) for each row if the temperature is above 0; the token is where the row's cumulative
            distribution first exceeds it.
        allowed: tokens that may be chosen, (B, V) bool; at least one a row. Log-probabilities do not depend on it.
    """
    import torch

    logprobs = logits.float().log_softmax(-1)
    open_ = logprobs if allowed is None else logprobs.masked_fill(~allowed, float("-inf"))
    if draws is None:
        best = open_.max(-1)
        return best.indices, best.values
    cumulative = (open_ / temperature).softmax(-1).double().cumsum(-1)  # (B, V)
    total = cumulative[:, -1:]
    aims = (cumulative.new_tensor(draws)[:, None] * total).clamp(max=total.nextafter(total.new_zeros(1)))
    chosen = torch.searchsorted(cumulative, aims, right=True)  # (B, 1)
    return chosen[:, 0], logprobs.gather(-1, chosen)[:, 0]
