"""What runs inside a locked-down process: cells of Python, one after the other, with their variables kept.

The process is untrusted from its first cell on: agent-written code may replace anything below. So a reply is only what
that code says of itself; whoever reads it checks its form, and ends the process if it is wrong.

A request and its reply are one line of JSON each:

    {"nonce", "code", "name", "fresh", "files": {path: text or null}}
    {"nonce", "output", "exception", "line", "files": {path: text or null}}
"""

from __future__ import annotations

import ast
import builtins
import io
import json
import linecache
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from . import clockwork
from .files import Files

_MESSAGE: Final = 500
_NAME: Final = 100
_ADDRESS: Final = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")


class Output(io.TextIOBase):
    """Standard output and error of a cell: the first `most` characters are kept, the rest is counted."""

    def __init__(self, most: int) -> None:
        self._most, self._parts, self._length = most, list[str](), 0

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if (room := self._most - self._length) > 0:
            self._parts.append(text[:room])
        self._length += len(text)
        return len(text)

    def take(self) -> str:
        """What was written since the last time, in whole."""
        text = _shown("".join(self._parts)).removesuffix("\n")
        if self._length > self._most:
            text += f"\n[{self._length - self._most} more characters]"
        self._parts, self._length = [], 0
        return text


class Interpreter:
    """Runs cells.

    Args:
        limits: `output` in characters; `files`, `file_bytes`, `all_bytes`.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.files = Files(limits["files"], limits["file_bytes"], limits["all_bytes"])
        self.output = Output(limits["output"])
        self.variables = _namespace()
        self._known: dict[str, bytes] = {}

    def install(self) -> None:
        """Take the process over: files, clock, output."""
        self.files.install()
        clockwork.install()
        sys.stdout = sys.stderr = self.output
        sys.stdin = io.StringIO("")
        sys.argv = [""]

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run one cell; its reply."""
        self.files.put(request["files"])
        self._known = dict(self.files.contents)
        variables = _namespace() if request["fresh"] else self.variables
        exception, line = None, None
        try:
            self._execute(request["code"], request["name"], variables)
        except BaseException as error:
            exception, line = described(error), _line_of(error, request["name"])
        return {
            "nonce": request["nonce"],
            "files": changes(self._known, self.files, self.output),  # before the output, to which it may add
            "output": self.output.take(),
            "exception": exception,
            "line": line,
        }

    def _execute(self, code: str, name: str, variables: dict[str, Any]) -> None:
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), variables)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), variables)
            if value is not None:
                self.output.write(f"{value!r}\n")


def changes(known: Mapping[str, bytes], files: Files, output: Output) -> dict[str, str | None]:
    """Files that differ from those known, as text, and with None those that are gone.

    One that is no text is removed, and `output` says so.
    """
    found: dict[str, str | None] = dict.fromkeys(sorted(known.keys() - files.contents))
    for path, content in sorted(files.contents.items()):
        if known.get(path) != content:
            try:
                found[path] = content.decode()
            except UnicodeDecodeError:
                del files.contents[path]
                output.write(f"[{path} is not UTF-8 text, and was not kept]\n")
    return found


def serve(channel: int, interpreter: Interpreter) -> None:
    """Read requests from a socket and write replies to it, until it is closed."""
    read, write, dumps, loads, run = os.read, os.write, json.dumps, json.loads, interpreter.run
    interpreter.install()
    while (line := _line(channel, read)) is not None:
        rest = dumps(run(loads(line))).encode() + b"\n"
        while rest:
            rest = rest[write(channel, rest) :]


def _line(channel: int, read: Callable[[int, int], bytes]) -> bytes | None:
    parts = []
    while part := read(channel, 1 << 16):
        parts.append(part)
        if part.endswith(b"\n"):
            return b"".join(parts)
    return None


def _namespace() -> dict[str, Any]:
    return {"__name__": "__main__", "__builtins__": builtins}


def described(error: BaseException) -> str:
    """Such as "KeyError: 'amount'"."""
    try:
        message = str(error) if not isinstance(error, SyntaxError) else str(error.msg)
    except BaseException as broken:
        message = f"<str() raised {type(broken).__name__}>"
    shown = _shown(message if len(message) <= _MESSAGE else message[:_MESSAGE] + "...")
    name = type(error).__name__[:_NAME]
    return f"{name}: {shown}" if shown else name


def _shown(text: str) -> str:
    """Text without addresses, which differ from run to run, and without halves of characters."""
    return _ADDRESS.sub("0x...", text.encode("utf-8", "backslashreplace").decode())


def _line_of(error: BaseException, name: str) -> int | None:
    """The line of the cell in which it was raised."""
    if isinstance(error, SyntaxError) and error.filename == name:
        return error.lineno
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name:
            found = trace.tb_lineno
        trace = trace.tb_next
    return found
