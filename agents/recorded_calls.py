"""What is recorded, from its beginning to its end: a request with its reply, and a run of a tool."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from toolenv.agents.open_conversations import extended
from toolenv.agents.recorded_replies import Reply, message_of, recorded_stream
from toolenv.agents.recording_book import Book, Conversation, told
from toolenv.agents.recording_log import plain
from toolenv.tools.calls import Json


class RecordedRequest:
    """One request, from asking to the last chunk of its reply."""

    def __init__(self, book: Book, messages: Any, settings: dict[str, Any], task: str | None) -> None:
        self._book, self._settings = book, settings
        self._conversation: Conversation | None = None
        self._began = time.perf_counter()
        try:
            if not isinstance(messages, Sequence) or isinstance(messages, str):
                raise TypeError("the request names no `messages`, so it is not recorded")
            self._claim(messages, task)
        except Exception as error:
            book.failed(error)

    def _claim(self, messages: Sequence[Any], task: str | None) -> None:
        """Find the conversation that goes on, and keep what is new: the agent may change its messages at any time."""
        book = self._book
        self._episode = book.episode.get()
        self._scope = "" if self._episode is None else self._episode.id
        self._started = datetime.now(UTC).isoformat(timespec="milliseconds")
        with book.lock:
            found, known, self._end = book.open.take(messages, self._scope)
            if found is None or found.broken:
                replaced, known = found, 0
                found = Conversation(task, None) if self._episode is None else self._episode.opened()
                if replaced is not None:  # of one that never reached the disk, what it replaced itself
                    found.replaces = replaced.id if replaced.parts else replaced.replaces
        self._new = plain([_sent(message) for message in messages[known:]])
        tools = self._settings.get("tools")
        self._tools = list(tools) if isinstance(tools, list | tuple) and tools != found.tools else None
        self._conversation = found
        book.last.set(found)

    async def awaited(self, waiting: Any) -> Any:
        try:
            result = await waiting
        except BaseException as error:
            self.failed(error)
            raise
        return self.returned(result)

    def returned(self, result: Any) -> Any:
        """Record what the client returned; what the caller is to get."""
        book = self._book
        if self._conversation is None:
            return result
        try:
            book.last.set(self._conversation)
            if self._settings.get("stream") is True:
                return recorded_stream(result, self.replied, book.failed)
            self.replied(Reply(_parsed(result)), None)
        except Exception as error:
            book.failed(error)
        return result

    def failed(self, error: BaseException) -> None:
        if self._conversation is not None:
            self.replied(Reply(), error)

    def replied(self, reply: Reply, error: BaseException | None) -> None:
        """Write the part."""
        conversation, book = self._conversation, self._book
        assert conversation is not None
        end = self._end
        try:
            seconds = time.perf_counter() - self._began
            messages = self._new
            row: dict[str, Json] = {"started": self._started}
            if (message := reply.whole()) is not None:
                end = extended(end, message)
                conversation.called = tuple(call["function"]["name"] for call in message.get("tool_calls", ()))
                messages = [*messages, plain({**message, "usage": reply.usage(seconds)})]
            if conversation.parts == 0:
                row["model"] = plain(self._settings.get("model") or reply.model)
            if self._tools is not None:
                conversation.tools, row["tools"] = self._tools, plain(self._tools)
            if error is not None:
                row["request_error"] = {**told(error), "seconds": round(seconds, 6)}
            if reply.interrupted:
                row["interrupted"] = True
            book.write(conversation, **row, messages=messages)
        except Exception as problem:
            book.failed(problem)
        with book.lock:
            book.open.put(conversation, end, self._scope)


class RecordedRun:
    """One run of a tool."""

    def __init__(
        self, book: Book, name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._book, self._name = book, name
        self._arguments: Json = None
        self._began = time.perf_counter()
        self._token = book.in_tool.set(True)
        self._last = book.last.get()
        try:
            self._started = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._arguments = _arguments(signature, args, kwargs)
        except Exception as error:
            book.failed(error)

    def ended(self, result: Any, error: BaseException | None) -> None:
        book = self._book
        book.in_tool.reset(self._token)
        book.last.set(self._last)  # a tool may have asked a model itself
        if self._arguments is None:
            return
        try:
            run: dict[str, Json] = {"name": self._name, "arguments": self._arguments}
            run |= {"result": plain(result)} if error is None else {"error": told(error)}
            run["seconds"] = round(time.perf_counter() - self._began, 6)
            conversation = self._conversation()
            book.write(conversation, started=self._started, messages=[], run=run)
        except Exception as problem:
            book.failed(problem)

    def _conversation(self) -> Conversation:
        """The conversation that called the tool: the last one here, or else the last one that called its name."""
        book = self._book
        last, episode = self._last, book.episode.get()
        with book.lock:
            if episode is not None:
                if last is not None and last.episode is episode:
                    return last
                return episode.conversations[-1] if episode.conversations else episode.opened()
            if last is not None and last.episode is None and self._name in last.called:
                return last
            for conversation in book.open.newest_first():
                if conversation.episode is None and self._name in conversation.called:
                    return conversation
        return Conversation(None, None)


def _sent(message: Any) -> Any:
    """A message as it is sent: a mapping or a model as it is, another client's object by its fields."""
    return message if isinstance(message, dict) or hasattr(message, "model_dump") else message_of(message)


def _parsed(result: Any) -> Any:
    """The completion in a result; a raw response whose body has been read parses, and keeps what it parsed."""
    response = getattr(result, "http_response", None)
    if response is None:
        return result
    if not response.is_closed:
        raise TypeError("a raw response that is still being read, so it is not recorded")
    return result.parse()


def _arguments(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Json:
    """What a function was called with, by name; that which a method belongs to is left out."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # the call is about to fail, with an error of its own
        return plain({"args": list(args), "kwargs": kwargs})
    named: dict[str, Any] = {}
    for place, (name, value) in enumerate(bound.arguments.items()):
        if place == 0 and name in ("self", "cls"):
            continue
        variadic = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        named |= value if variadic else {name: value}
    return plain(named)
