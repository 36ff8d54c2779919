"""Worlds and tools in a process of their own, served over its standard input and output: what runs in a container.

One line of JSON a request, one a reply, in order. The worker's interpreters come from the supervisor that started it
(`guest.supervisor --worker`), on the socket that TOOLENV_SUPERVISOR numbers. It ends when its input does.

    {"op": "image", "key", "name", "data"}          -> {}
    {"op": "open", "image": key, "tools": [[module, name], ...], "limits": {...}}  -> {"session", "version"}
    {"op": "call", "session", "name", "arguments"}  -> {"text", "effect", "error"}
    {"op": "fork", "session"}                       -> {"session"}
    {"op": "snapshot", "session"}                   -> {"image": key, "data", "changes", "digest"}
    {"op": "restore", "session", "image": key, "data", "changes", "digest"}  -> {}
    {"op": "digest", "session"}                     -> {"digest"}
    {"op": "diff", "session"}                       -> {"rows": [...]}
    {"op": "close", "session"}                      -> {}
    {"op": "ping"}                                  -> {"sessions": how many are open, "level": see `lockdown.level`}

A reply `{"lost": text}` is a SandboxLost, `{"failed": text}` an error of ours.
"""

from __future__ import annotations

import base64
import math
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import orjson

from toolenv.tools.calls import Json
from toolenv.tools.declaration import tool_named
from toolenv.tools.errors import SandboxLost
from toolenv.tools.sandbox.embedded import EmbeddedSandbox, EmbeddedSession
from toolenv.tools.sandbox.guest import lockdown
from toolenv.tools.sandbox.interpreters import LocalInterpreters
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import RowChange, WorldImage, WorldSnapshot


class Worker:
    """Answers requests.

    Args:
        channel: to the supervisor of interpreters.
    """

    def __init__(self, channel: socket.socket | None) -> None:
        self._channel = channel
        self._sandbox: EmbeddedSandbox | None = None
        self._images: dict[str, WorldImage] = {}
        self._keys: dict[int, str] = {}
        self._toolboxes: dict[bytes, Toolbox] = {}
        self._sessions: dict[int, EmbeddedSession] = {}
        self._count = 0

    def answer(self, request: dict[str, Json]) -> dict[str, Json]:
        """The reply to a request; never raises."""
        try:
            operation: Callable[..., dict[str, Json]] = getattr(self, f"_{request.pop('op')}")
            return operation(**request)
        except SandboxLost as error:
            return {"lost": str(error)}
        except Exception:
            return {"failed": traceback.format_exc()}

    def _image(self, key: str, name: str, data: str) -> dict[str, Json]:
        image = WorldImage(base64.b64decode(data), name)
        self._images[key] = image
        self._keys[id(image)] = key
        return {}

    def _open(self, image: str, tools: list[list[str]], limits: dict[str, Any]) -> dict[str, Json]:
        if self._sandbox is None:
            chosen = Limits(**limits)
            self._sandbox = EmbeddedSandbox(chosen, LocalInterpreters(chosen, self._channel))
        key = orjson.dumps(tools)
        if key not in self._toolboxes:
            self._toolboxes[key] = Toolbox(tool_named(module, name) for module, name in tools)
        toolbox = self._toolboxes[key]
        return {**self._keep(self._sandbox.open(self._images[image], toolbox)), "version": toolbox.version}

    def _call(self, session: int, name: str, arguments: Json) -> dict[str, Json]:
        result = self._sessions[session].call(name, arguments)
        return {"text": result.text, "effect": result.effect, "error": result.error}

    def _fork(self, session: int) -> dict[str, Json]:
        return self._keep(self._sessions[session].fork())

    def _snapshot(self, session: int) -> dict[str, Json]:
        snapshot = self._sessions[session].snapshot()
        return {
            "image": self._keys[id(snapshot.image)],
            "data": base64.b64encode(snapshot.data).decode(),
            "changes": base64.b64encode(snapshot.changes).decode(),
            "digest": snapshot.digest,
        }

    def _restore(self, session: int, image: str, data: str, changes: str, digest: str) -> dict[str, Json]:
        world = self._images[image], base64.b64decode(data), base64.b64decode(changes)
        self._sessions[session].restore(WorldSnapshot(*world, digest))
        return {}

    def _digest(self, session: int) -> dict[str, Json]:
        return {"digest": self._sessions[session].digest()}

    def _diff(self, session: int) -> dict[str, Json]:
        return {"rows": [encode_change(change) for change in self._sessions[session].diff()]}

    def _close(self, session: int) -> dict[str, Json]:
        self._sessions.pop(session).close()
        return {}

    def _ping(self) -> dict[str, Json]:
        return {"sessions": len(self._sessions), "level": lockdown.level()}

    def _keep(self, session: EmbeddedSession) -> dict[str, Json]:
        self._count += 1
        self._sessions[self._count] = session
        return {"session": self._count}


def encode_change(change: RowChange) -> list[Json]:
    """A change as JSON; `decode_change` turns it back."""
    rows = [{name: _encoded(value) for name, value in row.items()} for row in (change.key, change.before, change.after)]
    return [change.table, change.op, *rows]


def decode_change(parts: Sequence[Json]) -> RowChange:
    """The change that `encode_change` was given.

    Raises:
        ValueError, TypeError: it is not of that form.
    """
    table, op, *rows = parts
    key, before, after = [{name: _decoded(value) for name, value in row.items()} for row in rows]
    return RowChange(table, op, key, before, after)


def _encoded(value: Any) -> Json:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and math.isinf(value):
        return {"real": str(value)}
    return value


def _decoded(value: Json) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["bytes"]) if "bytes" in value else float(value["real"])
    return value


def serve(requests: BinaryIO, replies: BinaryIO, worker: Worker) -> None:
    """Answer until the requests end."""
    for line in requests:
        replies.write(orjson.dumps(worker.answer(orjson.loads(line)), option=orjson.OPT_APPEND_NEWLINE))
        replies.flush()


def main() -> None:
    lockdown.hide_from_others()
    # Nothing but replies may reach the output, whatever a library prints.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    sys.stdout = sys.stderr
    number = os.environ.get("TOOLENV_SUPERVISOR")
    serve(requests, replies, Worker(None if number is None else socket.socket(fileno=int(number))))


if __name__ == "__main__":
    main()
