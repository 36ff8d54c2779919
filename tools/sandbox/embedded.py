"""The embedded backend: worlds and tools in this process.

Nothing here is isolated. It serves toolboxes that run trusted code only, as the CRM and database tools do; the SQL that
an agent hands to the latter runs in this process, confined as `toolenv.tools.database.sql` says.
"""

from __future__ import annotations

from toolenv.tools.calls import Json, ToolResult
from toolenv.tools.sandbox.contract import Sandbox
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
    """Opens sessions in this process."""

    name = "embedded"

    def open(self, image: WorldImage, toolbox: Toolbox) -> EmbeddedSession:
        return EmbeddedSession(image.open(), toolbox)

    def close(self) -> None:
        """Nothing is held."""


def make_sandbox(name: str) -> Sandbox:
    """The backend of a name.

    Raises:
        ValueError: there is none of that name, or the server that it needs is not named.
        OperatorError: a package that it needs is not installed.
    """
    if name == "postgres":
        from toolenv.tools.sandbox.postgres import PostgresSandbox

        return PostgresSandbox()
    if name != "embedded":
        raise ValueError(f"there is no sandbox {name!r}; there are: embedded, postgres")
    return EmbeddedSandbox()
