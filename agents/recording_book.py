"""What a recorder writes into: conversations that are open, episodes, and the one way to the disk.

Whatever goes wrong here is counted and told once, and never reaches the agent.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolenv.agents.open_conversations import OpenConversations
from toolenv.agents.recording_log import append_line, plain, redacted
from toolenv.tools.calls import Json

_LOG = logging.getLogger("toolenv.recorder")
Redact = Callable[[str], str]


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass(slots=True, eq=False)
class OpenEpisode:
    """An episode that is being recorded, and what was told of its end."""

    task: str | None
    request: str | None
    metadata: dict[str, Json]
    id: str = field(default_factory=_new_id)
    conversations: list[Conversation] = field(default_factory=list)
    told: dict[str, Json] = field(default_factory=dict)

    def opened(self) -> Conversation:
        """A further conversation of it."""
        conversation = Conversation(self.task, self)
        self.conversations.append(conversation)
        return conversation


@dataclass(slots=True, eq=False)
class Conversation:
    """A conversation that is being recorded.

    Attributes:
        parts: how many are written.
        called: the tools that its last reply calls.
        broken: a part could not be written; what goes on with it `replaces` it, with all its messages.
    """

    task: str | None
    episode: OpenEpisode | None
    id: str = field(default_factory=_new_id)
    parts: int = 0
    tools: list[Any] | None = None
    called: tuple[str, ...] = ()
    broken: bool = False
    replaces: str | None = None


class Book:
    """The state of one recorder.

    Attributes:
        lost: how many lines could not be written.
        lock: over `open` and the lines.
        episode, last, in_tool: what goes on in this thread or task: the episode, the conversation that was asked last,
            whether a tool runs.
    """

    def __init__(self, path: Path, redact: Redact | None) -> None:
        self.path, self.redact = path, redact
        self.lost = 0
        self.open: OpenConversations[Conversation] = OpenConversations()
        self.lock = threading.RLock()  # the garbage collector may end a stream at any time
        self.episode: ContextVar[OpenEpisode | None] = ContextVar("episode", default=None)
        self.last: ContextVar[Conversation | None] = ContextVar("conversation", default=None)
        self.in_tool: ContextVar[bool] = ContextVar("in_tool", default=False)
        myself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: None if (book := myself()) is None else book.forked())

    def write(self, conversation: Conversation, **row: Json) -> None:
        """Write the next part of a conversation. Raises whatever goes wrong."""
        with self.lock:
            line: dict[str, Json] = {"id": conversation.id, "part": conversation.parts}
            if conversation.parts == 0:
                line |= _beginning(conversation)
            line |= row
            try:
                append_line(self.path, line if self.redact is None else redacted(line, self.redact))
            except BaseException:
                conversation.broken = True
                raise
            conversation.parts += 1

    def failed(self, error: Exception) -> None:
        """Recording failed: the agent must not notice, the operator must."""
        self.lost += 1
        if self.lost == 1:
            _LOG.warning("%s: a line is lost, and others may be: %s: %s", self.path, type(error).__name__, error)

    def forked(self) -> None:
        """In a forked process: its conversations are its own."""
        self.lock = threading.RLock()
        self.open.clear()
        self.last.set(None)
        if (episode := self.episode.get()) is not None:
            episode.conversations.clear()


def told(error: BaseException) -> dict[str, Json]:
    """An error as it is recorded."""
    return {"type": type(error).__name__, "message": plain(str(error))}


def _beginning(conversation: Conversation) -> dict[str, Json]:
    """What the first part says about all of them."""
    line: dict[str, Json] = {"task_type": conversation.task}
    if conversation.replaces is not None:
        line["replaces"] = conversation.replaces
    if (episode := conversation.episode) is not None:
        line["episode"] = episode.id
        if episode.metadata:
            line["metadata"] = plain(episode.metadata)
        if episode.request is not None:
            line["request"] = episode.request
    return line
