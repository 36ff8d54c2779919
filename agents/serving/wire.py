"""OpenAI's chat completions, as far as a policy can honour them: a request is read, a decision is written.

What would change a turn and can not be honoured is refused by name: sampling (turns are decoded greedily), several
choices, a choice of tools other than `auto`, log-probabilities, stop words, response formats. What changes nothing
(`user`, `metadata`, `seed`, `store`) is not looked at.

A decision becomes one message: a call, or content; its reasoning stands in `reasoning_content`. What the policy wrote
and nobody can read is content with the finish reason `length`, as is a turn longer than `max_tokens`: nothing that a
client should take for an answer. A turn is weighed as a whole before it is sent, so a stream carries it in the
protocol's pieces, but not earlier.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.policy import Decision
from toolenv.agents.serving.refusal import unfit
from toolenv.envs.actions import Action, Answer, Call, Malformed, parse_action
from toolenv.tools.calls import Json, json_text

_DIALECT = ToolenvDialect()
_ONLY: Final[dict[str, Any]] = {
    "n": 1,
    "temperature": 0,
    "tool_choice": "auto",
    "logprobs": False,
    "stop": [],
    "response_format": {"type": "text"},
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "modalities": ["text"],
    "functions": [],
    "function_call": "auto",
}


class StreamOptions(BaseModel):
    """Of a request that is streamed."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The fields of a request that a turn depends on; `messages` and `tools` are read by who knows them."""

    model_config = ConfigDict(strict=True)

    model: str
    messages: list[Any] = Field(min_length=1)
    tools: list[Any] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def read_request(body: bytes) -> ChatRequest:
    """The request in a body.

    Raises:
        Refused: names the field and the rule it breaks.
    """
    try:
        named = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise unfit(f"the body is not JSON: {error}", code="invalid_json") from None
    try:
        orjson.dumps(named)
    except TypeError:
        raise unfit("the body is nested too deeply", code="invalid_json") from None
    if not isinstance(named, dict):
        raise unfit("the body is not a JSON object", code="invalid_json")
    for name, only in _ONLY.items():
        if (value := named.get(name)) is not None and value != only:
            raise unfit(f"{name}: here it can only be {json_text(only)}", param=name, code="unsupported_value")
    try:
        return ChatRequest.model_validate(named)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise unfit(f"{name}: {first['msg']}", param=name) from None


@dataclass(frozen=True, slots=True)
class Turn:
    """What the policy did, as it is told.

    Attributes:
        text: of the turn as it was written.
        cut: by `max_tokens`.
    """

    action: Action
    text: str
    decision: Decision
    cut: bool

    @classmethod
    def of(cls, decision: Decision, most_tokens: int | None) -> Turn:
        action = parse_action(decision.action)
        if isinstance(action, Malformed):
            action = parse_action(action.raw)  # as an environment would read it
        text = _DIALECT.render(action) if decision.text is None else decision.text
        written = len(decision.token_ids or ())
        return cls(action, text, decision, most_tokens is not None and written > most_tokens)

    @property
    def prompt_tokens(self) -> int:
        usage = self.decision.usage
        return self.decision.prompt_tokens + (0 if usage is None else usage.input_tokens)

    @property
    def cached_tokens(self) -> int:
        usage = self.decision.usage
        return self.decision.cached_tokens + (0 if usage is None else usage.cached_tokens)

    @property
    def completion_tokens(self) -> int:
        usage = self.decision.usage
        return len(self.decision.token_ids or ()) + (0 if usage is None else usage.output_tokens)

    @property
    def finish_reason(self) -> str:
        if self.cut or isinstance(self.action, Malformed):
            return "length"
        return "tool_calls" if isinstance(self.action, Call) else "stop"

    def usage(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def message(self) -> dict[str, Json]:
        """The assistant's message."""
        message: dict[str, Json] = {"role": "assistant", "content": None}
        if self.cut:
            return message | {"content": ""}
        if isinstance(self.action, Malformed):
            return message | {"content": self.action.raw}
        if self.action.reasoning:
            message["reasoning_content"] = self.action.reasoning
        if isinstance(self.action, Answer):
            return message | {"content": self.action.text}
        function = {"name": self.action.name, "arguments": json_text(self.action.arguments)}
        return message | {"tool_calls": [{"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}]}


def completion(turn: Turn, model: str) -> bytes:
    """The turn as a chat completion; the policy's labels, such as a cascade's, stand in `toolenv`."""
    choice = {"index": 0, "message": turn.message(), "logprobs": None, "finish_reason": turn.finish_reason}
    labels = {"toolenv": turn.decision.labels} if turn.decision.labels else {}
    return orjson.dumps(_head(model, "chat.completion") | {"choices": [choice], "usage": turn.usage()} | labels)


def chunks(turn: Turn, model: str, *, with_usage: bool) -> Iterator[bytes]:
    """The turn as server-sent events."""
    head = _head(model, "chat.completion.chunk")
    message = turn.message()
    calls = message.pop("tool_calls", [])
    deltas: list[dict[str, Json]] = [message]
    for call in calls:
        arguments = call["function"]["arguments"]
        opened = {"index": 0, **call, "function": {**call["function"], "arguments": ""}}
        deltas.append({"tool_calls": [opened]})
        deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]})
    for delta in deltas:
        yield _event(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    labels = {"toolenv": turn.decision.labels} if turn.decision.labels else {}
    yield _event(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": turn.finish_reason}]} | labels)
    if with_usage:
        yield _event(head | {"choices": [], "usage": turn.usage()})
    yield b"data: [DONE]\n\n"


def _head(model: str, kind: str) -> dict[str, Json]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _event(chunk: Json) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
