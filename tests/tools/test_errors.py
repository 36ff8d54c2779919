"""The exception tree: what its docstring says is what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from toolenv.tools import errors

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("tools", "scenarios", "envs", "agents", "training", "toolenv")
LINE = re.compile(r"(?P<branch>[ │├└─]*)(?P<name>[A-Z]\w+)\b(?:.*\((?P<file>\w+/[\w/]+\.py)\))?")


def _written() -> dict[str, tuple[str, str]]:
    """Class -> its base and its file, as the docstring draws them."""
    tree: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").split("\n\n")[1].splitlines():
        found = LINE.fullmatch(line) or LINE.match(line)
        assert found is not None, line
        depth = len(found["branch"]) // 4
        path[depth:] = [found["name"]]
        tree[found["name"]] = (path[depth - 1] if depth else "Exception", found["file"] or "tools/errors.py")
    return tree


def _defined() -> dict[str, tuple[str, str]]:
    """The same of every class in the package below `ToolenvError`, from the syntax trees: nothing heavy is imported."""
    classes = {}
    for path in (path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.bases:
                base = ast.unparse(node.bases[0]).rpartition(".")[2]
                classes[node.name] = (base, path.relative_to(REPOSITORY).as_posix())
    ours = {"ToolenvError"}
    while more := {name for name, (base, _) in classes.items() if base in ours} - ours:
        ours |= more
    return {name: classes[name] for name in ours}


def test_the_docstring_draws_every_exception_in_its_place() -> None:
    assert _written() == _defined()


def test_an_agent_error_is_known_by_its_type() -> None:
    assert {name for name, (base, _) in _defined().items() if base == "ToolError"} == {
        error.__name__ for error in errors.AGENT_ERRORS.values()
    }
    assert errors.AGENT_ERRORS.keys() > errors.INVALID_CALLS
