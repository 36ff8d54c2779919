"""The PostgreSQL backend: the database tools over tables on a server.

Every session has a schema of its own, and a role that may do nothing but read and change its rows. Sessions of a
sandbox share one connection, so their calls take turns. What differs from SQLite is the dialect of SQL that an agent
writes, the text of plans, names of unnamed columns, and values that do not fit a column's type, which PostgreSQL
refuses. The functions that tell the time are not available; a text such as 'now' cast to a date still tells it.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any, Final

from toolenv.tools.calls import Json, ToolResult
from toolenv.tools.errors import OperatorError
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import RowChange, WorldImage, WorldSnapshot

if TYPE_CHECKING:
    from toolenv.tools.sandbox.postgres_link import Link
    from toolenv.tools.sandbox.postgres_world import PostgresWorld

VARIABLE: Final = "TOOLENV_POSTGRES_DSN"


class PostgresSession:
    """A world on the server. Its methods but `close` raise SandboxLost when the server is gone."""

    __slots__ = ("_toolbox", "_world")

    def __init__(self, world: PostgresWorld, toolbox: Toolbox) -> None:
        self._world, self._toolbox = world, toolbox

    def call(self, name: str, arguments: Json) -> ToolResult:
        self._world.require_there()
        return self._toolbox.dispatch(self._world, name, arguments)

    def fork(self) -> PostgresSession:
        return PostgresSession(self._world.fork(), self._toolbox)

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


class PostgresSandbox:
    """Opens sessions on a PostgreSQL server; it connects when the first is opened, and again when that was lost.

    Args:
        dsn: libpq's connection string or URI. Its user needs CREATEROLE, and CREATE on the database. Without one, the
            environment variable TOOLENV_POSTGRES_DSN.

    Raises:
        OperatorError: psycopg is not installed.
        ValueError: there is no DSN.
    """

    name = "postgres"
    level = "a server that runs SQL only"
    sql = "PostgreSQL"

    def __init__(self, dsn: str | None = None) -> None:
        if importlib.util.find_spec("psycopg") is None:
            raise OperatorError("the sandbox 'postgres' needs psycopg: pip install 'toolenv[postgres]'")
        self._dsn = dsn if dsn is not None else os.environ.get(VARIABLE, "")
        if not self._dsn.strip():
            raise ValueError(
                f"the sandbox 'postgres' needs a server: set {VARIABLE}, such as postgresql://user@host/db"
            )
        self._link: Link | None = None

    def open(self, image: WorldImage, toolbox: Toolbox) -> PostgresSession:
        """A session on a fresh world of `image`.

        Raises:
            OperatorError: the toolbox has tools of another family, or the server's user may too little.
            ScenarioError: the image can not be carried over to PostgreSQL.
            SandboxLost: the server can not be reached.
        """
        others = sorted({tool.spec.family for tool in toolbox} - {"database"})
        if others:
            raise OperatorError(f"the sandbox 'postgres' runs the database tools only, and not: {', '.join(others)}")
        from toolenv.tools.sandbox.postgres_world import PostgresWorld

        mirror = image.open()
        try:
            return PostgresSession(PostgresWorld(self._connected(), mirror), toolbox)
        except BaseException:
            mirror.close()
            raise

    def close(self) -> None:
        """Drop what is left of the sessions, and disconnect."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _connected(self) -> Link:
        from toolenv.tools.sandbox.postgres_link import Link

        if self._link is None or self._link.lost:
            self._link = Link(self._dsn)
        return self._link

    def __reduce__(self) -> tuple[Any, ...]:
        return PostgresSandbox, (self._dsn,)
