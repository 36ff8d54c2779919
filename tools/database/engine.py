"""What lies beneath the database tools: SQLite in this process, or a database server.

A `World` is run by `toolenv.tools.database.sql`; a world on a server brings its own way to read and to write. Each tool
has one implementation over both. What the tools write themselves is SQL that both understand alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from toolenv.tools.calls import Json
from toolenv.tools.world import World, WorldImage


@dataclass(frozen=True, slots=True)
class Found:
    """What a statement gave.

    Attributes:
        rows: values that JSON has; texts beyond MAX_CELL characters are cut.
        truncated: there are more rows, or longer texts, than stand here.
        changed: how many rows the statement changed.
    """

    columns: tuple[str, ...]
    rows: list[list[Json]]
    truncated: bool
    changed: int = 0


class ServerWorld(Protocol):
    """A world whose rows lie on a server. Its methods raise a ToolError for what the agent did."""

    @property
    def image(self) -> WorldImage:
        """The image that it was opened on."""

    @property
    def mirror(self) -> World:
        """A SQLite world of the same schema; its rows may be older."""

    def atomic(self) -> AbstractContextManager[None]:
        """All writes in the block take place, or none."""

    def read(self, sql: str, parameters: Sequence[Any], field: str) -> Found:
        """Run one statement that only reads."""

    def write(self, sql: str, parameters: Sequence[Any], field: str) -> Found:
        """Run one statement that changes rows, within `atomic`."""

    def plan(self, sql: str, field: str) -> tuple[list[Json], bool]:
        """How a statement that reads would be carried out, in lines, and whether some are left out."""


Database: TypeAlias = World | ServerWorld
