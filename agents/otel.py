"""Spans of OpenTelemetry's conventions for generative AI (`gen_ai.*`) as the parts of conversations.

Read is OTLP's JSON, an export request a line, as the collector's file exporter writes it: spans of inference (`chat`
and the like) with their messages, tokens and seconds, spans of `execute_tool` as runs of tools, the agent's name as
the task type, and the result of an evaluation as the outcome. Messages stand in `gen_ai.input.messages`,
`gen_ai.output.messages` and `gen_ai.system_instructions` (as structure or as JSON text, on the span or an event of it),
or in the older events `gen_ai.user.message`, `gen_ai.choice` and their like.

Spans of one `gen_ai.conversation.id`, or else of one trace, that go on with each other's messages are one
conversation. Instrumentations leave content out unless told otherwise; a span without it can not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from toolenv.agents.open_conversations import OpenConversations, extended
from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import RecordError

Message = dict[str, Any]
_INFERENCE = frozenset({"chat", "text_completion", "generate_content"})
_OLD_EVENTS = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}
_NO_CONTENT = (
    "gen_ai.input.messages: missing; instrumentations write it only if they are told to, such as by"
    " OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
)


@dataclass(slots=True)
class Span:
    """A span, its attributes as plain values."""

    where: str
    trace: str
    start: int
    seconds: float
    failed: str | None
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]

    def get(self, *names: str) -> Any:
        """The first of these attributes that is there."""
        return next((self.attributes[name] for name in names if name in self.attributes), None)

    @property
    def operation(self) -> str:
        return str(self.get("gen_ai.operation.name"))


@dataclass(slots=True, eq=False)
class _Conversation:
    id: str
    where: str
    parts: int = 0
    called: tuple[str, ...] = ()

    def part(self, **row: Json) -> tuple[str, Json]:
        self.parts += 1
        return self.where, {"id": self.id, "part": self.parts - 1, **row}


@dataclass(slots=True)
class _Scope:
    """The spans of one conversation id, or of one trace."""

    name: str
    spans: list[Span] = field(default_factory=list)
    opened: list[_Conversation] = field(default_factory=list)

    def open(self, span: Span) -> _Conversation:
        more = f"/{len(self.opened) + 1}" if self.opened else ""
        self.opened.append(_Conversation(self.name + more, span.where))
        return self.opened[-1]


def parts_of_spans(rows: Iterable[tuple[str, Json]]) -> Iterator[tuple[str, Json]]:
    """(where, part) of all conversations in the lines of an export; a RecordError where something can not be read."""
    scopes: dict[str, _Scope] = {}
    conversation_of: dict[str, str] = {}
    spans: list[Span] = []
    for where, row in rows:
        try:
            if isinstance(row, RecordError):
                raise row
            spans += _spans(row, where)
        except RecordError as problem:
            yield where, problem
    for span in spans:
        if isinstance(name := span.get("gen_ai.conversation.id"), str):
            conversation_of.setdefault(span.trace, name)
    for span in sorted(spans, key=lambda span: span.start):
        name = span.get("gen_ai.conversation.id") or conversation_of.get(span.trace, span.trace)
        scopes.setdefault(str(name), _Scope(str(name))).spans.append(span)
    for scope in scopes.values():
        yield from _parts(scope)


def _parts(scope: _Scope) -> Iterator[tuple[str, Json]]:
    known: OpenConversations[_Conversation] = OpenConversations()
    outcome: Json = None
    agents = [span.get("gen_ai.agent.name") for span in scope.spans]
    task = next((agent for agent in agents if isinstance(agent, str)), None)
    for span in scope.spans:
        for name, attributes in span.events:
            if name == "gen_ai.evaluation.result":
                outcome = attributes.get("gen_ai.evaluation.score.label", outcome)
        try:
            if span.operation in _INFERENCE:
                yield _inference(span, scope, known, task)
            elif span.operation == "execute_tool":
                yield _run(span, scope, known, task)
        except RecordError as problem:
            yield span.where, problem
    if outcome is not None:
        yield from (conversation.part(messages=[], success=outcome) for conversation in scope.opened)


def _inference(
    span: Span, scope: _Scope, known: OpenConversations[_Conversation], task: str | None
) -> tuple[str, Json]:
    messages, replies = _messages(span)
    conversation, place, end = known.take(messages)
    conversation = conversation or scope.open(span)
    new = messages[place:]
    row: dict[str, Json] = {"task_type": span.get("gen_ai.agent.name") or task}
    row["model"] = span.get("gen_ai.request.model", "gen_ai.response.model")
    if (tools := _structure(span.get("gen_ai.tool.definitions"), "gen_ai.tool.definitions")) is not None:
        row["tools"] = tools
    if replies:
        reply = {**replies[0], "usage": _usage(span)}
        end = extended(end, replies[0])
        new.append(reply)
        conversation.called = tuple(call["function"]["name"] for call in reply.get("tool_calls", ()))
    if span.failed is not None:
        row["request_error"] = {"type": span.failed, "seconds": span.seconds}
    known.put(conversation, end)
    return conversation.part(**row, messages=new)


def _run(span: Span, scope: _Scope, known: OpenConversations[_Conversation], task: str | None) -> tuple[str, Json]:
    name = span.get("gen_ai.tool.name")
    if not isinstance(name, str):
        raise RecordError("gen_ai.tool.name: not a text")
    calling = (conversation for conversation in known.newest_first() if name in conversation.called)
    conversation = next(calling, scope.opened[-1] if scope.opened else None) or scope.open(span)
    arguments = span.get("gen_ai.tool.call.arguments")
    run: dict[str, Json] = {"name": name, "arguments": _read(arguments) or {}, "seconds": span.seconds}
    if span.failed is not None:
        run["error"] = {"type": span.failed}
    else:
        run["result"] = span.get("gen_ai.tool.call.result")
    return conversation.part(task_type=span.get("gen_ai.agent.name") or task, messages=[], run=run)


def _usage(span: Span) -> Json:
    counts = [
        span.get("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
        span.get("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
        span.get("gen_ai.usage.cache_read.input_tokens"),
    ]
    read, written, cached = (count if isinstance(count, int) else 0 for count in counts)
    tokens = {"input_tokens": read, "output_tokens": written, "cached_tokens": cached}
    return {**tokens, "usd": None, "seconds": span.seconds, "requests": 1}


# -- messages ------------------------------------------------------------------------------------------


def _messages(span: Span) -> tuple[list[Message], list[Message]]:
    """What was sent, and what came back."""
    asked, said = span.get("gen_ai.input.messages"), span.get("gen_ai.output.messages")
    if asked is None and said is None:
        if not any(name in _OLD_EVENTS for name, _ in span.events):
            raise RecordError(_NO_CONTENT)
        return _of_old_events(span)
    system = _structure(span.get("gen_ai.system_instructions"), "gen_ai.system_instructions")
    reader = _PartsReader()
    messages = reader.read([{"role": "system", "parts": system}] if system else [], "gen_ai.system_instructions")
    messages += reader.read(_structure(asked, "gen_ai.input.messages") or [], "gen_ai.input.messages")
    return messages, reader.read(_structure(said, "gen_ai.output.messages") or [], "gen_ai.output.messages")


class _PartsReader:
    """Messages of parts become OpenAI's; calls without an id are numbered, and their replies come in order."""

    def __init__(self) -> None:
        self._unnamed: list[str] = []
        self._count = 0

    def read(self, messages: Json, at: str) -> list[Message]:
        if not isinstance(messages, list):
            raise RecordError(f"{at}: not a list")
        return [found for place, message in enumerate(messages) for found in self._one(message, f"{at}.{place}")]

    def _one(self, message: Json, at: str) -> Iterator[Message]:
        parts = message.get("parts") if isinstance(message, dict) else None
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise RecordError(f"{at}.parts: not a list of objects")
        calls, content, thoughts, replies = [], [], [], []
        for part in parts:
            kind = part.get("type")
            if kind == "tool_call":
                calls.append(self._call(part))
            elif kind == "tool_call_response":
                result = part.get("response", part.get("result"))
                text = result if isinstance(result, str) else json_text(result)
                replies.append({"role": "tool", "tool_call_id": self._answered(part), "content": text})
            elif kind == "reasoning":
                thoughts.append(str(part.get("content")))
            else:
                content.append(str(part.get("content")) if kind == "text" else f"[{kind}]")
        if calls or content or thoughts or not replies:
            found: Message = {"role": message.get("role"), "content": "\n".join(content)}
            found |= {"reasoning_content": "\n".join(thoughts)} if thoughts else {}
            yield {**found, "tool_calls": calls} if calls else found
        yield from replies

    def _call(self, part: Json) -> Json:
        call_id = part.get("id")
        if not isinstance(call_id, str):
            self._count += 1
            call_id = f"call_{self._count}"
            self._unnamed.append(call_id)
        arguments = part.get("arguments")
        text = arguments if isinstance(arguments, str) else json_text({} if arguments is None else arguments)
        return {"id": call_id, "type": "function", "function": {"name": part.get("name"), "arguments": text}}

    def _answered(self, part: Json) -> Json:
        if isinstance(part.get("id"), str) or not self._unnamed:
            return part.get("id")
        return self._unnamed.pop(0)


def _of_old_events(span: Span) -> tuple[list[Message], list[Message]]:
    asked: list[Message] = []
    said: list[Message] = []
    for name, attributes in span.events:
        if name == "gen_ai.choice":
            message = _structure(attributes.get("message"), name) or attributes
            if not isinstance(message, dict):
                raise RecordError(f"{name}.message: not an object")
            said.append(_old_message(message, "assistant", name))
        elif (role := _OLD_EVENTS.get(name)) is not None:
            asked.append(_old_message(attributes, role, name))
    return asked, said


def _old_message(body: dict[str, Any], role: str, at: str) -> Message:
    content = body.get("content")
    message: Message = {
        "role": role,
        "content": content if content is None or isinstance(content, str) else json_text(content),
    }
    if role == "tool":
        message["tool_call_id"] = body.get("id")
    if calls := _structure(body.get("tool_calls"), f"{at}.tool_calls"):
        message["tool_calls"] = calls
    return message


# -- OTLP ----------------------------------------------------------------------------------------------


def _spans(row: Json, where: str) -> Iterator[Span]:
    if not isinstance(row, dict) or not isinstance(row.get("resourceSpans"), list):
        raise RecordError("resourceSpans: not a list; this is no export of spans in OTLP's JSON")
    try:
        for resource in row["resourceSpans"]:
            for scope in resource.get("scopeSpans", ()):
                yield from (_span(span, where) for span in scope.get("spans", ()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"resourceSpans: not as OTLP's JSON has it: {error!r}") from None


def _span(span: dict[str, Any], where: str) -> Span:
    attributes = _attributes(span)
    events = [(str(event["name"]), _attributes(event)) for event in span.get("events", ())]
    for name, details in events:
        if name == "gen_ai.client.inference.operation.details":
            attributes = details | attributes
    start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
    status = span.get("status", {})
    failed = attributes.get("error.type")
    if failed is None and status.get("code") in (2, "STATUS_CODE_ERROR"):
        failed = status.get("message") or "error"
    told = None if failed is None else str(failed)
    return Span(where, str(span["traceId"]), start, round((end - start) / 1e9, 6), told, attributes, events)


def _attributes(owner: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in owner.get("attributes", ())}


def _value(value: dict[str, Any]) -> Any:
    """The value of an attribute; a 64-bit integer is a text in OTLP's JSON."""
    if not value:
        return None
    ((kind, inner),) = value.items()
    if kind == "intValue":
        return int(inner)
    if kind == "arrayValue":
        return [_value(item) for item in inner.get("values", ())]
    if kind == "kvlistValue":
        return {pair["key"]: _value(pair["value"]) for pair in inner.get("values", ())}
    return inner


def _structure(value: Any, at: str) -> Any:
    """A structured attribute, which may be written as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise RecordError(f"{at}: a text that is not JSON") from None


def _read(value: Any) -> Any:
    try:
        return orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        return value
