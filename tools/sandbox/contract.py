"""The seam between an episode and the place where its tools run.

An environment knows only these two protocols. A backend may keep worlds in this process, in a locked-down child or
in a container; the same calls give the same results on each. What the agent did comes back as a `ToolResult`; what the
infrastructure did raises `SandboxLost`, from every method but `close`, which may be called of what is lost.
"""

from __future__ import annotations

from typing import Protocol

from toolenv.tools.calls import Json, ToolResult
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import RowChange, WorldImage, WorldSnapshot


class ToolSession(Protocol):
    """One episode's world, and the tools that act on it."""

    def call(self, name: str, arguments: Json) -> ToolResult:
        """Validate and run one call."""

    def fork(self) -> ToolSession:
        """An independent session in the same state."""

    def snapshot(self) -> WorldSnapshot:
        """The state as a value."""

    def restore(self, snapshot: WorldSnapshot) -> None:
        """Become the state of a snapshot."""

    def digest(self) -> str:
        """A hash of the state; equal states have equal digests."""

    def diff(self) -> tuple[RowChange, ...]:
        """What differs from the image that the session was opened on."""

    def close(self) -> None:
        """Give back what the session holds."""


class Sandbox(Protocol):
    """Opens sessions.

    Attributes:
        sql: the SQL that agents write in its worlds, as descriptions of tools are to call it.
    """

    name: str
    sql: str

    @property
    def level(self) -> str:
        """What keeps agent-written Python in, in words; of a remote sandbox known once a session was opened."""

    def open(self, image: WorldImage, toolbox: Toolbox) -> ToolSession:
        """A session on a fresh world of `image`."""

    def close(self) -> None:
        """Give back what the sandbox holds; its sessions are lost."""
