"""Interpreters in locked-down processes of this machine: the worker's side of `guest`."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Final

import orjson

from toolenv.tools.errors import OperatorError, SandboxLost
from toolenv.tools.forks import abandon_in_forks
from toolenv.tools.interpreter.session import Cell, Crashed, Outcome, TimedOut
from toolenv.tools.sandbox.limits import Limits

_GUEST: Final = Path(__file__).with_name("guest")
_SUPERVISOR_SECONDS: Final = 10.0
_GRACE: Final = 0.1
_ESCAPED: Final = 6  # a character may take as many bytes in JSON, and half a one as many characters in what is shown
_MARK: Final = 100  # what stands behind output that was cut
_MOST_EXCEPTION: Final = 4_000  # its message is cut at 500, its name at 100


class SandboxUnavailable(OperatorError):
    """What the sandbox promises can not be had here: of the kernel, for want of a package, or in a forked process."""


class Supervisor:
    """The process that forks interpreters; see `guest.supervisor`. It ends when this object's socket is closed.

    Args:
        channel: a socket to one that runs; None starts one.

    Raises:
        SandboxUnavailable: the kernel lacks what locks interpreters in.
        SandboxLost: it does not start.
    """

    def __init__(self, channel: socket.socket | None = None) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        if channel is None:
            channel, self._process = _start()
        self.lost = False
        self._channel = channel
        self._channel.settimeout(_SUPERVISOR_SECONDS)
        # An environment may be let go without a word.
        self._end = weakref.finalize(self, _end, channel, self._process)
        try:
            first = self._receive()[0]
            if "unavailable" in first:
                raise SandboxUnavailable(
                    f"agent-written code can not be contained on this machine: {first['unavailable']}. Other"
                    ' sandboxes are "docker", and "monty" for a subset of Python (pip install \'toolenv[monty]\');'
                    " `toolenv sandbox doctor` says more"
                )
        except BaseException:
            self.close()
            raise
        self.level: dict[str, Any] = first["ready"]

    def spawn(self, limits: Limits) -> tuple[int, socket.socket]:
        """A new interpreter: its number, and its socket."""
        answer, descriptors = self._ask({"op": "spawn", "limits": limits.for_guest()})
        if not descriptors:
            raise SandboxLost(f"the supervisor gave no interpreter: {answer}")
        return answer["guest"], socket.socket(fileno=descriptors[0])

    def end(self, guest: int, grace: float = 0.0) -> dict[str, Any]:
        """End an interpreter: `killed`, and its `status` as `os.waitpid` gives it."""
        return self._ask({"op": "end", "guest": guest, "grace": grace})[0]

    def close(self) -> None:
        """End it and all its interpreters."""
        self._end()

    def abandon(self) -> None:
        """Let go of it, which goes on in the process that started it."""
        self._end.detach()
        self._channel.close()
        if self._process is not None:
            self._process.returncode = 0  # of no child of ours nothing can be known

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        with self._lock:
            try:
                self._channel.sendall(orjson.dumps(request))
                return self._receive()
            except OSError as error:
                self.lost = True
                raise SandboxLost(f"the supervisor of the interpreters is gone: {error}") from None
            except SandboxLost:
                self.lost = True
                raise

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, 1 << 16, 1)
        except OSError as error:
            raise SandboxLost(f"the supervisor of the interpreters is gone: {error}") from None
        if not message:
            raise SandboxLost("the supervisor of the interpreters has ended")
        return orjson.loads(message), descriptors


def _end(channel: socket.socket, process: subprocess.Popen[bytes] | None) -> None:
    channel.close()
    if process is not None:
        try:
            process.wait(_SUPERVISOR_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = f"import sys; sys.path.insert(0, {str(_GUEST.parent)!r}); from guest.supervisor import main; main()"
    with there:
        process = subprocess.Popen(
            [sys.executable, "-S", "-s", "-P", "-c", code, str(there.fileno())],
            env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    return here, process


class LocalInterpreters:
    """Opens interpreters on this machine; starts their supervisor when the first is opened.

    Args:
        limits: of each.
        channel: to a supervisor that runs already.
    """

    def __init__(self, limits: Limits, channel: socket.socket | None = None) -> None:
        self.limits = limits
        self._given = channel
        self._lock = threading.Lock()
        self._supervisor: Supervisor | None = None
        abandon_in_forks(self)

    @property
    def level(self) -> str:
        if sys.platform != "linux":
            return "nothing, so that none starts"
        from toolenv.tools.sandbox.guest import lockdown

        return lockdown.level()

    @property
    def supervisor(self) -> Supervisor:
        """One that is known to be lost is replaced."""
        with self._lock:
            if self._supervisor is not None and self._supervisor.lost:
                self._supervisor.close()
                self._supervisor = None
            if self._supervisor is None:
                self._supervisor = Supervisor(self._given)
            return self._supervisor

    def open(self) -> LocalInterpreter:
        """A new interpreter.

        Raises:
            SandboxUnavailable: the kernel lacks what locks it in.
            SandboxLost: it does not start. The next one may.
        """
        supervisor = self.supervisor
        try:
            guest, channel = supervisor.spawn(self.limits)
        except SandboxLost:
            self.close()
            raise
        return LocalInterpreter(supervisor, guest, channel, self.limits)

    def close(self) -> None:
        """End all interpreters."""
        with self._lock:
            supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.close()

    def abandon(self) -> None:
        """Start a supervisor of its own in a fork."""
        self._lock = threading.Lock()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.abandon()


class LocalInterpreter:
    """One interpreter."""

    def __init__(self, supervisor: Supervisor, guest: int, channel: socket.socket, limits: Limits) -> None:
        self._supervisor, self._guest, self._channel, self._limits = supervisor, guest, channel, limits
        # Of one that is let go without a word, the socket tells it to leave: the supervisor may be in use.
        weakref.finalize(self, channel.close)
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._open = True
        self._most_bytes = _ESCAPED * (limits.all_bytes + 2 * limits.output) + 100_000

    def run(self, cell: Cell) -> Outcome:
        """Run a cell.

        Raises:
            TimedOut, Crashed: the cell took too long, or ended the interpreter, which is of no more use.
            SandboxLost: something else ended it.
        """
        nonce = secrets.token_hex(8)
        request = {"nonce": nonce, "code": cell.code, "name": cell.name, "fresh": cell.fresh, "files": cell.files}
        deadline = time.monotonic() + self._limits.seconds
        try:
            self._send(orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE), deadline)
            reply = orjson.loads(self._line(deadline))
            return _outcome(reply, nonce, self._limits)
        except (OSError, ValueError, KeyError, TypeError):
            self._give_up()
            raise Crashed from None
        except TimedOut:
            self._end()
            raise

    def close(self) -> None:
        with contextlib.suppress(SandboxLost):  # with its supervisor, an interpreter has ended
            self._end()

    def _end(self) -> None:
        if not self._open:
            return
        self._open = False
        self._channel.close()
        self._supervisor.end(self._guest)

    def _give_up(self) -> None:
        """End an interpreter that broke off or made no sense.

        Raises:
            SandboxLost: it was killed from outside; agent-written code can not do that to itself.
        """
        self._open = False
        self._channel.close()
        end = self._supervisor.end(self._guest, _GRACE)
        status = end["status"]
        if not end["killed"] and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            raise SandboxLost("an interpreter was killed from outside")

    def _send(self, data: bytes, deadline: float) -> None:
        self._channel.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            self._channel.sendall(data)
        except TimeoutError:
            raise TimedOut from None

    def _line(self, deadline: float) -> bytes:
        """The reply. Raises ValueError if it is too long, or if anything stands behind it."""
        parts, size = [], 0
        while True:
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1_000):
                raise TimedOut
            part = self._channel.recv(1 << 18)
            size += len(part)
            if not part or size > self._most_bytes:
                raise ValueError
            parts.append(part)
            if b"\n" in part:
                return b"".join(parts)


def _outcome(reply: Any, nonce: str, limits: Limits) -> Outcome:
    """What a reply says. Raises ValueError, KeyError or TypeError if its form is wrong: see `Outcome`."""
    if reply["nonce"] != nonce:
        raise ValueError
    outcome = Outcome.of_untrusted(reply)
    # An honest interpreter keeps to these by itself.
    if len(outcome.output) > _ESCAPED * limits.output + _MARK or len(outcome.exception or "") > _MOST_EXCEPTION:
        raise ValueError
    return outcome
