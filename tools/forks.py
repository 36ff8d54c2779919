"""What a fork of this process must not share with it: sockets, by whose end others see whether their owner lives.

A fork that kept a copy of one would keep what hangs on it alive after the owner's death, and two processes that ask on
the same connection read each other's replies.
"""

from __future__ import annotations

import os
from typing import Final, Protocol
from weakref import WeakSet


class Owned(Protocol):
    """Something that belongs to the process that made it."""

    def abandon(self) -> None:
        """In a fork, let go of what is the parent's without touching it. Other threads' locks may be held for ever."""


_OWNED: Final[WeakSet[Owned]] = WeakSet()


def abandon_in_forks(thing: Owned) -> None:
    """Call `thing.abandon()` in every fork of this process, as long as `thing` lives."""
    _OWNED.add(thing)


def _abandon_all() -> None:
    for thing in list(_OWNED):
        thing.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
