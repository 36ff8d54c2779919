"""The state of an interpreter as part of the world.

The cells that were run stand in the world's table `_cells`, the files in `_files`; an interpreter is only a cache of
what they describe. So snapshot, restore, fork and digest of the world are those of the interpreter, on every backend:
one that is not where the journal is starts anew and runs the journal again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import orjson

from toolenv.tools.forks import abandon_in_forks
from toolenv.tools.interpreter import workspace
from toolenv.tools.world import World


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of code to run.

    Attributes:
        name: what tracebacks call it.
        fresh: whether it runs with variables of its own, as a script does.
        files: what was written since the last cell, by path; None for what was removed.
    """

    code: str
    name: str = "<cell>"
    fresh: bool = False
    files: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cell did.

    Attributes:
        output: what it printed, with the value of its last expression; cut at the limit.
        exception: such as "KeyError: 'amount'".
        line: of the cell, in which that was raised.
        files: what it wrote, by path; None for what it removed.
    """

    output: str
    exception: str | None = None
    line: int | None = None
    files: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def of_untrusted(cls, reply: Any) -> Outcome:
        """What an interpreter says that may have been taken over.

        Raises:
            ValueError, KeyError, TypeError: it is not of the form.
        """
        output, exception, line, files = reply["output"], reply["exception"], reply["line"], reply["files"]
        if not (
            isinstance(output, str)
            and isinstance(exception, str | None)
            and (line is None or type(line) is int)
            and isinstance(files, dict)
            and all(workspace.is_path(path) and isinstance(text, str | None) for path, text in files.items())
        ):
            raise ValueError("not the form of an outcome")
        return cls(output, exception, line, files)


class InterpreterEnded(Exception):
    """A cell ended its interpreter: the agent's doing, and a result."""


class TimedOut(InterpreterEnded):
    """It took too long."""


class Crashed(InterpreterEnded):
    """It crashed, left, or made the interpreter unusable."""


class Interpreter(Protocol):
    """Keeps variables and files from cell to cell. One that raised is of no more use."""

    def run(self, cell: Cell) -> Outcome:
        """Run a cell. Raises InterpreterEnded for what the cell did, SandboxLost for what it did not do."""

    def close(self) -> None:
        """End it."""


class Interpreters(Protocol):
    """Opens interpreters."""

    @property
    def level(self) -> str:
        """What keeps agent-written code in, in words."""

    def open(self) -> Interpreter:
        """A new one, without variables and files."""

    def close(self) -> None:
        """End all of them; the next `open` starts anew."""


class PythonSession:
    """The interpreter of one world, opened when the first cell is run.

    Args:
        interpreters: where it comes from.
    """

    def __init__(self, interpreters: Interpreters) -> None:
        self._interpreters = interpreters
        self._interpreter: Interpreter | None = None
        self._done: list[_Entry] = []
        self._files: dict[str, str] = {}
        abandon_in_forks(self)

    def run(self, world: World, code: str, *, name: str = "<cell>", fresh: bool = False) -> Outcome:
        """Run a cell, and write down in the world that it was run and what it did to the files.

        Raises:
            InterpreterEnded: the cell ended the interpreter. Variables are lost; files are as before the cell.
            SandboxLost: something else did. The world is as before.
        """
        try:
            if self._interpreter is None or not self._stands_at_the_end(world):
                self._replay(world)
            files = workspace.all_files(world)
            written = _difference(self._files, files)
            entry = _Entry(code, name, int(fresh), orjson.dumps(written).decode())
            outcome = self._run(entry, written)
        except InterpreterEnded:
            self.close()
            world.execute("DELETE FROM _cells")
            raise
        except BaseException:
            self.close()
            raise
        workspace.store(world, outcome.files)
        row = (len(self._done), entry.code, entry.name, entry.fresh, entry.files)
        world.execute("INSERT INTO _cells VALUES (?, ?, ?, ?, ?)", row)
        return outcome

    def fork(self) -> PythonSession:
        """For a fork of the world."""
        return PythonSession(self._interpreters)

    def close(self) -> None:
        """End the interpreter, if there is one; the next cell opens another."""
        interpreter = self._interpreter
        self.abandon()
        if interpreter is not None:
            interpreter.close()

    def abandon(self) -> None:
        """Forget the interpreter, which goes on in the process that opened it."""
        self._interpreter, self._done, self._files = None, [], {}

    def _stands_at_the_end(self, world: World) -> bool:
        """Whether the interpreter has run the world's journal. A look at its last cell is enough: the journal grows by
        `run` alone, a rollback takes its end away, and whatever else changes it ends the interpreter."""
        rows = world.all("SELECT number, code, name, fresh, files FROM _cells ORDER BY number DESC LIMIT 1")
        return rows == [{"number": len(self._done), **asdict(entry)} for entry in self._done[-1:]]

    def _replay(self, world: World) -> None:
        journal = [_Entry(**row) for row in world.all("SELECT code, name, fresh, files FROM _cells ORDER BY number")]
        self.close()
        self._interpreter = self._interpreters.open()
        for entry in journal:
            self._run(entry, orjson.loads(entry.files))

    def _run(self, entry: _Entry, written: dict[str, str | None]) -> Outcome:
        assert self._interpreter is not None
        outcome = self._interpreter.run(Cell(entry.code, entry.name, bool(entry.fresh), written))
        self._done.append(entry)
        for changes in (written, outcome.files):
            for path, text in changes.items():
                if text is None:
                    self._files.pop(path, None)
                else:
                    self._files[path] = text
        if not workspace.fits(self._files):
            raise Crashed
        return outcome


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row of the journal; `files` is JSON of what was written before it."""

    code: str
    name: str
    fresh: int
    files: str


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """What must be written and removed to come from one to the other."""
    changes: dict[str, str | None] = {path: text for path, text in after.items() if before.get(path) != text}
    changes.update(dict.fromkeys(sorted(before.keys() - after.keys())))
    return changes
