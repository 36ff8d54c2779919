"""Who may ask, and how much at once: keys, requests a minute, and requests under way."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from toolenv.agents.serving.refusal import Refused
from toolenv.agents.serving.settings import Keys

NOBODY = "-"
_BEARER = "bearer "
_MINUTE = 60.0


class Allowance:
    """So many requests within any 60 seconds.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken: deque[float] = deque(maxlen=per_minute)

    def take(self) -> float:
        """Take one: 0 if there was one, else the seconds until there is."""
        now = self._clock()
        if len(self._taken) == self._taken.maxlen and now - self._taken[0] < _MINUTE:
            return _MINUTE - (now - self._taken[0])
        self._taken.append(now)
        return 0.0


class Gate:
    """Lets requests in.

    Args:
        per_minute: requests of one key; None is no limit.
        most: requests under way.

    Attributes:
        inside: how many are under way.
    """

    def __init__(self, keys: Keys, *, per_minute: int | None, most: int) -> None:
        self._keys, self._per_minute, self._most = keys, per_minute, most
        self._allowances: dict[str, Allowance] = {}
        self.inside = 0

    def owner(self, authorization: str | None) -> str:
        """Whose key the header holds; nobody's if none is needed.

        Raises:
            Refused: none is there, or nobody's.
        """
        if not self._keys:
            return NOBODY
        given = authorization or ""
        name = self._keys.owner(given[len(_BEARER) :].strip()) if given.lower().startswith(_BEARER) else None
        if name is None:
            problem = "this key is not known here" if given else "a key is needed: Authorization: Bearer KEY"
            raise Refused(HTTPStatus.UNAUTHORIZED, "invalid_api_key", problem)
        return name

    @contextmanager
    def entered(self, owner: str) -> Iterator[None]:
        """A place among the requests under way.

        Raises:
            Refused: there is none, or the owner has asked too often.
        """
        if self.inside >= self._most:
            message = f"{self._most} requests are under way already"
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests", message, retry_after=1)
        if self._per_minute is not None:
            allowance = self._allowances.setdefault(owner, Allowance(self._per_minute))
            if (wait := allowance.take()) > 0:
                message = f"more than {self._per_minute} requests a minute"
                raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_exceeded", message, retry_after=math.ceil(wait))
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
