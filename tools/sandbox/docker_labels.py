"""Whose a container is, until when, and the removal of those that nobody will remove.

Every container carries `toolenv=1`, the session, its owner (host, process, and when that process started, since numbers
are used again) and the time at which it expires. Nothing without our label is ever touched, nor is a container of
another host's that has not expired: whether its owner lives can not be seen from here.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from toolenv.tools.errors import OperatorError

OURS: Final = "toolenv"
SESSION: Final = "toolenv.session"
OWNER: Final = "toolenv.owner"
EXPIRES: Final = "toolenv.expires"
FILTER: Final = {"label": f"{OURS}=1"}


@dataclass(frozen=True, slots=True)
class Removed:
    """A container that was removed: its id, its name, and why."""

    id: str
    name: str
    reason: str


def labels(session: str, seconds: float) -> dict[str, str]:
    """Of a container that this process starts now, and that expires after `seconds`."""
    return {OURS: "1", SESSION: session, OWNER: owner(), EXPIRES: str(math.ceil(time.time() + seconds))}


def owner() -> str:
    """This process: `<host>:<pid>:<when it started>`."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def is_stale(found: Mapping[str, str], now: float) -> bool:
    """Whether a container with these labels may be removed at `now`, in seconds since 1970."""
    return why_stale(found, now) is not None


def why_stale(found: Mapping[str, str], now: float) -> str | None:
    """Why a container with these labels may be removed; None if it may not."""
    if found.get(OURS) != "1":
        return None
    expires = found.get(EXPIRES, "")
    if expires.isdecimal() and int(expires) <= now:
        return "expired"
    host, _, process = found.get(OWNER, "").partition(":")
    number, _, started = process.partition(":")
    if host == socket.gethostname() and number.isdecimal() and _started(int(number)) not in (started, _UNKNOWN):
        return "its owner is dead"
    return None


def ours(client: Any) -> list[dict[str, Any]]:
    """Our containers, running or not, as the engine tells of them.

    Raises:
        OperatorError: it does not answer.
    """
    import docker.errors
    import requests.exceptions

    try:
        found: list[dict[str, Any]] = client.api.containers(all=True, filters=FILTER)
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise OperatorError(f"the docker engine does not answer: {error}") from None
    return found


def collect(client: Any) -> list[Removed]:
    """Remove the containers whose owner is dead, and those that have expired; what was removed.

    Raises:
        OperatorError: the engine does not answer.
    """
    removed = []
    for container in ours(client):
        reason = why_stale(container["Labels"], time.time())
        if reason is not None and _remove(client, container["Id"]):
            removed.append(Removed(container["Id"], container["Names"][0].lstrip("/"), reason))
    return removed


def _remove(client: Any, container: str) -> bool:
    """Whether it was us who removed it: it may go by itself, or another process may be faster."""
    import docker.errors
    import requests.exceptions

    try:
        client.api.remove_container(container, force=True, v=True)
    except docker.errors.APIError:
        return False
    except requests.exceptions.RequestException as error:
        raise OperatorError(f"the docker engine does not answer: {error}") from None
    return True


_UNKNOWN: Final = "unknown"


def _started(process: int) -> str:
    """When a process started, in clock ticks since the machine did; empty if there is none, or it has ended."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except PermissionError:
        pass  # another user's
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _UNKNOWN
    # The name, in brackets, may hold anything.
    state, *fields = status.rpartition(")")[2].split()
    return "" if state in ("Z", "X") else fields[18]
