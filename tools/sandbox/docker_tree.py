"""What a container's file system holds: a Python, the packages that the tools need, and the tools. As one tar file.

A package `toolenv` with an empty `__init__` stands around the tools, since the real one imports gymnasium. All modules
are compiled in advance, which halves the start of a worker, and are never checked against their source.
"""

from __future__ import annotations

import io
import marshal
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path
from typing import Final

import toolenv.tools
from toolenv.tools.errors import OperatorError

SITE: Final = "/toolenv"
PYTHON: Final = "/usr/local/bin/python"
LIBRARIES: Final = "/usr/local/lib/native"
PACKAGES: Final = (
    "annotated-types",
    "apsw",
    "docstring-parser",
    "orjson",
    "pydantic",
    "pydantic-core",
    "typing-extensions",
    "typing-inspection",
)
"""The distributions that the tools import when they run."""

# Tests, what opens windows, what installs, and other people's packages: nothing in a container can use them.
_LEFT_OUT: Final = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "ensurepip",
    "tkinter",
    "perl-base",
}
_LEFT_OUT_NAMES: Final = re.compile(r"turtle(demo|\.py)?$|_tkinter\.|config-\d")
_FOUND: Final = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_VERSION: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"


class Tree:
    """A tar file in the making. Same content, same bytes: no owner, no time.

    Args:
        file: to write to.
        compiles: whether modules get their `.pyc`.
    """

    def __init__(self, file: io.BufferedIOBase, *, compiles: bool = True) -> None:
        self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.GNU_FORMAT)
        self._compiles = compiles

    def folder(self, path: str, mode: int = 0o755) -> None:
        self._add(path, mode, tarfile.DIRTYPE)

    def link(self, path: str, target: str) -> None:
        self._add(path, 0o777, tarfile.SYMTYPE, target=target)

    def data(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A file; a module's bytecode goes beside it."""
        self._add(path, mode, data=data)
        if self._compiles and path.endswith(".py"):
            code = _bytecode(path, data)
            if code is not None:
                self._add(cache_from_source(path), 0o644, data=code)

    def copy(self, path: str, source: str | Path) -> None:
        """A copy of a file, which may be run if the original may."""
        found = Path(source)
        self.data(path, found.read_bytes(), 0o755 if os.access(found, os.X_OK) else 0o644)

    def close(self) -> None:
        self._tar.close()

    def _add(self, path: str, mode: int, kind: bytes = tarfile.REGTYPE, data: bytes = b"", target: str = "") -> None:
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.mode, entry.type, entry.size, entry.linkname = mode, kind, len(data), target
        self._tar.addfile(entry, io.BytesIO(data))


def _bytecode(path: str, source: bytes) -> bytes | None:
    """A `.pyc` that is never checked; None for a file that is no module, as templates of the standard library."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's sources
            code = compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    return MAGIC_NUMBER + (1).to_bytes(4, "little") + source_hash(source) + marshal.dumps(code)


def add_tools(tree: Tree, site: str = SITE) -> None:
    """The room of the tools, below a `toolenv` that does nothing."""
    tree.data(f"{site}/toolenv/__init__.py", b"")
    for path, name in tool_sources():
        tree.copy(f"{site}/toolenv/tools/{name}", path)


def tool_sources() -> list[tuple[Path, str]]:
    """Every module of the tools: where it lies, and its name below their folder."""
    room = Path(toolenv.tools.__file__).parent
    return [(path, path.relative_to(room).as_posix()) for path in sorted(room.rglob("*.py"))]


def package_versions() -> list[str]:
    """`name==version` of each package.

    Raises:
        OperatorError: one is not installed.
    """
    return [f"{name}=={_installed(name).version}" for name in PACKAGES]


def _installed(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise OperatorError(f"{name} is not installed; toolenv needs it") from None


def add_packages(tree: Tree) -> list[Path]:
    """The packages as they are installed here; their extension modules."""
    modules = []
    for name in PACKAGES:
        distribution = _installed(name)
        for file in distribution.files or ():
            if file.suffix not in (".py", ".so") and ".so." not in file.name and ".libs" not in file.parts[0]:
                continue
            if file.parts[0] == ".." or "tests" in file.parts:
                continue
            found = Path(str(distribution.locate_file(file)))
            tree.copy(f"{SITE}/{file.as_posix()}", found)
            if ".so" in file.suffixes:
                modules.append(found)
    return modules


def add_python(tree: Tree) -> list[Path]:
    """The running interpreter and its standard library; what of them links to libraries."""
    binary = Path(os.path.realpath(sys.executable))
    tree.copy(f"/usr/local/bin/{_VERSION}", binary)
    tree.link(PYTHON, _VERSION)
    linked = [binary]
    below = f"/usr/local/{sys.platlibdir}/{_VERSION}"
    for path, name in _files(Path(sysconfig.get_path("stdlib"))):
        tree.copy(f"{below}/{name}", path)
        if path.suffix == ".so":
            linked.append(path)
    return linked


def add_debian(tree: Tree, root: Path) -> None:
    """Debian's Python and the libraries beside it, of a Debian that `debootstrap` made in a folder.

    Raises:
        OperatorError: its Python is not of the running version, for which the packages are built.
    """
    binary = root / "usr/bin" / _VERSION
    if not binary.exists():
        raise OperatorError(f"this Debian has no {_VERSION}, for which the installed packages are built")
    tree.copy(f"/usr/bin/{_VERSION}", binary)
    tree.link(PYTHON, f"/usr/bin/{_VERSION}")
    for folder in [*root.glob("usr/lib/*-linux-gnu*"), root / "usr/lib" / _VERSION, root / "usr/lib64"]:
        for path, name in _files(folder):
            place = f"/{folder.relative_to(root)}/{name}"
            if path.is_symlink():
                # The settings in /etc stay out, and a link to what is not there stops a supervisor.
                if not (target := os.readlink(path)).startswith("/etc/"):
                    tree.link(place, target)
            else:
                tree.copy(place, path)
    for name in ("lib", "lib64"):
        tree.link(f"/{name}", f"usr/{name}")


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    """What of a folder a container may need: where it lies, and its name below the folder."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not _LEFT_OUT_NAMES.match(name))
        for name in sorted(files):
            if not _LEFT_OUT_NAMES.match(name) and not name.endswith((".a", ".pyc")):
                path = Path(folder, name)
                yield path, path.relative_to(root).as_posix()


def add_libraries(tree: Tree, linked: Iterable[Path]) -> None:
    """The shared libraries that files link to, and the loader.

    Raises:
        OperatorError: `ldd` can not be run.
    """
    try:
        told = subprocess.run(["ldd", *map(str, linked)], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise OperatorError(f"ldd, which names the libraries that Python needs, can not be run: {error}") from None
    done = set()
    for name, path in _FOUND.findall(told):
        # A line without an arrow is the loader, which stands where every binary looks for it.
        place = f"{LIBRARIES}/{name}" if name and "/" not in name else name or path
        if place not in done:
            done.add(place)
            tree.copy(place, path)


def add_folders(tree: Tree) -> None:
    """What containers mount over, and the two names that programs look for."""
    for path in ("/dev", "/etc", "/proc", "/sys"):
        tree.folder(path)
    for path in ("/sandbox", "/tmp"):
        tree.folder(path, 0o1777)
    tree.data("/etc/passwd", b"root:x:0:0::/:/none\nnobody:x:65534:65534::/:/none\n")
    tree.data("/etc/group", b"root:x:0:\nnogroup:x:65534:\n")
