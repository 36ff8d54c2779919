"""The monty backend: worlds and tools in this process, agent-written Python in Monty, an interpreter written in Rust.

Monty (https://github.com/pydantic/monty) runs a subset of Python that has no way to a file, a process or a network: the
host answers every such call, here from files in memory. Each interpreter is a process of its own, so that one that
crashes harms nothing, on any system for which the package `pydantic-monty` is built. What the subset lacks (`yield`,
inheritance, `del`, most of the standard library) is an exception that names it, and an observation.
"""

from __future__ import annotations

import ast
import os
import random
import threading
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Final

from toolenv.tools.errors import SandboxLost
from toolenv.tools.forks import abandon_in_forks
from toolenv.tools.interpreter.session import Cell, Crashed, Outcome, TimedOut
from toolenv.tools.sandbox.embedded import EmbeddedSandbox
from toolenv.tools.sandbox.guest.clockwork import NOON
from toolenv.tools.sandbox.guest.files import HOME, Files
from toolenv.tools.sandbox.guest.interpreter import Output, changes, described
from toolenv.tools.sandbox.interpreters import SandboxUnavailable
from toolenv.tools.sandbox.limits import Limits

try:
    from pydantic_monty import (
        AbstractOS,
        Monty,
        MontyComplete,
        MontyCrashedError,
        MontyError,
        MontyFileHandle,
        MontyRuntimeError,
        MontySession,
        MontySyntaxError,
        OSPolicy,
        ResourceLimits,
        StatResult,
    )
except ImportError as error:
    raise SandboxUnavailable("the sandbox 'monty' needs pydantic-monty: pip install 'toolenv[monty]'") from error

_NAME: Final = "<cell>"
_SHOW: Final = "def __show__(value):\n    if value is not None: print(repr(value))"
_GRACE: Final = 0.5  # seconds after which a process that does not keep its limit of time is killed
_MOST_PROCESSES: Final = 4_096
_MOST_CALLS: Final = 2**31  # to the host; their time is limited instead
_INHERITED: Final[list[MontySession]] = []  # by a fork: to let go of one would end that of the parent
_PARSING: Final = threading.Lock()  # what is done about warnings holds for the whole process


class MontySandbox(EmbeddedSandbox):
    """Opens sessions in this process, with Monty for agent-written Python.

    Args:
        limits: of agent-written Python; `memory` is that of its objects.
    """

    name = "monty"

    def __init__(self, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        super().__init__(limits, MontyInterpreters(limits))


class MontyInterpreters:
    """Opens interpreters, from a pool of processes that starts with the first."""

    level = "Monty, a Python without a way out"

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._pool: Monty | None = None
        self._process = os.getpid()

    def open(self) -> MontyInterpreter:
        """A new interpreter.

        Raises:
            SandboxLost: it does not start.
            SandboxUnavailable: this process is a fork of one in which Monty runs already.
        """
        return MontyInterpreter(self._new_session, self.limits)

    def close(self) -> None:
        """End all interpreters."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None and self._process == os.getpid():
            pool.__exit__(None, None, None)

    def _new_session(self) -> MontySession:
        limits = ResourceLimits(
            max_feed_duration_secs=self.limits.seconds, max_memory=self.limits.memory, max_suspensions=_MOST_CALLS
        )
        policy = OSPolicy(datetime=datetime.fromtimestamp(NOON, UTC), sleep="zero", random_start={"seed": 0})
        try:
            with self._lock:
                if self._pool is None:
                    self._pool = Monty(max_processes=_MOST_PROCESSES, feed_duration_limit_grace=_GRACE).__enter__()
                    self._process = os.getpid()
                _require_process(self._process)
            session = self._pool.checkout(script_name=_NAME, limits=limits, os_policy=policy).__enter__()
            session.feed_run(_SHOW, cwd=HOME)
        except (MontyError, OSError, RuntimeError) as error:
            raise SandboxLost(f"Monty does not start: {error}") from None
        return session


class MontyInterpreter:
    """One interpreter.

    Args:
        new_session: a process with variables of its own, that has run one input: `_SHOW`.
    """

    def __init__(self, new_session: Callable[[], MontySession], limits: Limits) -> None:
        self._new_session, self._limits = new_session, limits
        self._files = Files(limits.files, limits.file_bytes, limits.all_bytes)
        self._system = _System(self._files)
        self._output = Output(limits.output)
        self._process = os.getpid()
        self._session, self._inputs = new_session(), 1
        abandon_in_forks(self)

    def run(self, cell: Cell) -> Outcome:
        """Run a cell.

        Raises:
            TimedOut, Crashed: the cell took too long, or ended the interpreter, which is of no more use.
            SandboxLost: something else ended it.
            SandboxUnavailable: this process is a fork of its own.
        """
        _require_process(self._process)
        self._files.put(cell.files)
        known = dict(self._files.contents)
        if cell.fresh:
            session = self._new_session()
            try:
                exception, line = self._feed(session, cell.code, 1)
            finally:
                session.__exit__(None, None, None)
        else:
            exception, line = self._feed(self._session, cell.code, self._inputs)
            self._inputs += 1
        files = changes(known, self._files, self._output)  # before the output, to which it may add
        said = {"output": self._output.take(), "exception": exception, "line": line, "files": files}
        try:
            return Outcome.of_untrusted(said)
        except ValueError:  # a path that no workspace has
            raise Crashed from None

    def close(self) -> None:
        if self._process == os.getpid():
            self._session.__exit__(None, None, None)

    def abandon(self) -> None:
        """In a fork, keep what must not be let go of."""
        _INHERITED.append(self._session)

    def _feed(self, session: MontySession, code: str, number: int) -> tuple[str | None, int | None]:
        """Run code as the input of that number, counted from 0, of a session; the exception and its line."""
        deadline = time.monotonic() + self._limits.seconds
        try:
            state = session.feed_start(_showing(code), os=self._system, print_callback=self._print)
            while not isinstance(state, MontyComplete):
                if time.monotonic() >= deadline:  # Monty's own clock stands while it is answered
                    raise TimedOut
                state = state.resume_auto()
        except MontyCrashedError as crash:
            if crash.timed_out:
                raise TimedOut from None
            if "SIGKILL" in str(crash):  # agent-written code can not do that to itself
                raise SandboxLost(f"an interpreter was killed from outside: {crash}") from None
            raise Crashed from None
        except (MontyRuntimeError, MontySyntaxError) as error:
            raised = error.exception()
            if isinstance(raised, TimeoutError) and time.monotonic() >= deadline:
                raise TimedOut from None
            if session.worker_pid is None:
                raise Crashed from None
            lines = [frame.line for frame in error.traceback() if frame.filename in (f"<python-input-{number}>", _NAME)]
            return described(raised), min(lines[-1], code.count("\n") + 1) if lines else None
        return None, None

    def _print(self, _stream: str, text: str) -> None:
        self._output.write(text)


def _require_process(number: int) -> None:
    """Refuse a fork of that process: Monty's threads are not in it, and a call would wait for them for ever."""
    if number != os.getpid():
        raise SandboxUnavailable("Monty can not be used in a fork of a process that uses it: spawn one")


def _showing(code: str) -> str:
    """Code that shows the value of its last expression, and has none itself: values do not come to this process."""
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what agents write
            last = ast.parse(code).body[-1:]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return f"{code}\nNone"  # Monty says what is wrong
    if not (last and isinstance(last[0], ast.Expr)):
        return code
    source = code.replace("\r\n", "\n").replace("\r", "\n").encode()
    starts = [0, *accumulate(len(line) + 1 for line in source.split(b"\n"))]
    node = last[0]
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    begin = starts[node.lineno - 1] + node.col_offset
    end = starts[node.end_lineno - 1] + node.end_col_offset
    return (source[:begin] + b"__show__((" + source[begin:end] + b"))" + source[end:]).decode()


class _System(AbstractOS):
    """What Monty asks of the system: files of a tree in memory, no variable, and chance that follows from a seed."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._chance = random.Random("toolenv")

    def path_exists(self, path: PurePosixPath) -> bool:
        return self._files.access(path)

    def path_is_file(self, path: PurePosixPath) -> bool:
        return self._files.access(path) and not self.path_is_dir(path)

    def path_is_dir(self, path: PurePosixPath) -> bool:
        return self._files.access(path) and self._files.is_folder(self._files.path(path))

    def path_is_symlink(self, path: PurePosixPath) -> bool:
        return False

    def path_open(self, path: PurePosixPath, mode: str) -> MontyFileHandle:
        self._files.open(path, mode.replace("t", "").replace("b", "") + "b").close()
        return MontyFileHandle(str(path), mode)

    def path_read_bytes(self, path: PurePosixPath | MontyFileHandle) -> bytes:
        content: bytes = self._files.open(_path(path), "rb").read()
        return content

    def path_read_text(self, path: PurePosixPath | MontyFileHandle) -> str:
        return self.path_read_bytes(path).decode()

    def path_write_bytes(self, path: PurePosixPath | MontyFileHandle, data: bytes) -> int:
        return self._write(path, data, "wb")

    def path_write_text(self, path: PurePosixPath | MontyFileHandle, data: str) -> int:
        self._write(path, data.encode(), "wb")
        return len(data)

    def path_append_bytes(self, path: PurePosixPath | MontyFileHandle, data: bytes) -> int:
        return self._write(path, data, "ab")

    def path_append_text(self, path: PurePosixPath | MontyFileHandle, data: str) -> int:
        self._write(path, data.encode(), "ab")
        return len(data)

    def path_mkdir(self, path: PurePosixPath, parents: bool, exist_ok: bool) -> None:
        if parents and not self.path_exists(path.parent):
            self.path_mkdir(path.parent, parents=True, exist_ok=True)
        if not (exist_ok and self.path_is_dir(path)):
            self._files.mkdir(path)

    def path_unlink(self, path: PurePosixPath) -> None:
        self._files.remove(path)

    def path_rmdir(self, path: PurePosixPath) -> None:
        self._files.rmdir(path)

    def path_iterdir(self, path: PurePosixPath) -> list[PurePosixPath]:
        return [path / name for name in self._files.listdir(path)]

    def path_stat(self, path: PurePosixPath) -> StatResult:
        return StatResult(*self._files.stat(path))

    def path_rename(self, path: PurePosixPath, target: PurePosixPath) -> None:
        self._files.replace(path, target)

    def path_resolve(self, path: PurePosixPath) -> str:
        return str(path)

    def path_absolute(self, path: PurePosixPath) -> str:
        return str(path)

    def getenv(self, key: str, default: str | None = None) -> str | None:
        return default

    def get_environ(self) -> dict[str, str]:
        return {}

    def urandom(self, size: int) -> bytes:
        if size > self.max_urandom_bytes:
            raise MemoryError(f"at most {self.max_urandom_bytes} bytes of chance")
        return self._chance.randbytes(size)

    def _write(self, path: PurePosixPath | MontyFileHandle, data: bytes, mode: str) -> int:
        with self._files.open(_path(path), mode) as file:
            return int(file.write(data))


def _path(path: PurePosixPath | MontyFileHandle) -> str:
    return path.path if isinstance(path, MontyFileHandle) else str(path)
