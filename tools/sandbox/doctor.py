"""What this machine can enforce, in plain words: which sandboxes it can run, and what is missing for the others."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from toolenv.tools.errors import OperatorError
from toolenv.tools.interpreter.session import Cell, InterpreterEnded
from toolenv.tools.sandbox import docker_image
from toolenv.tools.sandbox.guest import lockdown
from toolenv.tools.sandbox.interpreters import LocalInterpreters
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.sandbox.postgres import VARIABLE

EMBEDDED: Final = "embedded"
_SECCOMP: Final = Path("/proc/sys/kernel/seccomp/actions_avail")
# Version of Landlock -> what it adds for us.
_LANDLOCK_KEEPS: Final = ((6, "files, network and signals"), (4, "files and network"), (1, "files"))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: its name, whether it works, and a sentence about it."""

    name: str
    works: bool
    says: str


def examine() -> list[Finding]:
    """All findings; that of the embedded sandbox has the name `EMBEDDED`."""
    return [_processor(), _landlock(), _seccomp(), _embedded(), *_docker(), _monty(), _postgres()]


def _processor() -> Finding:
    machine = platform.machine()
    works = machine == "x86_64" and platform.system() == "Linux"
    says = "the system call filter fits" if works else "the system call filter is written for Linux on x86_64"
    return Finding("processor", works, f"{platform.system()} on {machine}: {says}")


def _landlock() -> Finding:
    version = lockdown.landlock_version() if platform.system() == "Linux" else 0
    if not version:
        return Finding("Landlock", False, "the kernel has none, or it is switched off: nothing keeps files from code")
    keeps = next(what for least, what in _LANDLOCK_KEEPS if version >= least)
    return Finding("Landlock", True, f"version {version}: keeps {keeps} from agent-written code")


def _seccomp() -> Finding:
    try:
        works = {"allow", "errno", "kill_process"} <= set(_SECCOMP.read_text(encoding="utf-8").split())
    except OSError:
        works = False
    says = "refuses system calls, among them fork, exec and sockets" if works else "the kernel filters no system calls"
    return Finding("seccomp", works, says)


def _embedded() -> Finding:
    """Not asked for but tried: an interpreter runs a line."""
    interpreters = LocalInterpreters(Limits())
    try:
        with closing(interpreters.open()) as interpreter:
            output = interpreter.run(Cell(code="print(1 + 1)", name="doctor", fresh=True, files={})).output
    except InterpreterEnded as error:
        return Finding(EMBEDDED, False, f"an interpreter started and did not get to its end ({type(error).__name__})")
    except (OperatorError, OSError) as error:
        return Finding(EMBEDDED, False, str(error))
    finally:
        interpreters.close()
    if output.strip() != "2":
        return Finding(EMBEDDED, False, f"an interpreter started, and says that 1 + 1 is {output.strip()!r}")
    return Finding(EMBEDDED, True, "agent-written Python runs in locked-down processes")


def _docker() -> Iterator[Finding]:
    try:
        client = docker_image.connect()
    except OperatorError as error:
        yield Finding("docker", False, str(error))
        return
    with closing(client):
        info: dict[str, Any] = client.info()
        cgroup = info.get("CgroupVersion", "1")
        yield Finding("docker", True, f"engine {info['ServerVersion']}, cgroup version {cgroup}")
        missing = [what for what, key in (("memory", "MemoryLimit"), ("processes", "PidsLimit")) if not info.get(key)]
        says = f"the engine can not limit {' and '.join(missing)}" if missing else "memory and processes are limited"
        yield Finding("docker limits", not missing, says)
        name = docker_image.tag()
        built = docker_image.exists(client, name)
        yield Finding("docker image", built, name if built else f"{name} is not built yet: toolenv sandbox build")


def _monty() -> Finding:
    try:
        return Finding("monty", True, f"pydantic-monty {metadata.version('pydantic-monty')} runs a subset of Python")
    except metadata.PackageNotFoundError:
        return Finding("monty", False, "not installed: pip install 'toolenv[monty]'")


def _postgres() -> Finding:
    try:
        version = metadata.version("psycopg")
    except metadata.PackageNotFoundError:
        return Finding("postgres", False, "psycopg is not installed: pip install 'toolenv[postgres]'")
    if not os.environ.get(VARIABLE):
        return Finding("postgres", False, f"psycopg {version} is installed; {VARIABLE} names no server")
    return Finding("postgres", True, f"psycopg {version} is installed, and {VARIABLE} names a server")
