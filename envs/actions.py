"""What an agent may hand to `step`, and how it is read.

An action is a mapping, `{"name": ..., "arguments": {...}}` or `{"answer": "..."}`, each with an optional
`"reasoning"`, or the same as JSON text. Anything at all is accepted: what can not be read becomes `Malformed`,
whose `raw` text, handed to `step` again, gives the same observation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from toolenv.tools.calls import MAX_ACTION_BYTES, Json, plain_json
from toolenv.tools.errors import MalformedCall

_CALL_FIELDS = frozenset({"name", "arguments", "reasoning"})
_ANSWER_FIELDS = frozenset({"answer", "reasoning"})


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool."""

    name: str
    arguments: dict[str, Json]
    reasoning: str = ""

    def to_action(self) -> dict[str, Json]:
        action: dict[str, Json] = {"name": self.name, "arguments": self.arguments}
        return {**action, "reasoning": self.reasoning} if self.reasoning else action


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer that ends the episode."""

    text: str
    reasoning: str = ""

    def to_action(self) -> dict[str, Json]:
        action: dict[str, Json] = {"answer": self.text}
        return {**action, "reasoning": self.reasoning} if self.reasoning else action


@dataclass(frozen=True, slots=True)
class Malformed:
    """Neither a call nor an answer. `raw` is what the agent wrote, bounded and printable."""

    raw: str
    error: MalformedCall

    def __post_init__(self) -> None:
        # Kept is enough to be refused for its size again when it is replayed.
        raw = _printable(self.raw[: MAX_ACTION_BYTES + 1])
        # A dialect may refuse what is an action in JSON; handed to `step` again, it must be refused again.
        object.__setattr__(self, "raw", _UNREADABLE + raw if _is_action(raw) else raw)

    def to_action(self) -> str:
        return self.raw


Action = Call | Answer | Malformed

_UNREADABLE = "unreadable: "


def _is_action(text: str) -> bool:
    try:
        _parse_mapping(json.loads(text))
    except (MalformedCall, ValueError, RecursionError):
        return False
    return True


def parse_action(action: Any) -> Action:
    """Read an action; never raises."""
    if isinstance(action, str):
        return _parse_text(action)
    if isinstance(action, Malformed):
        # By its text alone, as when it is replayed: who made it may have refused it for a reason of their own.
        return _parse_text(action.raw)
    if isinstance(action, Call | Answer):
        action = action.to_action()
    try:
        return _parse_mapping(action)
    except MalformedCall:
        return _parse_text(_to_text(action))


def _parse_mapping(action: Any) -> Call | Answer:
    if not isinstance(action, dict):
        raise MalformedCall("the action is not an object", rule="shape")
    # A copy: what the agent does to its own dict later must not reach into the conversation.
    action = plain_json(action)
    reasoning = action.get("reasoning", "")
    if isinstance(reasoning, str):
        name, arguments, answer = action.get("name"), action.get("arguments"), action.get("answer")
        if isinstance(name, str) and isinstance(arguments, dict) and action.keys() <= _CALL_FIELDS:
            return Call(name, arguments, reasoning)
        if isinstance(answer, str) and action.keys() <= _ANSWER_FIELDS:
            return Answer(answer, reasoning)
    raise MalformedCall(
        'an action is {"name": <tool>, "arguments": {...}} or {"answer": <text>}, with an optional "reasoning" text',
        rule="shape",
    )


def _parse_text(text: str) -> Action:
    if len(text) > MAX_ACTION_BYTES:
        return Malformed(text, MalformedCall(f"the action is longer than {MAX_ACTION_BYTES} characters", rule="size"))
    raw = _printable(text)
    try:
        return _parse_mapping(json.loads(raw))
    except MalformedCall as error:
        return Malformed(raw, error)
    except (ValueError, RecursionError):
        return Malformed(raw, MalformedCall("the action is not JSON", rule="json"))


def _to_text(action: Any) -> str:
    """An action that is not what it should be, as text that reads as badly."""
    try:
        return json.dumps(action)
    except (TypeError, ValueError, RecursionError):
        return f"<{type(action).__name__} that is not JSON>"


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
