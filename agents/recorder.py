"""Records what an agent of your own does, in two lines, without a change in what it does.

    from toolenv import recorder

    client = recorder.wrap(OpenAI())        # or AsyncOpenAI(), or any client with `chat.completions.create`

    @recorder.tool                          # a function, synchronous or not
    def refund(order_id: str) -> dict: ...

    with recorder.episode(task="refund") as episode:    # if you know where an episode begins and ends
        ...
        episode.outcome(success=True)

The log is `toolenv import`'s form of OpenAI's chat messages, a line for each request, each run of a tool and each
outcome, written before the caller gets its reply. A line has what is new: `id` names the conversation, `part` is its
number in it. Without an episode, requests belong together that go on with each other's messages.

Whatever goes wrong in recording is told once, by the logger `toolenv.recorder`, and counted in `lost`; the agent's
own values and exceptions pass through as they are. The client's arguments, replies and streams are not changed, so
a stream tells no usage unless the agent asks for it (`stream_options`). The Responses API is not recorded.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, overload

from toolenv.agents.open_conversations import OpenConversations, extended
from toolenv.agents.recorded_replies import Reply, recorded_stream
from toolenv.agents.recording_log import append_line, plain, redacted
from toolenv.tools.calls import Json

DEFAULT_PATH = "recordings.jsonl"
PATH_VARIABLE = "TOOLENV_RECORDINGS"
_LOG = logging.getLogger("toolenv.recorder")
_MARK = "__toolenv_recorder__"

Client = TypeVar("Client")
Function = TypeVar("Function", bound=Callable[..., Any])
Redact = Callable[[str], str]


@dataclass(slots=True, eq=False)
class _Conversation:
    """A conversation that is being recorded. `called`: the tools that its last reply calls."""

    task: str | None
    episode: Episode | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    parts: int = 0
    tools: list[Any] | None = None
    called: tuple[str, ...] = ()


class Recorder:
    """Records to one file.

    Args:
        path: the log; what is there stays. TOOLENV_RECORDINGS, or `recordings.jsonl`, if left out.
        redact: is given each text that people, tools and models wrote, and returns what may reach the disk. A text
            for which it raises is not written.

    Attributes:
        lost: how many lines could not be written.
    """

    def __init__(self, path: str | Path | None = None, *, redact: Redact | None = None) -> None:
        self._path = Path(path or os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)
        self._redact = redact
        self.lost = 0
        self._open: OpenConversations[_Conversation] = OpenConversations()
        self._lock = threading.Lock()
        self._episode: ContextVar[Episode | None] = ContextVar("episode", default=None)
        self._last: ContextVar[_Conversation | None] = ContextVar("conversation", default=None)
        self._in_tool: ContextVar[bool] = ContextVar("in_tool", default=False)
        myself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: (found := myself()) and found._forked())

    @property
    def path(self) -> Path:
        return self._path

    def configure(self, path: str | Path | None = None, *, redact: Redact | None = None) -> None:
        """Set the log, or the redaction, or both; what is left out stays."""
        self._path = self._path if path is None else Path(path)
        self._redact = self._redact if redact is None else redact

    def wrap(self, client: Client, *, task: str | None = None) -> Client:
        """Record a client's chat completions; the client itself is returned, and so is all that it returns.

        Args:
            task: the type of task of conversations outside of an episode.

        Raises:
            TypeError: it has no `chat.completions.create`, or lets nothing be set.
        """
        completions = getattr(getattr(client, "chat", None), "completions", None)
        if not callable(getattr(completions, "create", None)):
            raise TypeError(f"a {type(client).__name__} has no chat.completions.create, so it can not be recorded")
        for name in ("create", "parse"):
            method = getattr(completions, name, None)
            if callable(method) and not hasattr(method, _MARK):
                _set(completions, name, self._recorded(method, task))
        for name in ("copy", "with_options"):
            method = getattr(client, name, None)
            if callable(method) and not hasattr(method, _MARK):
                _set(client, name, self._rewrapped(method, task))
        return client

    @overload
    def tool(self, function: Function) -> Function: ...
    @overload
    def tool(self, *, name: str | None = None) -> Callable[[Function], Function]: ...
    def tool(self, function: Any = None, *, name: str | None = None) -> Any:
        """Record the runs of a tool: arguments, result or error, seconds. What a tool calls within is its own affair.

        Args:
            name: as the model knows it; the function's own if left out.
        """
        if function is None:
            return functools.partial(self.tool, name=name)
        named = name or function.__name__
        signature = inspect.signature(function)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                if self._in_tool.get():
                    return await function(*args, **kwargs)
                run = _Run(self, named, signature, args, kwargs)
                try:
                    result = await function(*args, **kwargs)
                except BaseException as error:
                    run.ended(None, error)
                    raise
                run.ended(result, None)
                return result

            return run_async

        @functools.wraps(function)
        def run_sync(*args: Any, **kwargs: Any) -> Any:
            if self._in_tool.get():
                return function(*args, **kwargs)
            run = _Run(self, named, signature, args, kwargs)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                run.ended(None, error)
                raise
            run.ended(result, None)
            return result

        return run_sync

    def episode(self, task: str | None = None, *, request: str | None = None, **metadata: Json) -> Episode:
        """An episode: a `with` block to which all requests and tools within belong, in threads and tasks that it starts.

        Threads that do not inherit the context (before Python 3.14 none does) run their work through
        `contextvars.copy_context().run`.

        Args:
            task: its type, such as "refund".
            request: what was asked, for an agent that asks no client of ours.
            metadata: kept beside it.
        """
        return Episode(self, task, request, metadata)

    # -- what the parts of a recorder share ----------------------------------------------------------------

    def _recorded(self, create: Callable[..., Any], task: str | None) -> Callable[..., Any]:
        @functools.wraps(create)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            messages = kwargs.get("messages")
            if messages is not None and not isinstance(messages, Sequence):
                kwargs["messages"] = messages = list(messages)  # an iterator can be read once
            request = _Request(self, messages, kwargs, task)
            try:
                result = create(*args, **kwargs)
            except BaseException as error:
                request.failed(error)
                raise
            return request.awaited(result) if inspect.isawaitable(result) else request.returned(result)

        setattr(recorded, _MARK, self)
        return recorded

    def _rewrapped(self, copy: Callable[..., Any], task: str | None) -> Callable[..., Any]:
        @functools.wraps(copy)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            return self.wrap(copy(*args, **kwargs), task=task)

        setattr(recorded, _MARK, self)
        return recorded

    def _write(self, conversation: _Conversation, **row: Json) -> None:
        """Write the next part of a conversation. Raises whatever goes wrong."""
        line: dict[str, Json] = {"id": conversation.id, "part": conversation.parts}
        if conversation.parts == 0:
            line["task_type"] = conversation.task
            if (episode := conversation.episode) is not None:
                line |= {"episode": episode.id, "metadata": plain(episode.metadata)}
        line |= row
        append_line(self._path, line if self._redact is None else redacted(line, self._redact))
        conversation.parts += 1

    def _failed(self, error: Exception) -> None:
        """Recording failed: the agent must not notice, the operator must."""
        self.lost += 1
        if self.lost == 1:
            _LOG.warning("%s: a line is lost, and others may be: %s: %s", self._path, type(error).__name__, error)

    def _forked(self) -> None:
        """In a forked process: its conversations are its own."""
        self._lock = threading.Lock()
        self._open.clear()
        self._last.set(None)
        if (episode := self._episode.get()) is not None:
            episode.conversations.clear()


class Episode:
    """An episode; `id` is in its records.

    An exception that leaves the block is recorded, passes on, and makes a failure of the episode if nothing else was
    told. Conversations that do not go on with each other, such as those of a second agent, are records of their own,
    each with this outcome.
    """

    def __init__(self, recorder: Recorder, task: str | None, request: str | None, metadata: dict[str, Json]) -> None:
        self._recorder = recorder
        self._token: Token[Episode | None] | None = None
        self._told: dict[str, Json] = {}
        self.id = uuid.uuid4().hex
        self.task, self.request, self.metadata = task, request, metadata
        self.conversations: list[_Conversation] = []

    def outcome(self, *, success: bool | None = None, reward: float | None = None, answer: str | None = None) -> None:
        """Tell how it ended; what is told last holds.

        Args:
            answer: what the agent said in the end, for an agent that asks no client of ours.
        """
        told = {"success": success, "reward": reward, "answer": answer}
        self._told |= {name: value for name, value in told.items() if value is not None}

    def __enter__(self) -> Episode:
        self._token = self._recorder._episode.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        recorder = self._recorder
        if self._token is not None:
            recorder._episode.reset(self._token)
        try:
            if error is not None:
                self._told = {"success": False, **self._told, "error": _told(error)}
            with recorder._lock:
                recorder._open.forget(self.id)
                conversations = list(self.conversations)
            if not conversations and self.request is not None:
                conversations = [self.opened()]
            for conversation in conversations:
                recorder._write(conversation, messages=[], ended=True, **self._told)
        except Exception as problem:
            recorder._failed(problem)

    def opened(self) -> _Conversation:
        """A further conversation of the episode."""
        conversation = _Conversation(self.task, self)
        self.conversations.append(conversation)
        return conversation


class _Request:
    """One request, from asking to the last chunk of its reply."""

    def __init__(self, recorder: Recorder, messages: Any, settings: dict[str, Any], task: str | None) -> None:
        self._recorder, self._settings = recorder, settings
        self._conversation: _Conversation | None = None
        self._began = time.perf_counter()
        try:
            if not isinstance(messages, Sequence) or isinstance(messages, str):
                raise TypeError("the request names no `messages`, so it is not recorded")
            self._claim(messages, task)
        except Exception as error:
            recorder._failed(error)

    def _claim(self, messages: Sequence[Any], task: str | None) -> None:
        """Find the conversation that goes on, and keep what is new: the agent may change its messages at any time."""
        recorder = self._recorder
        self._episode = recorder._episode.get()
        self._scope = "" if self._episode is None else self._episode.id
        self._started = datetime.now(UTC).isoformat(timespec="milliseconds")
        with recorder._lock:
            found, known, self._end = recorder._open.take(messages, self._scope)
            if found is None:
                found = _Conversation(task, None) if self._episode is None else self._episode.opened()
        self._new = plain(list(messages[known:]))
        tools = self._settings.get("tools")
        self._tools = list(tools) if isinstance(tools, list | tuple) and tools != found.tools else None
        self._conversation = found
        recorder._last.set(found)

    async def awaited(self, waiting: Any) -> Any:
        try:
            result = await waiting
        except BaseException as error:
            self.failed(error)
            raise
        return self.returned(result)

    def returned(self, result: Any) -> Any:
        """Record what the client returned; what the caller is to get."""
        recorder = self._recorder
        if self._conversation is None:
            return result
        try:
            recorder._last.set(self._conversation)
            if self._settings.get("stream") is True:
                return recorded_stream(result, self.replied, recorder._failed)
            self.replied(Reply(_parsed(result)), None)
        except Exception as error:
            recorder._failed(error)
        return result

    def failed(self, error: BaseException) -> None:
        if self._conversation is not None:
            self.replied(Reply(), error)

    def replied(self, reply: Reply, error: BaseException | None) -> None:
        """Write the part. A conversation of which a part is lost goes on as a new one, with all its messages."""
        conversation, recorder = self._conversation, self._recorder
        assert conversation is not None
        try:
            seconds = time.perf_counter() - self._began
            messages, end = self._new, self._end
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
                row["request_error"] = {**_told(error), "seconds": round(seconds, 6)}
            if reply.interrupted:
                row["interrupted"] = True
            recorder._write(conversation, **row, messages=messages)
            with recorder._lock:
                recorder._open.put(conversation, end, self._scope)
        except Exception as problem:
            recorder._failed(problem)


class _Run:
    """One run of a tool."""

    def __init__(
        self, recorder: Recorder, name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._recorder, self._name = recorder, name
        self._arguments: Json = None
        self._began = time.perf_counter()
        self._token = recorder._in_tool.set(True)
        try:
            self._started = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._arguments = _arguments(signature, args, kwargs)
        except Exception as error:
            recorder._failed(error)

    def ended(self, result: Any, error: BaseException | None) -> None:
        recorder = self._recorder
        recorder._in_tool.reset(self._token)
        if self._arguments is None:
            return
        try:
            run: dict[str, Json] = {"name": self._name, "arguments": self._arguments}
            run |= {"result": plain(result)} if error is None else {"error": _told(error)}
            run["seconds"] = round(time.perf_counter() - self._began, 6)
            conversation = self._conversation()
            recorder._write(conversation, started=self._started, messages=[], run=run)
        except Exception as problem:
            recorder._failed(problem)

    def _conversation(self) -> _Conversation:
        """The conversation that called the tool: the last one here, or else the last one that called one of its name."""
        recorder = self._recorder
        last, episode = recorder._last.get(), recorder._episode.get()
        with recorder._lock:
            if episode is not None:
                if last is not None and last.episode is episode:
                    return last
                return episode.conversations[-1] if episode.conversations else episode.opened()
            if last is not None and last.episode is None and self._name in last.called:
                return last
            for conversation in recorder._open.newest_first():
                if conversation.episode is None and self._name in conversation.called:
                    return conversation
        return _Conversation(None, None)


def _set(owner: Any, name: str, value: Any) -> None:
    try:
        setattr(owner, name, value)
    except AttributeError:
        raise TypeError(f"{type(owner).__name__}.{name} can not be set, so it can not be recorded") from None


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


def _told(error: BaseException) -> dict[str, Json]:
    return {"type": type(error).__name__, "message": plain(str(error))}
