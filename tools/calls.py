"""What crosses the wire between an agent and a toolbox: a call, and what came of it.

Both are frozen. A result keeps the very text that the agent reads, so that a record and its replay
are compared byte for byte.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from toolenv.tools.errors import MalformedCall, ToolError

# A JSON value. mypy's recursive aliases do not survive pydantic's runtime, hence Any.
Json = Any


class Effect(StrEnum):
    """What a tool may do: look, change the world, or work in the agent's own workspace.

    The workspace is what an agent has to itself: the interpreter's variables, the files it makes. It is part of the
    world's state, but work in it is no act that a grader would count.
    """

    READ = "read"
    WRITE = "write"
    WORK = "work"


READ, WRITE, WORK = Effect.READ, Effect.WRITE, Effect.WORK

# Longer actions are refused unread: an agent that emits more has lost its way.
MAX_ACTION_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of the tool `name`; `arguments` is a JSON object."""

    name: str
    arguments: dict[str, Json]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a call.

    Attributes:
        content: JSON value; of a failure, `{"error": {...}}`.
        text: `content` as compact JSON, the exact text of the observation.
        effect: of the tool that ran; None if none was reached.
        error: the error's type, or None.
    """

    content: Json
    text: str
    effect: Effect | None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    @classmethod
    def success(cls, content: Json, effect: Effect) -> ToolResult:
        return cls(content, orjson.dumps(content).decode(), effect)

    @classmethod
    def failure(cls, error: ToolError, effect: Effect | None = None) -> ToolResult:
        content = error.payload()
        return cls(content, json_text(content), effect, error.type)


def json_text(value: Json) -> str:
    """Compact JSON of any value; what orjson refuses (lone surrogates, huge integers) is escaped."""
    try:
        return orjson.dumps(value).decode()
    except (TypeError, orjson.JSONEncodeError):
        return json.dumps(value, separators=(",", ":"), default=repr)


def plain_json(value: Json) -> Json:
    """A copy of `value` in plain dicts, lists, strings and numbers, as a record keeps it.

    Raises:
        MalformedCall: see `require_json`.
    """
    return orjson.loads(require_json(value))


def require_json(value: Json) -> bytes:
    """`value` as JSON. Raises MalformedCall unless it is JSON that a record can keep.

    Refused are objects of other types, NaN and infinities, lone surrogates, nesting beyond 250 levels, integers
    beyond 64 bits and more than MAX_ACTION_BYTES.
    """
    try:
        data = orjson.dumps(value)
    except (TypeError, RecursionError):
        raise MalformedCall("not JSON that can be read", rule="json") from None
    if len(data) > MAX_ACTION_BYTES:
        raise MalformedCall(f"{len(data)} bytes of JSON; at most {MAX_ACTION_BYTES} are read", rule="size")
    # orjson writes NaN and infinities as null, so a null may be one of them.
    if b"null" in data and _has_non_finite(value):
        raise MalformedCall("NaN and infinities are not JSON", rule="json")
    return data


def _has_non_finite(value: Json) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(_has_non_finite(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_non_finite(item) for item in value)
