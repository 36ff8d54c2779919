"""Sessions in a worker elsewhere: the host's side of `worker`."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import asdict
from typing import Final, Protocol

import orjson

from toolenv.tools.calls import Effect, Json, ToolResult
from toolenv.tools.errors import OperatorError, SandboxLost
from toolenv.tools.forks import abandon_in_forks
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.sandbox.worker import decode_change
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import RowChange, WorldImage, WorldSnapshot


class Line(Protocol):
    """A connection to a worker, line by line."""

    def send(self, data: bytes) -> None:
        """Raises OSError if it is broken."""

    def receive(self) -> bytes:
        """The next line. Raises OSError if it is broken or takes too long."""

    def drop(self) -> None:
        """Let go of this end of the connection."""

    def close(self) -> None:
        """End the worker."""


_OPENED: Final = {"open": 1, "fork": 1, "close": -1}


class RemoteWorker:
    """A worker, and the sessions that live in it. Safe to share between threads.

    Attributes:
        name: such as its container's id.
        lost: whether it failed once; then it is of no more use.
        sessions: how many are open.
        level: what keeps its interpreters in, as it said when it was last pinged.
    """

    def __init__(self, line: Line, name: str = "worker") -> None:
        self._line, self.name = line, name
        self._lock = threading.Lock()
        self._images: dict[str, WorldImage] = {}
        self.lost = False
        self.sessions = 0
        self.level = ""
        abandon_in_forks(self)

    def ask(self, op: str, **request: Json) -> dict[str, Json]:
        """The reply to a request. "ping" also makes sure that the worker keeps no session that was closed.

        Raises:
            SandboxLost: the worker, or what it stands on, has failed.
        """
        data = orjson.dumps({"op": op, **request}, option=orjson.OPT_APPEND_NEWLINE)
        with self._lock:
            if self.lost:
                raise SandboxLost("the worker was lost, or is another process's")
            try:
                self._line.send(data)
                reply: dict[str, Json] = orjson.loads(self._line.receive())
                problem = reply.get("lost") or reply.get("failed")
                self.sessions += _OPENED.get(op, 0)
                if op == "ping" and reply["sessions"] != self.sessions:
                    problem = "the worker kept sessions that were closed"
                self.level = reply.get("level", self.level)
            except (OSError, ValueError, KeyError, AttributeError) as error:
                problem = f"the worker broke off: {error}"
            if problem:
                self.abandon()
                raise SandboxLost(problem)
            return reply

    def open(self, image: WorldImage, toolbox: Toolbox, limits: Limits) -> RemoteSession:
        """A session on a fresh world.

        Raises:
            SandboxLost: see `ask`.
            OperatorError: the worker has other versions of the tools.
        """
        names = [[tool.function.__module__, tool.function.__qualname__] for tool in toolbox]
        opened = self.ask("open", image=self._send(image), tools=names, limits=asdict(limits))
        if opened["version"] != toolbox.version:
            self.ask("close", session=opened["session"])
            raise OperatorError("the sandbox's image holds other versions of the tools: `toolenv sandbox build`")
        return RemoteSession(self, opened["session"], toolbox)

    def close(self) -> None:
        """End it."""
        self.lost = True
        self._line.close()

    def abandon(self) -> None:
        """Use it no more. Whether it ends is for who started it to see to."""
        self.lost = True
        self._lock = threading.Lock()  # whoever waits for the old one sees that it is lost
        self._line.drop()

    def image(self, key: str) -> WorldImage:
        return self._images[key]

    def _send(self, image: WorldImage) -> str:
        """Make sure that the worker has an image; its key."""
        key = _key(image)
        if key not in self._images:
            self.ask("image", key=key, name=image.name, data=base64.b64encode(image.data).decode())
            self._images[key] = image
        return key

    def send_snapshot(self, snapshot: WorldSnapshot) -> dict[str, Json]:
        """A snapshot as the fields of a request."""
        return {
            "image": self._send(snapshot.image),
            "data": base64.b64encode(snapshot.data).decode(),
            "changes": base64.b64encode(snapshot.changes).decode(),
            "digest": snapshot.digest,
        }


class RemoteSession:
    """A session in a worker."""

    def __init__(self, worker: RemoteWorker, number: int, toolbox: Toolbox) -> None:
        self._worker, self._number, self._toolbox = worker, number, toolbox
        self._open = True

    @property
    def worker(self) -> RemoteWorker:
        return self._worker

    def call(self, name: str, arguments: Json) -> ToolResult:
        """Validate and run one call."""
        if (refused := self._toolbox.refused(name, arguments)) is not None:
            return refused
        reply = self._worker.ask("call", session=self._number, name=name, arguments=arguments)
        text, effect = reply["text"], reply["effect"]
        return ToolResult(_loads(text), text, None if effect is None else Effect(effect), reply["error"])

    def fork(self) -> RemoteSession:
        return RemoteSession(self._worker, self._worker.ask("fork", session=self._number)["session"], self._toolbox)

    def snapshot(self) -> WorldSnapshot:
        reply = self._worker.ask("snapshot", session=self._number)
        data, changes = base64.b64decode(reply["data"]), base64.b64decode(reply["changes"])
        return WorldSnapshot(self._worker.image(reply["image"]), data, changes, reply["digest"])

    def restore(self, snapshot: WorldSnapshot) -> None:
        self._worker.ask("restore", session=self._number, **self._worker.send_snapshot(snapshot))

    def digest(self) -> str:
        digest: str = self._worker.ask("digest", session=self._number)["digest"]
        return digest

    def diff(self) -> tuple[RowChange, ...]:
        return tuple(decode_change(row) for row in self._worker.ask("diff", session=self._number)["rows"])

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        if not self._worker.lost:
            try:
                self._worker.ask("close", session=self._number)
            except SandboxLost:
                return  # the contract: what is lost may be closed


_KEY_BYTES: Final = 16


def _key(image: WorldImage) -> str:
    return hashlib.blake2b(image.name.encode() + b"\0" + image.data, digest_size=_KEY_BYTES).hexdigest()


def _loads(text: str) -> Json:
    try:
        return orjson.loads(text)
    except ValueError:  # what only Python's own JSON can say: halves of characters, huge numbers
        return json.loads(text)
