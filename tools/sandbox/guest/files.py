"""The interpreter's files: a tree in memory in place of the file system.

`open`, and what `os` says about files, are replaced in the interpreter, so that code reads and writes files as
everywhere, and yet nothing reaches a disk. This is convenience, not protection: the real file system is closed by
`lockdown`, whatever code makes of these functions.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from typing import Any, Final

HOME: Final = "/workspace"


class Files:
    """Files by their path below HOME; folders are where files lie, and those that were made.

    Args:
        most: how many files.
        most_bytes: of one file.
        all_bytes: of all files together.
    """

    def __init__(self, most: int, most_bytes: int, all_bytes: int) -> None:
        self.contents: dict[str, bytes] = {}
        self.folders: set[str] = set()
        self._most, self._most_bytes, self._all_bytes = most, most_bytes, all_bytes

    def path(self, name: Any) -> str:
        """The path below HOME of a name; "" is HOME itself.

        Raises:
            FileNotFoundError: the name leads elsewhere, where nothing is.
        """
        text = os.fsdecode(name)
        if not text.isprintable():
            raise _error(errno.EINVAL, ascii(text))
        whole = posixpath.normpath(posixpath.join(HOME, text))
        if whole != HOME and not whole.startswith(HOME + "/"):
            raise _error(errno.ENOENT, text)
        return whole[len(HOME) + 1 :]

    def is_folder(self, path: str) -> bool:
        return not path or path in self.folders or any(name.startswith(path + "/") for name in self.contents)

    def store(self, path: str, content: bytes) -> None:
        """Keep a file's content.

        Raises:
            OSError: it is too large, there are too many, or its place is taken.
        """
        if not path or self.is_folder(path):
            raise _error(errno.EISDIR, path)
        parent = posixpath.dirname(path)
        if not self.is_folder(parent):
            raise _error(errno.ENOENT, path)
        others = sum(len(data) for name, data in self.contents.items() if name != path)
        if len(content) > self._most_bytes or others + len(content) > self._all_bytes:
            raise _error(errno.ENOSPC, path)
        if path not in self.contents and len(self.contents) >= self._most:
            raise _error(errno.ENOSPC, path)
        self.contents[path] = content

    def put(self, changes: Mapping[str, str | None]) -> None:
        """Files that were written or, with None, removed from outside."""
        for path, text in changes.items():
            if text is None:
                self.contents.pop(path, None)
            else:
                self.contents[path] = text.encode()

    def children(self, path: str) -> list[str]:
        """The names in a folder, sorted."""
        if path in self.contents:
            raise _error(errno.ENOTDIR, path)
        if not self.is_folder(path):
            raise _error(errno.ENOENT, path)
        start = path + "/" if path else ""
        below = [name[len(start) :] for name in (*self.contents, *self.folders) if name.startswith(start)]
        return sorted({name.partition("/")[0] for name in below if name})

    # -- what takes the place of open and os ---------------------------------------------------------------------

    def open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """As the built-in, for files of this tree."""
        if isinstance(file, int):
            raise _error(errno.EBADF, str(file))
        path = self.path(file)
        kinds, text = set(mode) & set("rwxa"), "b" not in mode
        if len(kinds) != 1 or set(mode) - set("rwxabt+"):
            raise ValueError(f"invalid mode: {mode!r}")
        kind = kinds.pop()
        known = self.contents.get(path)
        if known is None and self.is_folder(path):
            raise _error(errno.EISDIR, path)
        if kind == "r" and known is None:
            raise _error(errno.ENOENT, path)
        if kind == "x" and known is not None:
            raise _error(errno.EEXIST, path)
        start = b"" if kind in "wx" or known is None else known
        if kind != "r":
            self.store(path, start)
        raw = _Open(self, path, start, readable=kind == "r" or "+" in mode, writable=kind != "r" or "+" in mode)
        if kind == "a":
            raw.seek(0, io.SEEK_END)
        if not text:
            return raw
        wrapped = io.TextIOWrapper(raw, encoding or "utf-8", errors, newline, write_through=True)
        wrapped.mode = mode  # type: ignore[misc]  # as the built-in sets it
        return wrapped

    def stat(self, path: Any, *_: Any, **__: Any) -> os.stat_result:
        name = self.path(path)
        if (content := self.contents.get(name)) is not None:
            return os.stat_result((stat.S_IFREG | 0o644, 0, 0, 1, 0, 0, len(content), 0, 0, 0))
        if self.is_folder(name):
            return os.stat_result((stat.S_IFDIR | 0o755, 0, 0, 1, 0, 0, 0, 0, 0, 0))
        raise _error(errno.ENOENT, name)

    def listdir(self, path: Any = ".") -> list[str]:
        return self.children(self.path(path))

    def scandir(self, path: Any = ".") -> _Entries:
        folder = os.fspath(path)
        return _Entries([_Entry(self, folder, name) for name in self.listdir(folder)])

    def access(self, path: Any, *_: Any, **__: Any) -> bool:
        try:
            self.stat(path)
        except OSError:
            return False
        return True

    def remove(self, path: Any, **_: Any) -> None:
        name = self.path(path)
        if name not in self.contents:
            raise _error(errno.EISDIR if self.is_folder(name) else errno.ENOENT, name)
        del self.contents[name]

    def mkdir(self, path: Any, *_: Any, **__: Any) -> None:
        name = self.path(path)
        if name in self.contents or self.is_folder(name):
            raise _error(errno.EEXIST, name)
        if not self.is_folder(posixpath.dirname(name)):
            raise _error(errno.ENOENT, name)
        if len(self.folders) >= self._most:
            raise _error(errno.ENOSPC, name)
        self.folders.add(name)

    def rmdir(self, path: Any, **_: Any) -> None:
        name = self.path(path)
        if self.children(name):
            raise _error(errno.ENOTEMPTY, name)
        self.folders.discard(name)

    def replace(self, source: Any, target: Any, **_: Any) -> None:
        name = self.path(source)
        if name not in self.contents:
            raise _error(errno.ENOENT, name)
        content = self.contents.pop(name)
        try:
            self.store(self.path(target), content)
        except OSError:
            self.contents[name] = content
            raise

    def install(self) -> None:
        """Take the place of `open` and of what `os` does with files, in this interpreter."""
        builtins.open = io.open = self.open
        for name in ("stat", "listdir", "scandir", "access", "remove", "mkdir", "rmdir", "replace"):
            setattr(os, name, getattr(self, name))
        for name, function in (("lstat", self.stat), ("unlink", self.remove), ("rename", self.replace)):
            setattr(os, name, function)
        os.getcwd = lambda: HOME
        os.readlink = _not_here
        os.chdir = os.chmod = os.utime = _not_here


class _Open(io.BytesIO):
    """An open file. What is written stands in the tree at once."""

    def __init__(self, files: Files, path: str, content: bytes, *, readable: bool, writable: bool) -> None:
        super().__init__(content)
        self.name, self._files, self._path = path, files, path
        self._readable, self._writable = readable, writable

    def readable(self) -> bool:
        return self._readable

    def writable(self) -> bool:
        return self._writable

    def read(self, size: int | None = -1, /) -> bytes:
        self._require_readable()
        return super().read(size)

    def read1(self, size: int | None = -1, /) -> bytes:
        self._require_readable()
        return super().read1(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        self._require_readable()
        return super().readline(size)

    def write(self, data: Any, /) -> int:
        if not self._writable:
            raise io.UnsupportedOperation("not writable")
        written = super().write(data)
        self._files.store(self._path, self.getvalue())
        return written

    def truncate(self, size: int | None = None, /) -> int:
        if not self._writable:
            raise io.UnsupportedOperation("not writable")
        length = super().truncate(size)
        self._files.store(self._path, self.getvalue())
        return length

    def _require_readable(self) -> None:
        if not self._readable:
            raise io.UnsupportedOperation("not readable")


class _Entry:
    """What `os.scandir` gives."""

    def __init__(self, files: Files, folder: str, name: str) -> None:
        self._files, self.name, self.path = files, name, posixpath.join(folder, name)

    def is_dir(self, **_: Any) -> bool:
        return self._files.is_folder(self._files.path(self.path))

    def is_file(self, **_: Any) -> bool:
        return not self.is_dir()

    def is_symlink(self) -> bool:
        return False

    def stat(self, **_: Any) -> os.stat_result:
        return self._files.stat(self.path)

    def __fspath__(self) -> str:
        return self.path


class _Entries:
    """The iterator and context manager that `os.scandir` gives."""

    def __init__(self, entries: list[_Entry]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[_Entry]:
        return self._entries

    def __next__(self) -> _Entry:
        return next(self._entries)

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def _not_here(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EPERM, "not available in this interpreter")
