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
import os
from collections.abc import Callable, Sequence
from contextvars import Token
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, overload

from toolenv.agents.recorded_calls import RecordedRequest, RecordedRun
from toolenv.agents.recording_book import Book, OpenEpisode, Redact, told
from toolenv.tools.calls import Json

DEFAULT_PATH = "recordings.jsonl"
PATH_VARIABLE = "TOOLENV_RECORDINGS"
_MARK = "__toolenv_recorder__"

Client = TypeVar("Client")
Function = TypeVar("Function", bound=Callable[..., Any])


class Recorder:
    """Records to one file.

    Args:
        path: the log; what is there stays. TOOLENV_RECORDINGS, or `recordings.jsonl`, if left out.
        redact: is given each text that people, tools and models wrote, and returns what may reach the disk. A line
            for which it raises is not written.
    """

    def __init__(self, path: str | Path | None = None, *, redact: Redact | None = None) -> None:
        self._book = Book(Path(path or os.environ.get(PATH_VARIABLE) or DEFAULT_PATH).absolute(), redact)

    @property
    def path(self) -> Path:
        return self._book.path

    @property
    def lost(self) -> int:
        """How many lines could not be written."""
        return self._book.lost

    def configure(self, path: str | Path | None = None, *, redact: Redact | None = None) -> None:
        """Set the log, or the redaction, or both; what is left out stays."""
        book = self._book
        book.path = book.path if path is None else Path(path).absolute()
        book.redact = book.redact if redact is None else redact

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
        book, named, signature = self._book, name or function.__name__, inspect.signature(function)

        @functools.wraps(function)
        def run_sync(*args: Any, **kwargs: Any) -> Any:
            if book.in_tool.get():
                return function(*args, **kwargs)
            run = RecordedRun(book, named, signature, args, kwargs)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                run.ended(None, error)
                raise
            run.ended(result, None)
            return result

        @functools.wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            if book.in_tool.get():
                return await function(*args, **kwargs)
            run = RecordedRun(book, named, signature, args, kwargs)
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                run.ended(None, error)
                raise
            run.ended(result, None)
            return result

        return run_async if inspect.iscoroutinefunction(function) else run_sync

    def episode(self, task: str | None = None, *, request: str | None = None, **metadata: Json) -> Episode:
        """An episode: a `with` block to which all requests and tools within belong, and those of tasks it starts.

        A thread belongs to it if its work runs in the context: `contextvars.copy_context().run(work)`.

        Args:
            task: its type, such as "refund".
            request: what was asked, for an agent whose client is not recorded.
            metadata: kept beside it.
        """
        return Episode(self._book, OpenEpisode(task, request, metadata))

    def _recorded(self, create: Callable[..., Any], task: str | None) -> Callable[..., Any]:
        @functools.wraps(create)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            messages = kwargs.get("messages")
            if messages is not None and not isinstance(messages, Sequence):
                kwargs["messages"] = messages = list(messages)  # an iterator can be read once
            request = RecordedRequest(self._book, messages, kwargs, task)
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


class Episode:
    """An episode; `id` is in its records.

    An exception that leaves the block is recorded, passes on, and makes a failure of the episode if nothing else was
    told. Conversations that do not go on with each other, such as those of a second agent, are records of their own,
    each with this outcome.
    """

    def __init__(self, book: Book, episode: OpenEpisode) -> None:
        self._book, self._episode = book, episode
        self._token: Token[OpenEpisode | None] | None = None

    @property
    def id(self) -> str:
        return self._episode.id

    def outcome(self, *, success: bool | None = None, reward: float | None = None, answer: str | None = None) -> None:
        """Tell how it ended; what is told last holds.

        Args:
            answer: what the agent said in the end, for an agent whose client is not recorded.
        """
        given = {"success": success, "reward": reward, "answer": answer}
        self._episode.told |= {name: value for name, value in given.items() if value is not None}

    def __enter__(self) -> Episode:
        self._token = self._book.episode.set(self._episode)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        book, episode = self._book, self._episode
        if self._token is not None:
            book.episode.reset(self._token)
        try:
            outcome = episode.told if error is None else {"success": False, **episode.told, "error": told(error)}
            with book.lock:
                book.open.forget(episode.id)
                if not episode.conversations and episode.request is not None:
                    episode.opened()
                for conversation in episode.conversations:
                    if not conversation.broken:
                        book.write(conversation, messages=[], ended=True, **outcome)
        except Exception as problem:
            book.failed(problem)


def _set(owner: Any, name: str, value: Any) -> None:
    try:
        setattr(owner, name, value)
    except AttributeError:
        raise TypeError(f"{type(owner).__name__}.{name} can not be set, so it can not be recorded") from None
