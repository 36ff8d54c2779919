"""The rows of one turn while they are decoded, with room for their keys and values.

All rows end in the same column, padded on the left, in one tensor of states that is allocated once a turn: a new token
is written into the next column, where a cache that grows would copy everything. What earlier turns computed is copied
into its place before, and the new tokens alone go through the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ENCODED_AT_ONCE = 8
"""Rows that are encoded together; they are sorted by how much is new, so that little is padding."""


@dataclass(slots=True)
class Past:
    """What a model has computed of one episode so far; `decode` reads it and brings it up to date.

    It is never trusted blindly: only the tokens that the next context has in common with it are reused, and only if the
    weights are the same.

    Attributes:
        ids: the tokens whose keys and values are here.
        states: keys and values, (layers, 2, heads, tokens, size of a head), or None before the first turn.
        weights: what `weights_of` says of the model that computed them.
    """

    ids: list[int] = field(default_factory=list)
    states: torch.Tensor | None = None
    weights: list[float] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return 0 if self.states is None else self.states.nbytes

    def common(self, context: Sequence[int], weights: list[float]) -> int:
        """How many tokens at the start of `context` need not be computed again; its last always is."""
        if self.weights != weights:
            return 0
        most = min(len(self.ids), len(context) - 1)
        return next((i for i in range(most) if self.ids[i] != context[i]), most)


def weights_of(model: PreTrainedModel) -> list[float]:
    """The sum of each parameter, which tells weights from those before an optimiser's step.

    autograd's version counter would be cheaper, but fused optimisers pass it by.
    """
    import torch

    sums = [parameter.detach().sum(dtype=torch.float32) for parameter in model.parameters()]
    return torch.stack(sums).tolist()


class RoomyCache:
    """Keys and values of a batch; it answers what transformers' models ask of a `Cache`.

    Attributes:
        states: (layers, 2, B, heads, columns, size of a head); None until its shape is known.
        rows: the rows that the next forward pass is about.
        start: the column of its first token.
        real: (B', T) where its tokens are not padding, or None if all are. Padding is not written.
    """

    def __init__(self, layers: int, rows: int, columns: int) -> None:
        self._layers, self._rows, self._columns = layers, rows, columns
        self.states: torch.Tensor | None = None
        self.rows, self.start = slice(0, rows), 0
        self.real: torch.Tensor | None = None

    def room(self, like: torch.Tensor) -> torch.Tensor:
        """The states, made at the first call: `like` (..., heads, tokens, size of a head) tells their shape."""
        if self.states is None:
            heads, _, size = like.shape[-3:]
            self.states = like.new_zeros(self._layers, 2, self._rows, heads, self._columns, size)
        return self.states

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes a layer's new keys and values, (B', heads, T, size of a head); returns all up to them."""
        layer = self.room(key_states)[layer_idx, :, self.rows]
        stop = self.start + key_states.shape[2]
        for room, new in zip(layer, (key_states, value_states), strict=True):
            columns = room[:, :, self.start : stop]
            columns.copy_(new if self.real is None else new.where(self.real[:, None, :, None], columns))
        return layer[0, :, :, :stop], layer[1, :, :, :stop]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.start

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.start

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.start + query_length, 0


class DecodingBatch:
    """The rows that are still running.

    Args:
        contexts: tokens of each row.
        pasts: what was computed of each before; None computes everything and keeps nothing.
        room: tokens that may be added.

    Attributes:
        rows: for each row of the batch, its number among the contexts.
    """

    def __init__(
        self, model: PreTrainedModel, contexts: Sequence[Sequence[int]], pasts: Sequence[Past] | None, room: int
    ) -> None:
        import torch

        self._model, self._contexts, self._pasts = model, contexts, pasts
        self._weights = weights_of(model)
        known = [0] * len(contexts)
        if pasts is not None:
            known = [past.common(ids, self._weights) for past, ids in zip(pasts, contexts, strict=True)]
        self.rows = sorted(range(len(contexts)), key=lambda row: len(contexts[row]) - known[row])
        self._new = [list(contexts[row][known[row] :]) for row in self.rows]
        self._width = max(len(ids) for ids in contexts)
        lengths = torch.tensor([len(contexts[row]) for row in self.rows], device=model.device)
        columns = torch.arange(self._width + room, device=model.device)
        self._positions = columns - self._width + lengths[:, None]  # (B, columns)
        self._cache = RoomyCache(model.config.num_hidden_layers, len(contexts), self._width + room)
        for i, row in enumerate(self.rows):
            if pasts is not None and known[row] and (states := pasts[row].states) is not None:
                stop = self._width - len(self._new[i])
                self._cache.room(states)[:, :, i, :, stop - known[row] : stop] = states[..., : known[row], :]

    def encode(self) -> torch.Tensor:
        """Compute what is new of each context; the logits (B, V) of what comes next."""
        import torch

        parts = []
        for first in range(0, len(self.rows), ENCODED_AT_ONCE):
            new = self._new[first : first + ENCODED_AT_ONCE]
            longest = max(len(ids) for ids in new)
            padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids in new], device=self._model.device)
            lengths = torch.tensor([len(ids) for ids in new], device=self._model.device)
            column = torch.arange(longest, device=self._model.device)
            self._cache.real = column >= longest - lengths[:, None]
            self._cache.start = self._width - longest
            parts.append(self._forward(slice(first, first + len(new)), padded))
        self._cache.real, self._cache.start = None, self._width
        return torch.cat(parts)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add a token (B,) to each row; the logits (B, V) of what comes next."""
        logits = self._forward(slice(0, len(self.rows)), tokens[:, None])
        self._cache.start += 1
        return logits

    def keep_past(self, i: int, written: Sequence[int]) -> None:
        """Put what was computed of a row into its past; the last token that was written has not been computed."""
        if self._pasts is None or self._cache.states is None:
            return
        past, context = self._pasts[self.rows[i]], self._contexts[self.rows[i]]
        past.ids, past.weights = [*context, *written[:-1]], self._weights
        stop = self._width + len(written) - 1
        past.states = self._cache.states[:, :, i, :, stop - len(past.ids) : stop].clone()

    def drop(self, ended: Sequence[int], tokens: torch.Tensor) -> torch.Tensor:
        """Take rows out, and their tokens (B,); rows from the back move into their places."""
        count = len(self.rows) - len(ended)
        order = list(range(count))
        movers = [i for i in range(count, len(self.rows)) if i not in ended]
        for hole, mover in zip((i for i in ended if i < count), movers, strict=True):
            order[hole] = mover
            if self._cache.states is not None:
                rows = self._cache.states[:, :, :, :, : self._cache.start]
                rows[:, :, hole] = rows[:, :, mover]
            self._positions[hole] = self._positions[mover]
        self.rows = [self.rows[i] for i in order]
        return tokens[order]

    def _forward(self, rows: slice, ids: torch.Tensor) -> torch.Tensor:
        self._cache.rows = rows
        start, stop = self._cache.start, self._cache.start + ids.shape[1]
        positions = self._positions[rows]
        out = self._model(
            input_ids=ids,
            attention_mask=positions[:, :stop] >= 0,
            position_ids=positions[:, start:stop].clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = out.logits[:, -1]
        return logits
