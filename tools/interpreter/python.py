"""Running Python. What the code does wrong is a result: it ran, and this is what came of it."""

from __future__ import annotations

from toolenv.tools.calls import Json
from toolenv.tools.errors import DeclarationError
from toolenv.tools.interpreter import workspace
from toolenv.tools.interpreter.arguments import Code, Path, works
from toolenv.tools.interpreter.session import InterpreterEnded, Outcome, TimedOut
from toolenv.tools.world import World


@works
def run_python(world: World, code: Code) -> dict[str, Json]:
    """Run Python code; variables are kept for the next call. Shows what is printed and the last expression's value.

    Args:
        code: The code. It has the standard library and the files of the workspace, and no network.
    """
    return _run(world, code, "<cell>", fresh=False)


@works
def run_python_file(world: World, path: Path) -> dict[str, Json]:
    """Run a Python file of the workspace as a script, with variables of its own. Shows what is printed.

    Args:
        path: The file's path.
    """
    return _run(world, workspace.read(world, path), workspace.normal(path), fresh=True)


def _run(world: World, code: str, name: str, *, fresh: bool) -> dict[str, Json]:
    if world.python is None:
        raise DeclarationError("this world was opened without an interpreter: open it through a sandbox")
    try:
        outcome: Outcome = world.python.run(world, code, name=name, fresh=fresh)
    except InterpreterEnded as end:
        what = "TimeoutError: the code took too long" if isinstance(end, TimedOut) else "the interpreter crashed"
        return {"output": "", "exception": f"{what}; variables are lost, files are as before"}
    if outcome.exception is None:
        return {"output": outcome.output}
    return {"output": outcome.output, "exception": outcome.exception, "line": outcome.line}
