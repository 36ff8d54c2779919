"""Dialects: how reasoning, calls and answers are written as text, and read back.

A dialect renders the assistant's part of a turn and marks which characters are REASON and which are ACT. The dialect
"toolenv" is the one of our own small models; its control tokens are one token each:

    <|assistant|>{reasoning}<|call|>{tool} {compact JSON arguments}<|end|>
    <|assistant|>{reasoning}<|answer|>{text}<|end|>
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import orjson

from toolenv.envs.actions import Action, Answer, Call, Malformed, parse_action
from toolenv.envs.turn import Message
from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import MalformedCall

CALL, ANSWER, END = "<|call|>", "<|answer|>", "<|end|>"


class SpanKind(StrEnum):
    """What a stretch of text is: the agent's thought, its deed, or what the world replied."""

    REASON = "reason"
    ACT = "act"
    OBSERVE = "observe"


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) of a text."""

    kind: SpanKind
    start: int
    end: int


class ToolenvDialect:
    """The dialect of toolenv's own models."""

    name = "toolenv"

    def render(self, action: Action) -> str:
        """The assistant's text of an action, control tokens included."""
        if isinstance(action, Malformed):
            return action.raw + END
        if isinstance(action, Call):
            return f"{action.reasoning}{CALL}{action.name} {json_text(action.arguments)}{END}"
        return f"{action.reasoning}{ANSWER}{action.text}{END}"

    def spans(self, text: str) -> tuple[Span, ...]:
        """REASON up to the first control token, ACT from there on: they partition the text.

        A text without a control token is an act that can not be read.
        """
        split = min((at for mark in (CALL, ANSWER) if (at := text.find(mark)) >= 0), default=0)
        act = Span(SpanKind.ACT, split, len(text))
        return (Span(SpanKind.REASON, 0, split), act) if split else (act,)

    def parse(self, text: str) -> Action:
        """The action that an assistant's text stands for; the end token may be missing. Never raises."""
        body = text.removesuffix(END)
        reasoning, mark, rest = body.partition(CALL)
        if mark:
            name, _, arguments = rest.partition(" ")
            try:
                action = parse_action({"name": name, "arguments": orjson.loads(arguments), "reasoning": reasoning})
            except orjson.JSONDecodeError:
                return Malformed(body, MalformedCall("the arguments are not JSON", field="arguments", rule="json"))
            return action if isinstance(action, Call) else _unreadable(body)
        reasoning, mark, answer = body.partition(ANSWER)
        return Answer(answer, reasoning) if mark else _unreadable(body)

    def render_messages(self, messages: Sequence[Message]) -> str:
        """A conversation, or a part of one; `<|assistant|>` after it asks for the next turn."""
        return "".join(self._render_message(message) for message in messages)

    def _render_message(self, message: Message) -> str:
        if message["role"] != "assistant":
            return f"<|{message['role']}|>{message['content']}{END}"
        return "<|assistant|>" + self.render(action_of_message(message))


def _unreadable(body: str) -> Malformed:
    return Malformed(body, MalformedCall("the text is neither a call nor an answer", rule="shape"))


def action_of_message(message: Message) -> Action:
    """The action behind an assistant message."""
    reasoning = message.get("reasoning_content")
    if message.get("tool_calls"):
        function: dict[str, Json] = message["tool_calls"][0]["function"]
        return Call(function["name"], function["arguments"], reasoning or "")
    if reasoning is None:  # an environment writes it on every answer, so this one could not be read
        return _unreadable(message["content"])
    return Answer(message["content"], reasoning)
