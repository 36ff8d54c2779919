"""Replies of an OpenAI-compatible client as plain messages, whole or put together from a stream.

What a client returns is an object of its own or a mapping; both are read, and neither is changed. Of several choices
the first is the reply.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from toolenv.agents.usage import Usage
from toolenv.tools.calls import Json

Message = dict[str, Json]
_NOTHING: Mapping[str, Any] = MappingProxyType({})
Finished = Callable[["Reply", BaseException | None], None]
"""Takes a reply and what broke it, if something did."""


def field(value: Any, name: str) -> Any:
    """A field of an object or a mapping; None if it has none."""
    if isinstance(value, dict):
        return value.get(name)
    known = getattr(value, "__dict__", _NOTHING)
    if name in known:
        return known[name]
    # A model of pydantic is slow to say what it has not: what it does have are its fields and these.
    extra = getattr(value, "__pydantic_extra__", _NOTHING)
    return getattr(value, name, None) if extra is _NOTHING else (extra or _NOTHING).get(name)


def message_of(value: Any) -> Message:
    """An assistant's message: what it says, thinks and calls."""
    message: Message = {"role": field(value, "role") or "assistant", "content": field(value, "content")}
    for name in ("refusal", "reasoning_content"):
        if (text := field(value, name)) is not None:
            message[name] = text
    if "reasoning_content" not in message and isinstance(thought := field(value, "reasoning"), str):
        message["reasoning_content"] = thought
    if calls := field(value, "tool_calls"):
        message["tool_calls"] = [_call(call) for call in calls]
    if (function := field(value, "function_call")) is not None:
        message["function_call"] = _function(function)
    return message


def _call(call: Any) -> Json:
    return {"id": field(call, "id"), "type": "function", "function": _function(field(call, "function"))}


def _function(function: Any) -> Json:
    return {"name": field(function, "name"), "arguments": field(function, "arguments")}


class Reply:
    """A reply as it comes: at once, or in chunks.

    Attributes:
        message: None until the first choice has come.
        interrupted: whether it is a stream that was not read to its end.
    """

    def __init__(self, completion: Any = None) -> None:
        self.message: Message | None = None
        self.model: str | None = None
        self.choices = 0
        self.interrupted = False
        self._usage: Any = None
        self._parts: dict[str, list[str]] = {}
        self._calls: dict[int, Message] = {}
        if completion is not None:
            self._about(completion)
            choices = field(completion, "choices") or []
            self.choices = len(choices)
            if choices:
                self.message = message_of(field(choices[0], "message"))

    def add(self, chunk: Any) -> None:
        """Take a chunk of a stream."""
        self._about(chunk)
        for choice in field(chunk, "choices") or []:
            self.choices = max(self.choices, 1 + (field(choice, "index") or 0))
            if not field(choice, "index"):
                self._delta(field(choice, "delta"))

    def _about(self, part: Any) -> None:
        self.model = field(part, "model") or self.model
        self._usage = field(part, "usage") or self._usage

    def _delta(self, delta: Any) -> None:
        self.message = self.message or {"role": "assistant", "content": None}
        for name in ("content", "refusal", "reasoning_content", "reasoning"):
            if isinstance(text := field(delta, name), str):
                self._parts.setdefault(name, []).append(text)
        for place, call in enumerate(field(delta, "tool_calls") or []):
            index = field(call, "index")
            self._add_call(call, place if index is None else index)

    def _add_call(self, call: Any, index: int) -> None:
        known = self._calls.setdefault(
            index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        )
        known["id"] = known["id"] or field(call, "id")
        function = field(call, "function")
        for name in ("name", "arguments"):
            known["function"][name] += field(function, name) or ""

    def whole(self) -> Message | None:
        """The message, as far as it came."""
        if self.message is None or not (self._parts or self._calls):
            return self.message
        parts = {name: "".join(texts) for name, texts in self._parts.items()}
        calls = [self._calls[index] for index in sorted(self._calls)]
        return message_of({**self.message, **parts, **({"tool_calls": calls} if calls else {})})

    def usage(self, seconds: float) -> Usage:
        """What the server says that it took; zero tokens if it says nothing."""
        details = field(self._usage, "prompt_tokens_details")
        counts = (field(self._usage, "prompt_tokens"), field(self._usage, "completion_tokens"))
        read, written = (count if isinstance(count, int) else 0 for count in counts)
        cached = field(details, "cached_tokens")
        return Usage(read, written, cached if isinstance(cached, int) else 0, None, round(seconds, 6), 1)


class _Stream:
    """A stream that is read as before, and overheard. It passes for the type that it stands for."""

    def __init__(self, stream: Any, finished: Finished, unreadable: Callable[[Exception], None]) -> None:
        self._stream, self._finished, self._unreadable = stream, finished, unreadable
        self._reply = Reply()
        self._over = False

    @property  # type: ignore[misc]  # so that isinstance() says what it says of the stream itself
    def __class__(self) -> type:
        return type(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _hear(self, chunk: Any) -> None:
        if self._over:
            return
        try:
            self._reply.add(chunk)
        except Exception as error:
            self._over = True
            self._unreadable(error)

    def _end(self, error: BaseException | None = None, *, interrupted: bool = True) -> None:
        if not self._over:
            self._over = True
            self._reply.interrupted = interrupted
            self._finished(self._reply, error)

    def __del__(self) -> None:
        self._end()


class RecordedStream(_Stream):
    """A stream of a synchronous client."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            chunk = next(self._stream)
        except StopIteration:
            self._end(interrupted=False)
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._hear(chunk)
        return chunk

    def __enter__(self) -> Any:
        self._stream.__enter__()
        return self

    def __exit__(self, *exception: Any) -> Any:
        self._end()
        return self._stream.__exit__(*exception)

    def close(self) -> None:
        self._end()
        self._stream.close()


class RecordedAsyncStream(_Stream):
    """A stream of an asynchronous client."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            chunk = await anext(self._stream)
        except StopAsyncIteration:
            self._end(interrupted=False)
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._hear(chunk)
        return chunk

    async def __aenter__(self) -> Any:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> Any:
        self._end()
        return await self._stream.__aexit__(*exception)

    async def close(self) -> None:
        self._end()
        await self._stream.close()


def recorded_stream(stream: Any, finished: Finished, unreadable: Callable[[Exception], None]) -> Any:
    """The stream, overheard.

    Args:
        finished: gets the reply once, when the stream ends, breaks, is closed or dropped.
        unreadable: gets the error instead, if a chunk can not be read; the stream goes on.

    Raises:
        TypeError: it is no stream.
    """
    if hasattr(stream, "__anext__"):
        return RecordedAsyncStream(stream, finished, unreadable)
    if hasattr(stream, "__next__"):
        return RecordedStream(stream, finished, unreadable)
    raise TypeError(f"a {type(stream).__name__} is no stream")
