"""Which token is thought, deed or reply: REASON, ACT or OBSERVE for every token id.

The dialects mark spans as characters. What is encoded for training is encoded span by span, so that no token straddles
a border. Ids that a student sampled are not encoded again: a token belongs to the span in which its text starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from toolenv.agents.dialects import HermesDialect, Span, SpanKind, ToolenvDialect

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Dialect = ToolenvDialect | HermesDialect

KINDS: Final = (None, SpanKind.OBSERVE, SpanKind.REASON, SpanKind.ACT)
"""In tensors a kind is its place here; the first is padding."""


def split_spans(text: str, dialect: Dialect, *, own: bool) -> list[tuple[str, SpanKind]]:
    """A piece of a conversation in its spans: what the assistant wrote as the dialect has it, the rest as OBSERVE."""
    spans = dialect.spans(text) if own else (Span(SpanKind.OBSERVE, 0, len(text)),)
    return [(text[span.start : span.end], span.kind) for span in spans]


def kinds_of_ids(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, dialect: Dialect) -> list[SpanKind]:
    """The kind of each token of one turn of the assistant, as it was sampled.

    Args:
        ids: (T,); of the turn alone.

    Returns:
        (T,); a token that starts with a later byte of a character belongs to that character's span.
    """

    def decode(part: Sequence[int]) -> str:
        return str(tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    text = decode(ids)
    spans = dialect.spans(text)
    # Half a character decodes to a replacement character, which the whole text does not have there.
    starts = [_shared(decode(ids[:i]), text) for i in range(len(ids))]
    return [next((span.kind for span in spans if start < span.end), SpanKind.ACT) for start in starts]


def _shared(first: str, second: str) -> int:
    """How many characters two texts have in common from the beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
