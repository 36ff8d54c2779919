"""Forks locked-down interpreters on request, and ends them. It never runs agent-written code itself.

It serves one worker, which holds the worlds and calls the tools, over a socket of JSON messages:

    {"op": "spawn", "limits": {...}}  -> {"guest": number} and, as a descriptor, the interpreter's socket
    {"op": "end", "guest": number, "grace": seconds}  -> {"killed": bool, "status": as `os.waitpid` gives it}

An interpreter gets `grace` to end by itself, for one that broke its socket off; then it is killed.

The first message it sends by itself: {"ready": {"landlock": version}}, or {"unavailable": reason}, and then it ends.
When the worker's socket closes, all interpreters die and the supervisor ends.

    supervisor SOCKET               the worker has started it, and holds the other end
    supervisor --worker COMMAND...  it starts the worker, as in a container; TOOLENV_SUPERVISOR is the worker's end
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from typing import Any, Final

from . import lockdown
from .interpreter import Interpreter, serve

MOST_GUESTS: Final = 4_096
# Loaded once, and shared by every interpreter: the libraries that some of them need lie where none of those can read.
PRELOADED: Final = (
    "abc argparse array ast base64 binascii bisect bz2 calendar cmath codecs collections contextlib copy csv decimal"
    " dataclasses datetime difflib enum fractions functools glob gzip hashlib heapq html io itertools json logging lzma"
    " math numbers operator pathlib pprint queue random re secrets shlex shutil sqlite3 statistics string struct"
    " tempfile textwrap time traceback types typing unicodedata urllib.parse uuid xml.etree.ElementTree zipfile zlib"
).split()
_DESCRIPTORS: Final = 64


class Supervisor:
    """One worker's interpreters.

    Args:
        worker: the socket on which the worker asks.
    """

    def __init__(self, worker: socket.socket) -> None:
        self._worker = worker
        self._guests: dict[int, int] = {}
        self._count = 0
        self._ruleset = lockdown.make_ruleset(_readable())
        self._filter = lockdown.make_filter()

    def serve(self) -> None:
        """Until the worker is gone."""
        self._worker.sendall(_message({"ready": {"landlock": lockdown.landlock_version()}}))
        try:
            while message := self._worker.recv(1 << 16):
                self._answer(json.loads(message))
        finally:
            for guest in list(self._guests):
                self._end(guest, grace=0)

    def _answer(self, request: Mapping[str, Any]) -> None:
        if request["op"] == "spawn":
            here, there = socket.socketpair()
            with here, there:
                guest = self._spawn(here, there, request["limits"])
                socket.send_fds(self._worker, [_message({"guest": guest})], [here.fileno()])
        else:
            self._worker.sendall(_message(self._end(request["guest"], request["grace"])))

    def _spawn(self, here: socket.socket, there: socket.socket, limits: Mapping[str, int]) -> int:
        if len(self._guests) >= MOST_GUESTS:
            raise RuntimeError(f"{MOST_GUESTS} interpreters are running already")
        supervisor = os.getpid()
        process = os.fork()
        if process == 0:
            status = 1
            try:
                here.close()
                _become_guest(there.fileno(), self._ruleset, self._filter, limits, supervisor)
                status = 0
            finally:
                os._exit(status)
        self._count += 1
        self._guests[self._count] = process
        return self._count

    def _end(self, guest: int, grace: float) -> dict[str, Any]:
        process = self._guests.pop(guest)
        deadline = time.monotonic() + grace
        while not (ended := os.waitpid(process, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.001)
        if ended[0]:
            return {"killed": False, "status": ended[1]}
        os.kill(process, signal.SIGKILL)
        return {"killed": True, "status": os.waitpid(process, 0)[1]}


def _become_guest(channel: int, ruleset: int, program: bytes, limits: Mapping[str, int], supervisor: int) -> None:
    """What a fork does until its end: give up everything, then run cells."""
    os.setsid()
    lockdown.be_killed_first()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    channel, ruleset = _move_down(channel, ruleset)
    os.closerange(5, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    interpreter = Interpreter(limits)
    lockdown.lock_down(
        ruleset,
        program,
        {
            resource.RLIMIT_AS: limits["memory"],
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_NOFILE: _DESCRIPTORS,
            resource.RLIMIT_NPROC: 0,
            resource.RLIMIT_MEMLOCK: 0,
        },
        supervisor,
    )
    serve(channel, interpreter)


def _move_down(*descriptors: int) -> list[int]:
    """The same descriptors as 3, 4, ..."""
    high = [os.dup(os.dup(os.dup(descriptor))) for descriptor in descriptors]
    return [os.dup2(descriptor, 3 + place) for place, descriptor in enumerate(high)]


def _readable() -> list[str]:
    """The standard library, piece by piece, for what is installed into it does not belong to it."""
    found = []
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        for name in sorted(os.listdir(folder)):
            if name not in ("site-packages", "dist-packages", "test", "idlelib", "ensurepip"):
                found.append(os.path.join(folder, name))
    return found


def _message(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode()


def _start_worker(command: list[str]) -> socket.socket:
    """Start the process that holds the worlds; this end of its socket."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        environment = {**os.environ, "TOOLENV_SUPERVISOR": str(there.fileno())}
        subprocess.Popen(command, env=environment, pass_fds=[there.fileno()])
    return here


def main() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    starts_worker = sys.argv[1] == "--worker"
    worker = _start_worker(sys.argv[2:]) if starts_worker else socket.socket(fileno=int(sys.argv[1]))
    lockdown.hide_from_others()
    try:
        supervisor = Supervisor(worker)
    except lockdown.LockdownUnavailable as error:
        worker.sendall(_message({"unavailable": str(error)}))
        return
    # What is loaded now is shared by all forks; the collector must not touch, and so copy, it.
    gc.collect()
    gc.freeze()
    supervisor.serve()
