"""Conversations whose world is elsewhere: from a request's messages and tools to what a policy acts on.

Tools that a scenario of the service has, to the letter, are its own: with their validation and the forms of their
identifiers. Others are known by their schemas alone. A request that names none may call all of the first scenario's,
since a specialist has them in its weights.

What a policy computed of a conversation is kept under the digest of what was said and done, and handed out once: who
asks for a second turn after the same messages has it computed anew.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson

from toolenv.agents.conversations import open_messages
from toolenv.agents.logged_tools import logged_toolbox
from toolenv.agents.policy import kept_rng
from toolenv.agents.serving.refusal import unfit
from toolenv.agents.serving.wire import ChatRequest, Turn
from toolenv.agents.trajectory import Step, messages_of_step, recordable
from toolenv.envs.actions import Answer
from toolenv.envs.turn import Message
from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import DeclarationError, RecordError
from toolenv.tools.toolbox import Toolbox

Memory = dict[str, Any]
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TOOLBOXES = 64
_LITTLE = 4096  # bytes


@dataclass(slots=True)
class ServedConversation:
    """A conversation that a policy is asked to go on with."""

    messages: list[Message]
    toolbox: Toolbox
    memory: Memory = field(default_factory=dict)
    trial: int = 0

    def view(self, key: str, *, trial: int | None = None) -> ServedConversation:
        """The same conversation as a policy within a policy sees it; see `Episode.view`."""
        memory = self.memory.setdefault(key, {})
        return ServedConversation(self.messages, self.toolbox, memory, self.trial if trial is None else trial)

    def rng(self, purpose: str) -> Random:
        """A generator for this conversation and purpose, made at its first use and kept."""
        return kept_rng(self.memory, 0, self.trial, purpose)


class Conversations:
    """Reads requests, and keeps what was computed between the turns of a conversation.

    Args:
        own: the toolboxes of the scenarios that the policy was trained for, as far as they are known.
        most_bytes: that are kept. What was answered goes first, then what was longest without a turn.

    Attributes:
        kept_bytes: that are.
    """

    def __init__(self, own: Sequence[Toolbox], most_bytes: int) -> None:
        self._own, self._most_bytes, self.kept_bytes = own, most_bytes, 0
        self._functions = [{spec.name: _function(spec.to_openai()) for spec in toolbox.specs} for toolbox in own]
        self._toolboxes: OrderedDict[bytes, Toolbox] = OrderedDict()
        self._memories: OrderedDict[bytes, Memory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._memories)

    def opened(self, request: ChatRequest) -> ServedConversation:
        """The conversation that a request is about, with what was computed of it.

        Raises:
            Refused: names the field and the rule it breaks.
        """
        try:
            toolbox = self._toolbox(request.tools or [])
            messages = open_messages(request.messages)
        except (RecordError, DeclarationError) as error:
            raise unfit(str(error), param=str(error).partition(":")[0]) from None
        said = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
        key = _key(toolbox, messages[: said + 1])
        return ServedConversation(messages, toolbox, self._taken(key) or {})

    def keep(self, conversation: ServedConversation, turn: Turn) -> None:
        """Keep what was computed for who goes on after this turn."""
        if turn.cut:
            return
        step = Step(recordable(turn.action), "", None, None, 0.0, turn.text, ())
        said = messages_of_step(step, 1)[0]
        key = _key(conversation.toolbox, [*conversation.messages, said])
        self._taken(key)
        self._memories[key] = conversation.memory
        self.kept_bytes += _bytes(conversation.memory)
        if isinstance(turn.action, Answer):
            self._memories.move_to_end(key, last=False)
        while self.kept_bytes > self._most_bytes:
            self._taken(next(iter(self._memories)))

    def _taken(self, key: bytes) -> Memory | None:
        memory = self._memories.pop(key, None)
        if memory is not None:
            self.kept_bytes -= _bytes(memory)
        return memory

    def _toolbox(self, tools: list[Json]) -> Toolbox:
        if not tools:
            return self._own[0] if self._own else Toolbox(())
        key = hashlib.blake2b(orjson.dumps(tools, option=orjson.OPT_SORT_KEYS)).digest()
        if (toolbox := self._toolboxes.pop(key, None)) is None:
            toolbox = self._made(tools)
        self._toolboxes[key] = toolbox
        while len(self._toolboxes) > _TOOLBOXES:
            self._toolboxes.popitem(last=False)
        return toolbox

    def _made(self, tools: list[Json]) -> Toolbox:
        logged = logged_toolbox(tools)
        for name in logged.names:
            if not _NAME.fullmatch(name):
                raise RecordError("tools: a name has 1 to 64 letters, digits, _ and -")
        theirs = {function["name"]: function for function in map(_function, tools)}
        known = [{name for name, told in theirs.items() if own.get(name) == told} for own in self._functions]
        best = max(range(len(known)), key=lambda i: len(known[i]), default=None)
        if best is None:
            return logged
        own, names = self._own[best], known[best]
        if names == set(own.names) and logged.names == own.names:
            return own
        return Toolbox((own[tool.name] if tool.name in names else tool for tool in logged), own.shown_identifiers)


def _bytes(memory: Memory) -> int:
    """Keys and values are nearly all of it; what else there is counts as a little."""
    parts = (_bytes(part) if isinstance(part, dict) else getattr(part, "nbytes", 0) for part in memory.values())
    return _LITTLE + sum(parts)


def _function(tool: Json) -> dict[str, Json]:
    """What tells a tool from another of its name, as JSON has it."""
    function = tool.get("function", tool)
    told = {name: function.get(name) for name in ("name", "description", "parameters")}
    read: dict[str, Json] = orjson.loads(orjson.dumps(told))
    return read


def _key(toolbox: Toolbox, messages: Sequence[Message]) -> bytes:
    """Of what was said and done up to the agent's last turn. Its thoughts do not count: few clients send them back."""
    told = [[m["role"], [call["function"] for call in m.get("tool_calls", ())] or m["content"]] for m in messages]
    return hashlib.blake2b(json_text([toolbox.version, told]).encode()).digest()
