"""Which conversation does a request go on with? The one whose messages its own messages begin with.

Chat endpoints keep nothing: an agent sends the whole conversation each time, so each request holds the earlier one, the
reply, and what is new. Conversations are found by a hash over the messages up to their end. Two requests from one point
can not both go on with it: the second opens a conversation of its own, and so does whoever goes back, or cuts off the
beginning.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import orjson

from toolenv.agents.recorded_replies import field

_T = TypeVar("_T")
_START = 0


class OpenConversations(Generic[_T]):
    """Conversations that may go on, by where they end; the oldest is given up when there are too many.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int = 1_000) -> None:
        self._most = most
        self._open: OrderedDict[Hashable, list[_T]] = OrderedDict()

    def take(self, messages: Sequence[Any], scope: str = "") -> tuple[_T | None, int, int]:
        """The longest conversation that the messages go on with, which is open no longer; how many messages it has,
        and the hash of all messages.
        """
        hashes = [_START]
        for message in messages:
            hashes.append(extended(hashes[-1], message))
        for known in range(len(messages), 0, -1):
            if (waiting := self._open.get((scope, hashes[known]))) is not None:
                found = waiting.pop()
                if not waiting:
                    del self._open[scope, hashes[known]]
                return found, known, hashes[-1]
        return None, 0, hashes[-1]

    def put(self, conversation: _T, end: int, scope: str = "") -> None:
        """Keep a conversation that ends in a hash."""
        self._open.setdefault((scope, end), []).append(conversation)
        self._open.move_to_end((scope, end))
        if len(self._open) > self._most:
            self._open.popitem(last=False)

    def newest_first(self) -> Iterator[_T]:
        return (conversation for waiting in reversed(self._open.values()) for conversation in reversed(waiting))

    def forget(self, scope: str) -> None:
        """Give up those of a scope."""
        for key in [key for key in self._open if isinstance(key, tuple) and key[0] == scope]:
            del self._open[key]

    def clear(self) -> None:
        self._open.clear()


def extended(so_far: int, message: Any) -> int:
    """The hash of a conversation with one more message."""
    return hash((so_far, _key(message)))


def _key(message: Any) -> Hashable:
    """What makes a message the same, whether it is an object of a client or a mapping that an agent made of it."""
    if isinstance(message, dict):
        get = message.get
        role, content, calls = get("role"), get("content"), get("tool_calls")
        answered, function = get("tool_call_id"), get("function_call")
    else:
        names = ("role", "content", "tool_calls", "tool_call_id", "function_call")
        role, content, calls, answered, function = (field(message, name) for name in names)
    called = tuple((field(call, "id"), *_named(field(call, "function"))) for call in calls) if calls else ()
    return role, _text(content), called, answered, None if function is None else _named(function)


def _named(function: Any) -> tuple[Hashable, Hashable]:
    return field(function, "name"), _text(field(function, "arguments"))


def _text(content: Any) -> Hashable:
    if content is None or isinstance(content, str):
        return content or ""
    return orjson.dumps(content, default=repr, option=orjson.OPT_NON_STR_KEYS)
