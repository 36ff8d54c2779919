"""The embedded backend: worlds and tools in this process, agent-written Python in locked-down processes beside it.

The tools are trusted code and run here. SQL that an agent wrote does too, confined as `toolenv.tools.database.sql`
says. Python that an agent wrote runs in a process of its own without power over anything: see `guest`. A machine that
can not enforce this gets no embedded interpreter; toolboxes without one work everywhere.
"""

from __future__ import annotations

from toolenv.tools.calls import Json, ToolResult
from toolenv.tools.declaration import SQLITE
from toolenv.tools.interpreter.session import Interpreters, PythonSession
from toolenv.tools.sandbox.interpreters import LocalInterpreters
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import RowChange, World, WorldImage, WorldSnapshot


class EmbeddedSession:
    """A world in this process."""

    __slots__ = ("_toolbox", "_world")

    def __init__(self, world: World, toolbox: Toolbox) -> None:
        self._world, self._toolbox = world, toolbox

    def call(self, name: str, arguments: Json) -> ToolResult:
        return self._toolbox.dispatch(self._world, name, arguments)

    def fork(self) -> EmbeddedSession:
        return EmbeddedSession(self._world.fork(), self._toolbox)

    def snapshot(self) -> WorldSnapshot:
        return self._world.snapshot()

    def restore(self, snapshot: WorldSnapshot) -> None:
        self._world.restore(snapshot)

    def digest(self) -> str:
        return self._world.digest()

    def diff(self) -> tuple[RowChange, ...]:
        return self._world.diff()

    def close(self) -> None:
        self._world.close()


class EmbeddedSandbox:
    """Opens sessions in this process.

    Args:
        limits: of agent-written Python.
        interpreters: where that runs; in locked-down processes of this machine if left out.
    """

    name = "embedded"
    sql = SQLITE

    def __init__(self, limits: Limits | None = None, interpreters: Interpreters | None = None) -> None:
        self.limits = limits or Limits()
        self._interpreters: Interpreters = interpreters or LocalInterpreters(self.limits)

    @property
    def level(self) -> str:
        return self._interpreters.level

    def open(self, image: WorldImage, toolbox: Toolbox) -> EmbeddedSession:
        world = image.open()
        if toolbox.runs_python:
            world.python = PythonSession(self._interpreters)
        return EmbeddedSession(world, toolbox)

    def close(self) -> None:
        """End the interpreters."""
        self._interpreters.close()
