"""Grounded decoding: a student can only write calls that are valid and pass identifiers that it was shown.

What a student may write next follows from its dialect, the schemas of the toolbox, and the conversation: reasoning is
free, then comes a call of a tool whose arguments obey the schema, or an answer. An identifier (an order's number, an
e-mail) is one of those that stand in the conversation; a tool that needs one of a kind that nothing has shown can not
be called at all. So invalid calls and invented identifiers are impossible by construction; a call is brought to its end
before the turn is cut. What the grammar can not say are rules of the world: a call may still be refused by its tool.

llguidance (https://github.com/guidance-ai/llguidance) turns the grammar into masks over the vocabulary, some 30 µs a
token. Grammars are compiled once for each set of identifiers; with aliases there are few such sets.

What this omits: other dialects than "toolenv", and identifiers within free text, such as an answer's.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from toolenv.agents.dialects import ANSWER, CALL
from toolenv.tools.calls import Json
from toolenv.tools.declaration import Tool
from toolenv.tools.errors import OperatorError
from toolenv.tools.toolbox import Toolbox

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher
    from transformers import PreTrainedTokenizerBase

Shown = Mapping[str, Sequence[str]]
"""Entity -> its identifiers, as the student writes them."""

_GRAMMARS = 512
_HURRY = 32
"""With so many tokens left a call is brought to its end: texts and objects are closed as soon as they may be."""
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}


class GrammarError(OperatorError):
    """The schemas of a toolbox make no grammar; those of tools that were declared here always do."""


class GroundedGrammar:
    """Makes the constraints of a tokenizer and a toolbox.

    Args:
        tokenizer: of the toolenv dialect.
        logits: how many the model gives a token; the vocabulary, or more.
        reasoning_tokens: after so many tokens of reasoning, and after half of the turn, the student must act.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, toolbox: Toolbox, logits: int, *, reasoning_tokens: int = 64
    ) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        self._toolbox, self.reasoning_tokens = toolbox, reasoning_tokens
        vocabulary = _Vocabulary(tokenizer)
        self._tokenizer = LLTokenizer(TokenizerWrapper(vocabulary))
        self.texts = vocabulary.tokens
        self.quotes = _only(logits, *(i for i, text in enumerate(self.texts) if b'"' in text and b"\\" not in text))
        self.braces = _only(logits, *(i for i, text in enumerate(self.texts) if b"}" in text))
        self.end = int(tokenizer.eos_token_id)
        self.call, self.answer = tokenizer.convert_tokens_to_ids([CALL, ANSWER])
        self.text = _only(logits, *range(len(tokenizer))) & ~_only(logits, *tokenizer.all_special_ids)
        self.acts, self.ending = _only(logits, self.call, self.answer), _only(logits, self.end)
        self.reasoning, self.answering = self.text | self.acts, self.text | self.ending
        self._compiled: Callable[[tuple[tuple[str, tuple[str, ...]], ...]], LLMatcher] = lru_cache(_GRAMMARS)(
            self._compile
        )

    def constraint(self, shown: Shown, max_new_tokens: int) -> Constraint:
        """What may be written in a turn of a conversation that has shown these identifiers."""
        entities = {mark.entity for tool in self._toolbox for mark in tool.identifiers.values()}
        key = tuple((entity, tuple(shown.get(entity, ()))) for entity in sorted(entities))
        return Constraint(self, self._compiled(key), max_new_tokens)

    def _compile(self, shown: tuple[tuple[str, tuple[str, ...]], ...]) -> LLMatcher:
        from llguidance import LLMatcher

        grammar = calls_grammar(self._toolbox, dict(shown))
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
        if matcher.is_error():
            raise GrammarError(f"tools: their schemas make no grammar: {matcher.get_error()}")
        return matcher


class Constraint:
    """One turn of one student: reasoning, then a call or an answer."""

    def __init__(self, grammar: GroundedGrammar, calls: LLMatcher, max_new_tokens: int) -> None:
        self._grammar, self._calls = grammar, calls
        self._left, self._reasoned = max_new_tokens, 0
        self._most_reasoning = min(grammar.reasoning_tokens, max_new_tokens // 2)
        self._matcher: LLMatcher | None = None
        self._written = b""  # of the call
        self._answered: int | None = None  # tokens of the answer so far

    def allowed(self) -> torch.Tensor:
        """Which tokens may come next, (V,)."""
        grammar = self._grammar
        if self._matcher is not None:
            allowed = _unpacked(self._matcher.compute_bitmask(), len(grammar.text))
            return allowed if self._left > _HURRY else self._closing(allowed)
        if self._answered is not None:
            if self._left <= 1:
                return grammar.ending
            return grammar.answering if self._answered else grammar.text
        return grammar.reasoning if self._reasoned < self._most_reasoning else grammar.acts

    def _closing(self, allowed: torch.Tensor) -> torch.Tensor:
        """Those of the allowed tokens that bring the call nearest to its end."""
        grammar = self._grammar
        in_text = _outside_escapes(self._written).count(b'"') % 2 == 1
        nearest = [grammar.ending, grammar.quotes & grammar.braces, grammar.quotes if in_text else grammar.braces]
        return next((allowed & some for some in nearest if bool((allowed & some).any())), allowed)

    def accept(self, token: int) -> None:
        """Take in the token that was chosen; it must have been allowed."""
        self._left -= 1
        if self._matcher is not None:
            if token != self._grammar.end:
                self._matcher.consume_token(token)
                self._written += self._grammar.texts[token]
        elif self._answered is not None:
            self._answered += 1
        elif token == self._grammar.call:
            self._matcher = self._calls.deep_copy()
        elif token == self._grammar.answer:
            self._answered = 0
        else:
            self._reasoned += 1


def calls_grammar(toolbox: Toolbox, shown: Shown) -> str:
    """The calls that are valid and grounded, `name {arguments}`, as a grammar in llguidance's Lark."""
    rules, alternatives = [], []
    for number, tool in enumerate(toolbox):
        schema = grounded_schema(tool, shown)
        if schema is not None:
            alternatives.append(f'"{tool.name} " a{number}')
            rules.append(f"a{number}: %json {json.dumps({**schema, 'x-guidance': _COMPACT})}")
    return "\n".join([f"start: {' | '.join(alternatives)}", *rules])


def grounded_schema(tool: Tool, shown: Shown) -> dict[str, Json] | None:
    """The JSON Schema of a tool's arguments, identifiers limited to those shown; None if it can not be called."""
    schema: dict[str, Any] = copy.deepcopy(tool.spec.parameters)
    schema["additionalProperties"] = False
    for argument in schema["properties"].values():
        for part in (argument, *argument.get("anyOf", ())):
            if (decimals := part.pop("x-decimals", None)) is not None:
                # Not `multipleOf` in the schema itself: validators compute 0.07 / 0.01 in binary floats.
                part["multipleOf"] = 10.0**-decimals
    for name, mark in tool.identifiers.items():
        argument, values = schema["properties"][name], list(shown.get(mark.entity, ()))
        free = [part for part in (argument, *argument.get("anyOf", ())) if _is_free_text(part)]
        if not free:
            continue  # the schema lists its values, which are as good as shown
        if not values:
            if name in schema["required"]:
                return None
            del schema["properties"][name]
        for part in free:
            part.clear()
            part["enum"] = values
    return schema


def _is_free_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string" and "enum" not in schema and "const" not in schema


def _outside_escapes(text: bytes) -> bytes:
    return re.sub(rb"\\.", b"", text)


def _only(size: int, *tokens: int) -> torch.Tensor:
    import torch

    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.tensor(tokens)] = True
    return mask


def _unpacked(bits: bytes, size: int) -> torch.Tensor:
    """llguidance's mask, a bit a token, as (V,) bool."""
    import torch

    unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), count=min(size, 8 * len(bits)), bitorder="little")
    return torch.from_numpy(np.pad(unpacked, (0, size - len(unpacked))).astype(np.bool_))


class _Vocabulary:
    """A byte-level tokenizer as llguidance wants it: the bytes of each token.

    Its own reader takes every added token in angle brackets for a control token; aliases such as `<o1>` are text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
        added = set(tokenizer.get_added_vocab().values())
        names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.tokens = [
            name.encode() if number in added else bytes(byte_of[letter] for letter in name)
            for number, name in enumerate(names)
        ]
        self.special_token_ids = list(tokenizer.all_special_ids)
        self.bos_token_id, self.eos_token_id = None, tokenizer.eos_token_id
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        text = text if isinstance(text, str) else text.decode()
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
