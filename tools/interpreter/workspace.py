"""The agent's files and the journal of its cells, as tables of the world.

Tables whose names begin with `_` are the workspace's: the database tools do not show them. `_files` holds text only.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Final

from toolenv.tools.errors import NotFound, RuleViolation
from toolenv.tools.world import World, WorldImage, open_connection

SCHEMA: Final = """\
CREATE TABLE _files (path TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE _cells (
  number INTEGER PRIMARY KEY, code TEXT NOT NULL, name TEXT NOT NULL, fresh INTEGER NOT NULL, files TEXT NOT NULL
);
"""
"""Part of the schema of every world whose toolbox has the interpreter."""

MAX_PATH: Final = 200
MAX_FILES: Final = 64
MAX_FILE_BYTES: Final = 1_000_000
MAX_BYTES: Final = 4_000_000


def added_to(image: WorldImage) -> WorldImage:
    """The world with an empty workspace, unless it has one."""
    if "_files" in image.columns:
        return image
    connection = open_connection(image.data)
    connection.execute(SCHEMA)
    return WorldImage.of_connection(connection, image.name)


def all_files(world: World) -> dict[str, str]:
    """Every file's text by its path, in order."""
    return {row["path"]: row["content"] for row in world.all("SELECT path, content FROM _files ORDER BY path")}


def read(world: World, path: str) -> str:
    """A file's text.

    Raises:
        NotFound: there is no such file; names those there are.
    """
    content: str | None = world.value("SELECT content FROM _files WHERE path = ?", (normal(path),))
    if content is None:
        there = ", ".join(row["path"] for row in world.all("SELECT path FROM _files ORDER BY path LIMIT 10"))
        raise NotFound(f"there is no file {path[:MAX_PATH]}; there is: {there or 'none'}", field="path")
    return content


def store(world: World, changes: Mapping[str, str | None]) -> None:
    """Write files and, with None, remove them."""
    for path, text in changes.items():
        if text is None:
            world.execute("DELETE FROM _files WHERE path = ?", (path,))
        else:
            world.execute("INSERT OR REPLACE INTO _files VALUES (?, ?)", (path, text))


def fits(files: Mapping[str, str]) -> bool:
    """Whether a workspace may hold these files."""
    sizes = [len(text.encode()) for text in files.values()]
    return len(sizes) <= MAX_FILES and sum(sizes) <= MAX_BYTES and all(size <= MAX_FILE_BYTES for size in sizes)


def write(world: World, path: str, text: str) -> str:
    """Write a file; the path under which it lies.

    Raises:
        RuleViolation: the path or the file is not possible.
    """
    name = normal(path)
    if not is_path(name):
        raise RuleViolation("path", "a path is relative, such as reports/summary.csv", field="path")
    if not fits({**all_files(world), name: text}):
        limits = f"{MAX_FILES} files, {MAX_FILE_BYTES} bytes in each and {MAX_BYTES} in all"
        raise RuleViolation("workspace_full", f"the workspace holds at most {limits}", field="text")
    store(world, {name: text})
    return name


def normal(path: str) -> str:
    """The path as it is kept: `./a//b.csv` and `/workspace/a/b.csv` are `a/b.csv`."""
    return posixpath.normpath(path).removeprefix("/workspace/")


def is_path(path: object) -> bool:
    """Whether a file may lie there."""
    return (
        isinstance(path, str)
        and 0 < len(path) <= MAX_PATH
        and path.isprintable()
        and path == posixpath.normpath(path)
        and path not in (".", "..")
        and not path.startswith(("/", "../"))
    )
