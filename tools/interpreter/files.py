"""The workspace's files."""

from __future__ import annotations

from toolenv.tools.calls import Json
from toolenv.tools.errors import NotFound
from toolenv.tools.interpreter import workspace
from toolenv.tools.interpreter.arguments import Page, Path, Text, reads, works
from toolenv.tools.world import World

_LINES = 60
_CHARACTERS = 4_000


@reads
def list_files(world: World) -> dict[str, Json]:
    """List the files of the workspace with their sizes in bytes."""
    files = workspace.all_files(world)
    return {"files": [{"path": path, "bytes": len(text.encode())} for path, text in files.items()]}


@reads
def read_file(world: World, path: Path, page: Page = 1) -> dict[str, Json]:
    """Read a file of the workspace as text, 60 lines a page.

    Args:
        path: The file's path.
        page: The page, from 1.
    """
    lines = workspace.read(world, path).splitlines()
    pages = max(1, -(-len(lines) // _LINES))
    if page > pages:
        raise NotFound(f"the file has {pages} pages", field="page")
    text = "\n".join(lines[(page - 1) * _LINES : page * _LINES])
    shown = text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}\n[{len(text) - _CHARACTERS} more characters]"
    return {"text": shown, "lines": len(lines), "pages": pages}


@works
def write_file(world: World, path: Path, text: Text) -> dict[str, Json]:
    """Write a text file to the workspace, in place of what was there.

    Args:
        path: The file's path, such as report.csv.
        text: The whole text.
    """
    return {"path": workspace.write(world, path, text), "bytes": len(text.encode())}
