"""From trajectories to training examples: token ids, and what each token is.

A conversation is shown just as `LanguageModelPolicy` will show it: the pieces are encoded one by one, as they will be
when the student writes its own. What the assistant wrote is REASON or ACT, everything else is OBSERVE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from toolenv.agents.dialects import SpanKind
from toolenv.agents.language_model import Prompter, PromptStyle
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.toolbox import Toolbox
from toolenv.training.spans import split_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation: (T,) token ids and (T,) kinds."""

    input_ids: list[int]
    kinds: list[SpanKind]


def encode(
    trajectories: Iterable[Trajectory],
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox,
    style: PromptStyle,
    *,
    max_length: int,
) -> Iterator[Example]:
    """An example a trajectory; those longer than `max_length` tokens are left out.

    Raises:
        ModelError: the chat template that the style needs is missing, or rewrites earlier turns.
    """
    for trajectory in trajectories:
        prompter = Prompter(style, toolbox, tokenizer)
        pieces = prompter.pieces(trajectory.messages)
        spans = [span for text, own in pieces for span in split_spans(text, prompter.dialect, own=own)]
        encoded = tokenizer([text for text, _ in spans], add_special_tokens=False)["input_ids"]
        ids = [token for part in encoded for token in part]
        if len(ids) <= max_length:
            yield Example(ids, [kind for part, (_, kind) in zip(encoded, spans, strict=True) for _ in part])


def shared_prefix(examples: Sequence[Example]) -> int:
    """With how many tokens that others wrote all examples begin, such as a listing of the tools; one less, so that
    what comes next can be predicted without them."""
    first = examples[0]
    for i in range(min(len(example.input_ids) for example in examples)):
        if any(e.kinds[i] is not SpanKind.OBSERVE or e.input_ids[i] != first.input_ids[i] for e in examples):
            return max(0, i - 1)
    return 0


def make_batches(examples: Iterable[Example], batch_tokens: int, seed: int, *, shared: int = 0) -> list[list[Example]]:
    """Batches of examples of like length, each of at most `batch_tokens` tokens when padded (or of one example).

    Args:
        shared: tokens at the beginning of each that are not counted, since a batch computes them once.
    """
    rng = Random(seed)
    batches: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda example: (len(example.input_ids), rng.random())):
        # Sorted by length, so the newest is the longest of its batch.
        if batches[-1] and (len(batches[-1]) + 1) * (len(example.input_ids) - shared) > batch_tokens:
            batches.append([])
        batches[-1].append(example)
    return batches
