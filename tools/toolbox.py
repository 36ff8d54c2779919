"""A toolbox: an ordered set of tools that validates and runs calls.

`dispatch` is the one way from an agent's call to the world. Whatever the agent did wrong comes back as a
`ToolResult` with a typed error, and a call that fails leaves the world as it was.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from types import ModuleType
from typing import Protocol

from toolenv.tools.calls import Json, ToolResult, require_json
from toolenv.tools.declaration import SQLITE, Tool, ToolSpec
from toolenv.tools.errors import DeclarationError, MalformedCall, ToolError, UnknownTool
from toolenv.tools.identifiers import Identifier


class Transactional(Protocol):
    """A world, as far as a toolbox knows it."""

    def atomic(self) -> AbstractContextManager[None]:
        """All writes in the block take place, or none."""


class Toolbox:
    """Tools by name, in order. Immutable; share it freely between episodes.

    Args:
        identifiers: kinds of identifier that stand in results though no tool takes them.
    """

    def __init__(self, tools: Iterable[Tool], identifiers: Iterable[Identifier] = ()) -> None:
        self._shown = tuple(identifiers)
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise DeclarationError(f"two tools are named {tool.name}")
            self._tools[tool.name] = tool

    @classmethod
    def of_families(cls, *families: str) -> Toolbox:
        """All tools of the shipped families, such as `Toolbox.of_families("crm")`.

        Raises:
            DeclarationError: there is no such family.
        """
        modules = [_family(family) for family in families]
        tools = (item for module in modules for item in vars(module).values() if isinstance(item, Tool))
        return cls(tools, (kind for module in modules for kind in getattr(module, "IDENTIFIERS", ())))

    def without(self, names: Iterable[str]) -> Toolbox:
        """The toolbox less the tools of these names."""
        left_out = set(names)
        return Toolbox((tool for tool in self if tool.name not in left_out), self._shown)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tools)

    @cached_property
    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec for tool in self)

    @cached_property
    def runs_python(self) -> bool:
        """Whether a tool runs code that an agent wrote, so that a world needs an interpreter."""
        return any(spec.family == "interpreter" for spec in self.specs)

    @cached_property
    def version(self) -> str:
        """12 hex digits over the versions of all tools, in order."""
        joined = ",".join(f"{spec.name}={spec.version}" for spec in self.specs)
        return hashlib.blake2b(joined.encode(), digest_size=6).hexdigest()

    @cached_property
    def identifiers(self) -> tuple[Identifier, ...]:
        """Every kind of identifier that some tool takes, each once."""
        kinds = (mark for tool in self for mark in tool.identifiers.values())
        return tuple(dict.fromkeys(kinds))

    @cached_property
    def shown_identifiers(self) -> tuple[Identifier, ...]:
        """Every kind of identifier that tools take or that stands in their results, each once."""
        return tuple(dict.fromkeys((*self._shown, *self.identifiers)))

    def to_openai(self, sql: str = SQLITE) -> list[dict[str, Json]]:
        """The specs in OpenAI's form, for worlds whose SQL is of that dialect."""
        return [spec.to_openai(sql) for spec in self.specs]

    def dispatch(self, world: Transactional, name: str, arguments: Json) -> ToolResult:
        """Validate and run one call; never raises for what the agent did."""
        tool = self._tools.get(name)
        if tool is None:
            return ToolResult.failure(self._unknown(name))
        effect = tool.spec.effect
        try:
            require_json(arguments)
            valid = tool.validate(arguments)
            if tool.reads:
                return ToolResult.success(tool.function(world, **valid), effect)
            with world.atomic():
                return ToolResult.success(tool.function(world, **valid), effect)
        except ToolError as error:
            return ToolResult.failure(error, effect)

    def refused(self, name: str, arguments: Json) -> ToolResult | None:
        """What `dispatch` gives for a call that can not even be sent to a world elsewhere; None if it can."""
        tool = self._tools.get(name)
        if tool is None:
            return ToolResult.failure(self._unknown(name))
        try:
            require_json(arguments)
        except MalformedCall as error:
            return ToolResult.failure(error, tool.spec.effect)
        return None

    def _unknown(self, name: str) -> UnknownTool:
        shown = name[:100].encode("utf-8", "backslashreplace").decode()
        near = difflib.get_close_matches(shown, self._tools, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return UnknownTool(f"there is no tool named {shown}{hint}", field="name")


_FAMILIES = ("crm", "database", "interpreter", "exchange", "user")


def _family(family: str) -> ModuleType:
    if family not in _FAMILIES:
        raise DeclarationError(f"there is no tool family {family!r}; there are {', '.join(_FAMILIES)}")
    return importlib.import_module(f"toolenv.tools.{family}")
