"""Who closes a sandbox that several environments use: the last of them."""

from __future__ import annotations

import threading
from weakref import WeakSet

from toolenv.tools.sandbox.contract import Sandbox

_LOCK = threading.Lock()


class Lease:
    """A sandbox and its users. One that is let go without a word counts as gone when the next one leaves."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._users: WeakSet[object] = WeakSet()

    def join(self, user: object) -> None:
        """Keep the sandbox open for `user`."""
        with _LOCK:
            self._users.add(user)

    def leave(self, user: object) -> None:
        """`user` needs it no more; closes the sandbox if nobody else does. Once is enough, twice does no harm."""
        with _LOCK:
            left = user in self._users
            self._users.discard(user)
            last = left and not self._users
        if last:
            self._sandbox.close()
