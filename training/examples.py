"""From trajectories to training examples: token ids, and which of them the loss is on.

The loss is on what the assistant wrote (reasoning, calls, answers) and on nothing else. A model with a `toolenv.json`
is shown each conversation just as `LanguageModelPolicy` will show it; any other model through its own chat template.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.language_model import Prompter, PromptStyle
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.errors import OperatorError
from toolenv.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
_DIALECT = ToolenvDialect()


class TemplateNotTrainable(OperatorError):
    """A chat template does not tell the assistant's tokens from the others."""


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation as (T,) ids and labels; a label is the id, or IGNORED where there is no loss."""

    input_ids: list[int]
    labels: list[int]


def encode(
    trajectories: Iterable[Trajectory],
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox,
    style: PromptStyle | None,
    *,
    max_length: int,
) -> Iterator[Example]:
    """An example a trajectory; those longer than `max_length` tokens are left out.

    Args:
        style: what the student is shown; None uses the tokenizer's chat template, tools included.

    Raises:
        TemplateNotTrainable: the chat template has no `{% generation %}` markers, and TRL knows no replacement.
    """
    template = None if style is not None else _training_template(tokenizer)
    tools = toolbox.to_openai()
    for trajectory in trajectories:
        if style is not None:
            example = _encode_dialect(trajectory, tokenizer, Prompter(style, toolbox))
        else:
            example = _encode_template(trajectory.messages, tokenizer, template, tools)
        if len(example.input_ids) <= max_length:
            yield example


def _encode_dialect(trajectory: Trajectory, tokenizer: PreTrainedTokenizerBase, prompter: Prompter) -> Example:
    pieces: list[tuple[str, bool]] = []
    for message in prompter.messages(trajectory.messages):
        text = _DIALECT.render_messages([message])
        if message["role"] == "assistant":
            pieces += [("<|assistant|>", False), (text.removeprefix("<|assistant|>"), True)]
        else:
            pieces.append((text, False))
    ids: list[int] = []
    labels: list[int] = []
    encoded = tokenizer([text for text, _ in pieces], add_special_tokens=False)["input_ids"]
    for part, (_, trained) in zip(encoded, pieces, strict=True):
        ids += part
        labels += part if trained else [IGNORED] * len(part)
    return Example(ids, labels)


def _encode_template(
    messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, template: str | None, tools: list[Any]
) -> Example:
    encoded = tokenizer.apply_chat_template(
        messages,
        tools=tools,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids: list[int] = encoded["input_ids"]
    masks = encoded["assistant_masks"]
    return Example(ids, [token if inside else IGNORED for token, inside in zip(ids, masks, strict=True)])


def _training_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    if "{% generation %}" in (tokenizer.chat_template or "") or "{%- generation -%}" in (tokenizer.chat_template or ""):
        return None
    from trl.chat_template_utils import get_training_chat_template

    try:
        template: str | None = get_training_chat_template(tokenizer)
    except ValueError as error:
        raise TemplateNotTrainable(f"the model's chat template does not mark the assistant's tokens: {error}") from None
    return template
