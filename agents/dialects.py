"""Dialects: how reasoning, calls and answers are written as text, and read back.

A dialect renders the assistant's part of a turn and marks which characters are REASON and which are ACT. The dialect
"toolenv" is the one of our own small models; its control tokens are one token each:

    <|assistant|>{reasoning}<|call|>{tool} {compact JSON arguments}<|end|>
    <|assistant|>{reasoning}<|answer|>{text}<|end|>

The dialect "hermes" serves any other chat model.
"""

from __future__ import annotations

import re
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


def neutralise(text: str) -> str:
    """`text` with a space in each control token, so that no user, tool or argument can open or close a turn."""
    return _CONTROL.sub(r"<| \1|>", text)


_CONTROL = re.compile(r"<\|(pad|system|user|assistant|tool|call|answer|end)\|>")


class ToolenvDialect:
    """The dialect of toolenv's own models."""

    name = "toolenv"

    def render(self, action: Action) -> str:
        """The assistant's text of an action, control tokens included; those in foreign text are broken."""
        if isinstance(action, Malformed):
            return action.raw.removesuffix(END) + END
        reasoning = neutralise(action.reasoning)
        if isinstance(action, Call):
            return f"{reasoning}{CALL}{neutralise(f'{action.name} {json_text(action.arguments)}')}{END}"
        return f"{reasoning}{ANSWER}{neutralise(action.text)}{END}"

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
        if CALL in body and ANSWER in body:
            return _unreadable(body)
        reasoning, mark, rest = body.partition(CALL)
        if mark:
            name, _, arguments = rest.partition(" ")
            try:
                return _call(body, {"name": name, "arguments": orjson.loads(arguments)}, reasoning)
            except orjson.JSONDecodeError:
                return _not_json(body)
        reasoning, mark, answer = body.partition(ANSWER)
        return Answer(answer, reasoning) if mark else _unreadable(body)

    def render_messages(self, messages: Sequence[Message]) -> str:
        """A conversation, or a part of one; `<|assistant|>` after it asks for the next turn."""
        return "".join(self._render_message(message) for message in messages)

    def _render_message(self, message: Message) -> str:
        if message["role"] != "assistant":
            return f"<|{message['role']}|>{neutralise(str(message['content']))}{END}"
        return "<|assistant|>" + self.render(action_of_message(message))


class HermesDialect:
    """The dialect of Hermes and Qwen models, carried in plain chat messages, so that any chat template serves.

    A call is `<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>`, its result comes from the user in
    `<tool_response>`, the tools stand in the system message, one schema a line. Reasoning stands in `<think>`.
    """

    name = "hermes"

    def render(self, action: Action) -> str:
        """The assistant's text of an action."""
        if isinstance(action, Malformed):
            return action.raw
        thought = f"<think>\n{action.reasoning}\n</think>\n\n" if action.reasoning else ""
        if isinstance(action, Answer):
            return thought + action.text
        call = json_text({"name": action.name, "arguments": action.arguments})
        return f"{thought}<tool_call>\n{call}\n</tool_call>"

    def spans(self, text: str) -> tuple[Span, ...]:
        """REASON is a leading thought, ACT the rest: they partition the text."""
        split = found.end() if (found := _THOUGHT.match(text)) else 0
        act = Span(SpanKind.ACT, split, len(text))
        return (Span(SpanKind.REASON, 0, split), act) if split else (act,)

    def parse(self, text: str) -> Action:
        """The action that an assistant's text stands for. Never raises."""
        thought = _THOUGHT.match(text)
        reasoning, rest = (thought[1], text[thought.end() :]) if thought else ("", text)
        if "<tool_call>" not in rest:
            return Answer(rest, reasoning)
        call = _TOOL_CALL.fullmatch(rest)
        try:
            return _call(text, orjson.loads(call[1]), reasoning) if call else _unreadable(text)
        except orjson.JSONDecodeError:
            return _not_json(text)

    def to_chat(self, messages: Sequence[Message], tools: Sequence[Json]) -> list[dict[str, str]]:
        """The conversation as messages of the roles system, user and assistant, with text alone.

        Args:
            tools: specs in OpenAI's form; none leaves the system message as it is.
        """
        chat = [{"role": str(message["role"]), "content": self._content(message)} for message in messages]
        for message in chat:
            message["role"] = "user" if message["role"] == "tool" else message["role"]
        if tools:
            listing = "\n".join(json_text(tool) for tool in tools)
            rules = _TOOLS_RULES.format(tools=listing)
            if chat and chat[0]["role"] == "system":
                chat[0]["content"] = f"{chat[0]['content']}\n\n{rules}".strip()
            else:
                chat.insert(0, {"role": "system", "content": rules})
        return chat

    def _content(self, message: Message) -> str:
        if message["role"] == "tool":
            return f"<tool_response>\n{message['content']}\n</tool_response>"
        return self.render(action_of_message(message)) if message["role"] == "assistant" else str(message["content"])


_THOUGHT = re.compile(r"<think>\n(.*?)\n</think>\n\n", re.DOTALL)
_TOOL_CALL = re.compile(r"\s*<tool_call>\s*(.*?)\s*</tool_call>\s*", re.DOTALL)
_TOOLS_RULES = """\
You may call one function at a time. The functions are described in JSON Schema between <tools> tags:
<tools>
{tools}
</tools>
To call one, reply with its name and arguments as JSON between <tool_call> tags:
<tool_call>
{{"name": <name>, "arguments": <arguments>}}
</tool_call>
Otherwise reply with the final answer alone."""


def _call(body: str, call: Json, reasoning: str) -> Action:
    """The call that `call` describes; `body` is the whole of what was written."""
    action = parse_action({**call, "reasoning": reasoning}) if isinstance(call, dict) else None
    return action if isinstance(action, Call) else _unreadable(body)


def _not_json(body: str) -> Malformed:
    return Malformed(body, MalformedCall("the call is not JSON", field="arguments", rule="json"))


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
