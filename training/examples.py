"""From trajectories to training examples: token ids, and which of them the loss is on.

The loss is on what the assistant wrote (reasoning, calls, answers) and on nothing else. A conversation is shown just as
`LanguageModelPolicy` will show it: the pieces are encoded one by one, as they will be when the student writes its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolenv.agents.language_model import Prompter, PromptStyle
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation as (T,) ids and labels; a label is the id, or IGNORED where there is no loss."""

    input_ids: list[int]
    labels: list[int]


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
        pieces = Prompter(style, toolbox, tokenizer).pieces(trajectory.messages)
        ids: list[int] = []
        labels: list[int] = []
        encoded = tokenizer([text for text, _ in pieces], add_special_tokens=False)["input_ids"]
        for part, (_, own) in zip(encoded, pieces, strict=True):
            ids += part
            labels += part if own else [IGNORED] * len(part)
        if len(ids) <= max_length:
            yield Example(ids, labels)
