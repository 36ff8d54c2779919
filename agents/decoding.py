"""Decoding: a batch of contexts is continued by a language model, greedily or by sampling.

Each row draws from a generator of its own, one number a token, so that its text depends on its context and generator
alone and not on the batch it was in (as far as the model's arithmetic does not).

What this omits: top-k, nucleus and beam search, since a log-probability is then not the policy's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def decode(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    *,
    end: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    rngs: Sequence[Random] | None = None,
) -> list[tuple[list[int], list[float]]]:
    """A continuation of each context, through `end` or cut at `max_new_tokens`.

    Contexts are padded on the left; finished rows leave the batch, so that the cost follows what is still running.
    The model acts in evaluation mode and is left in the mode it was in.

    Args:
        temperature: 0 takes the likeliest token; else one is drawn from softmax(logits / temperature).
        rngs: one for each context; needed for a temperature above 0.

    Returns:
        For each context the new ids and their log-probabilities in nats, those of the model at temperature 1 whatever
        the temperature.

    Raises:
        ValueError: the temperature is negative, or above 0 without a generator for each context.
    """
    import torch

    if temperature < 0 or (temperature > 0 and (rngs is None or len(rngs) != len(contexts))):
        raise ValueError("sampling takes a temperature above 0 and a generator for each context")
    width = max(len(ids) for ids in contexts)
    device = model.device
    ids = torch.tensor([[end] * (width - len(row)) + list(row) for row in contexts], device=device)  # (B, T)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in contexts], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    rows = list(range(len(contexts)))
    out: list[tuple[list[int], list[float]]] = [([], []) for _ in contexts]
    cache: Any = None
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for _ in range(max_new_tokens):
                step = model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = step.past_key_values
                draws = [rngs[row].random() for row in rows] if rngs is not None and temperature else None
                chosen, logprobs = choose(step.logits[:, -1], temperature, draws)
                going = []
                for i, (token, logprob) in enumerate(zip(chosen.tolist(), logprobs.tolist(), strict=True)):
                    out[rows[i]][0].append(token)
                    out[rows[i]][1].append(logprob)
                    if token != end:
                        going.append(i)
                if not going:
                    break
                positions = positions[:, -1:] + 1
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
                ids = chosen[:, None]
                if len(going) < len(rows):
                    keep = torch.tensor(going, device=device)
                    cache.batch_select_indices(keep)
                    ids, mask, positions = ids[keep], mask[keep], positions[keep]
                    rows = [rows[i] for i in going]
    finally:
        model.train(was_training)
    return out


def choose(
    logits: torch.Tensor, temperature: float = 0.0, draws: Sequence[float] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of each row, and its log-probability in nats at temperature 1: logits (B, V) -> (B,), (B,).

    Args:
        draws: a number of [0, 1) for each row if the temperature is above 0; the token is where the row's cumulative
            distribution first exceeds it.
    """
    import torch

    logprobs = logits.float().log_softmax(-1)
    if draws is None:
        best = logprobs.max(-1)
        return best.indices, best.values
    cumulative = (logprobs / temperature).softmax(-1).double().cumsum(-1)  # (B, V)
    total = cumulative[:, -1:]
    aims = (cumulative.new_tensor(draws)[:, None] * total).clamp(max=total.nextafter(total.new_zeros(1)))
    chosen = torch.searchsorted(cumulative, aims, right=True)  # (B, 1)
    return chosen[:, 0], logprobs.gather(-1, chosen)[:, 0]
