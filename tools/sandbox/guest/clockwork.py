"""The same result on every run: a clock that stands still, and chance that follows from a seed."""

from __future__ import annotations

import datetime
import os
import random
import time
from collections.abc import Callable
from datetime import date as RealDate  # noqa: N812  the name says what it is not
from datetime import datetime as RealDatetime  # noqa: N812
from typing import Any, Final

NOON: Final = 1_773_576_000.0  # 2026-03-15 12:00 UTC, where the world's own clock stands
_CHANCE: Final = random.Random("toolenv")


class _Clock:
    """Stands still but for `sleep`, which passes at once."""

    def __init__(self) -> None:
        self.now = NOON

    def sleep(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        self.now += seconds


def install() -> None:
    """Replace what tells the time or draws by chance, in this interpreter."""
    clock = _Clock()
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        origin = 0.0 if name == "time" else NOON
        setattr(time, name, _telling(clock, origin))
        setattr(time, f"{name}_ns", _telling_ns(clock, origin))
    setattr(time, "sleep", clock.sleep)  # noqa: B010  mypy knows its exact type
    for name in ("gmtime", "localtime", "ctime"):
        setattr(time, name, _of_clock(clock, getattr(time, name)))
    strftime, localtime, asctime = time.strftime, time.localtime, time.asctime
    time.strftime = lambda form, t=None: strftime(form, localtime() if t is None else t)
    time.asctime = lambda t=None: asctime(localtime() if t is None else t)
    _stop_datetime(clock)
    os.urandom = _CHANCE.randbytes
    random._urandom = _CHANCE.randbytes  # type: ignore[attr-defined]  # SystemRandom, secrets and uuid draw from it
    _seed_by_default()
    random.seed(0)
    os.getpid = os.getppid = lambda: 1


def _telling(clock: _Clock, origin: float) -> Callable[[], float]:
    return lambda: clock.now - origin


def _telling_ns(clock: _Clock, origin: float) -> Callable[[], int]:
    return lambda: round((clock.now - origin) * 1e9)


def _of_clock(clock: _Clock, function: Callable[[float], Any]) -> Callable[..., Any]:
    return lambda seconds=None: function(clock.now if seconds is None else seconds)


def _stop_datetime(clock: _Clock) -> None:
    """`datetime.datetime` and `date` that ask the clock; the classes stay what isinstance says they are."""

    class _Meta(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, RealDatetime if cls.__name__ == "datetime" else RealDate)

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, RealDatetime if cls.__name__ == "datetime" else RealDate)

    class date(RealDate, metaclass=_Meta):  # noqa: N801  the standard library's name
        @classmethod
        def today(cls) -> Any:
            return RealDatetime.fromtimestamp(clock.now, datetime.UTC).date()

        def __repr__(self) -> str:
            return f"datetime.{super().__repr__()}"

    class datetime_(RealDatetime, metaclass=_Meta):  # noqa: N801  the standard library's name
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            moment = cls.fromtimestamp(clock.now, datetime.UTC)
            return moment.replace(tzinfo=None) if tz is None else moment.astimezone(tz)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now()

        def __repr__(self) -> str:
            return f"datetime.{super().__repr__()}"

    datetime_.__name__ = datetime_.__qualname__ = "datetime"
    for made in (date, datetime_):
        made.__module__ = "datetime"
    datetime.date, datetime.datetime = date, datetime_  # type: ignore[misc]  # that is the point


def _seed_by_default() -> None:
    """A generator that is given no seed gets the next of a fixed sequence, not the system's chance."""
    seed = random.Random.seed

    def seeded(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed(self, _CHANCE.getrandbits(64) if a is None else a, version)

    random.Random.seed = seeded  # type: ignore[method-assign]  # that is the point
    random.seed = random._inst.seed
