"""What the architecture tests share: where the rooms lie, and every module in them as a syntax tree."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Left to right: a room imports only itself and rooms to its left. `toolenv` is the face and the command line.
ROOMS = ("tools", "scenarios", "envs", "agents", "training", "toolenv")


@dataclass(frozen=True)
class Import:
    """One import statement's target, as a full dotted name."""

    target: str
    line: int
    lazy: bool
    """Within a function, so that it costs nothing until the function is called."""
    typing_only: bool
    """Below `if TYPE_CHECKING:`, so that it never happens at run time."""


@dataclass(frozen=True)
class Module:
    """A module of the package: the name under which it is installed and the file in the repository."""

    name: str
    path: Path

    @property
    def room(self) -> str:
        """The room in which the module lies."""
        return self.path.relative_to(REPOSITORY).parts[0]

    @property
    def place(self) -> str:
        """The path as a reader would open it."""
        return self.path.relative_to(REPOSITORY).as_posix()

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import in the module, also those within functions and below `if TYPE_CHECKING:`."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"), filename=str(self.path))
        return tuple(self._walk(tree, lazy=False, typing_only=False))

    def _walk(self, node: ast.AST, *, lazy: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, lazy, typing_only)
            elif isinstance(child, ast.ImportFrom):
                base = self._absolute(child)
                for alias in child.names:
                    yield Import(f"{base}.{alias.name}", child.lineno, lazy, typing_only)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from self._walk(ast.Module(child.body, []), lazy=lazy, typing_only=True)
                yield from self._walk(ast.Module(child.orelse, []), lazy=lazy, typing_only=typing_only)
            else:
                within_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from self._walk(child, lazy=lazy or within_function, typing_only=typing_only)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        package = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
        base = package[: len(package) - node.level + 1]
        return ".".join([*base, *([node.module] if node.module else [])])


def _installed_name(path: Path) -> str:
    parts = list(path.relative_to(REPOSITORY).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts if parts[0] == "toolenv" else ["toolenv", *parts])


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def rooms() -> tuple[str, ...]:
    """The rooms, in the order in which they may import."""
    return ROOMS


@pytest.fixture(scope="session")
def modules() -> tuple[Module, ...]:
    """Every module of every room."""
    paths = [path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))]
    return tuple(Module(_installed_name(path), path) for path in paths)


# What is made rather than written, and what a clone has beside the code.
_NOT_WRITTEN = {"__pycache__", "build", "data", "dist", "models", "runs"}
_WRITTEN_THOUGH_HIDDEN = {".ci", ".gitignore", ".pre-commit-config.yaml"}
_TEXT = {".cff", ".cfg", ".in", ".jinja", ".md", ".py", ".sh", ".svg", ".toml", ".txt", ".yaml", ".yml"}
_TEXT_BY_NAME = {".gitignore", "Dockerfile", "Makefile", "run"}


def _written(name: str) -> bool:
    hidden = name.startswith(".") and name not in _WRITTEN_THOUGH_HIDDEN
    return not hidden and name not in _NOT_WRITTEN and not name.endswith(".egg-info")


@pytest.fixture(scope="session")
def text_files() -> tuple[Path, ...]:
    """Every hand-written text file of the repository, whether or not it is committed yet."""
    found = []
    for folder, folders, files in os.walk(REPOSITORY):
        folders[:] = sorted(filter(_written, folders))
        paths = [Path(folder, name) for name in sorted(filter(_written, files))]
        found += [path for path in paths if path.suffix in _TEXT or path.name in _TEXT_BY_NAME]
    return tuple(found)
