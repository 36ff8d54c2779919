"""What takes a process's power away for good: Landlock, seccomp, capabilities, resource limits. Linux on x86-64.

A ruleset and a filter are made once in the supervisor; every interpreter that it forks puts them on itself before it
reads a line of agent-written code. Nothing here can be undone by the process that it was done to.

Sources: landlock(7), seccomp(2), prctl(2), capset(2), and Linux's headers of the same names.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Iterable, Mapping
from typing import Final


class LockdownUnavailable(Exception):
    """This kernel can not enforce what an interpreter needs."""


_libc: Final = ctypes.CDLL(None, use_errno=True)

# -- Landlock: which files can be reached -----------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_VERSION, _RULE_PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# Kernel's version of Landlock -> how many rights on files it knows.
_FILE_RIGHTS: Final = ((5, 16), (3, 15), (2, 14), (1, 13))
_NETWORK_RIGHTS, _NETWORK_VERSION = 0b11, 4
_SCOPES, _SCOPES_VERSION = 0b11, 6  # abstract sockets and signals


def landlock_version() -> int:
    """Of the running kernel; 0 if it has no Landlock."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_VERSION)))


def level() -> str:
    """What this machine's interpreters are kept in by, in words."""
    version = landlock_version() if platform.machine() == "x86_64" else 0
    return f"Landlock {version}, seccomp" if version else "nothing, so that none starts"


def make_ruleset(readable: Iterable[str]) -> int:
    """A file descriptor of a ruleset: nothing but reading these files, and what lies below these folders.

    Raises:
        LockdownUnavailable: the kernel has no Landlock, or it is switched off.
    """
    version = landlock_version()
    if not version:
        raise LockdownUnavailable("the kernel offers no Landlock, which keeps files from agent-written code")
    rights = next(count for least, count in _FILE_RIGHTS if version >= least)
    attributes = struct.pack(
        "QQQ",
        (1 << rights) - 1,
        _NETWORK_RIGHTS if version >= _NETWORK_VERSION else 0,
        _SCOPES if version >= _SCOPES_VERSION else 0,
    )
    size = 24 if version >= _SCOPES_VERSION else 16 if version >= _NETWORK_VERSION else 8
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0), "landlock_create_ruleset")
    for path in readable:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            allowed = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE
            rule = struct.pack("=Qi", allowed, opened)
            _checked(_libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0), "landlock_add_rule")
        finally:
            os.close(opened)
    return ruleset


# -- seccomp: which system calls can be made ---------------------------------------------------------------------

_ARCHITECTURE: Final = 0xC000003E  # AUDIT_ARCH_X86_64
_X32: Final = 0x40000000
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH = 0, 4

# Memory, time, what is open already, and itself. Absent: fork, clone, exec, kill, every kind of socket, mount, ptrace,
# memfd, io_uring, bpf, keyctl, and everything that writes to a file system.
_ALLOWED: Final = {
    "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "pread64": 17, "readv": 19, "writev": 20, "access": 21, "select": 23, "sched_yield": 24, "mremap": 25,
    "madvise": 28, "dup": 32, "nanosleep": 35, "getpid": 39, "exit": 60, "getcwd": 79, "readlink": 89,
    "gettimeofday": 96, "getrlimit": 97, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108,
    "sigaltstack": 131, "arch_prctl": 158, "gettid": 186, "futex": 202, "sched_getaffinity": 204, "getdents64": 217,
    "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231,
    "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "pselect6": 270, "ppoll": 271, "set_robust_list": 273,
    "getrandom": 318, "membarrier": 324, "statx": 332, "rseq": 334,
}  # fmt: skip

_OPEN, _OPENAT, _FCNTL, _IOCTL, _PRLIMIT, _CLONE3 = 2, 257, 72, 16, 302, 435
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FCNTLS: Final = (1, 2, 3)  # F_GETFD, F_SETFD, F_GETFL
_IOCTLS: Final = (0x5401, 0x5450, 0x5451)  # TCGETS, FIONCLEX, FIOCLEX


def make_filter() -> bytes:
    """The program that decides about every system call: those of `_ALLOWED`, and some others by their arguments.

    Raises:
        LockdownUnavailable: the processor is not an x86-64.
    """
    if platform.machine() != "x86_64":
        raise LockdownUnavailable(f"the system call filter is written for x86-64; this is {platform.machine()}")
    program = [
        _instruction(_LOAD, _ARCH),
        _instruction(_EQUAL, _ARCHITECTURE, 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        _instruction(_AT_LEAST, _X32, 0, 1),
        _instruction(_RETURN, _KILL),
    ]
    for number in _ALLOWED.values():
        program += [_instruction(_EQUAL, number, 0, 1), _instruction(_RETURN, _ALLOW)]
    # glibc takes this answer to mean that the kernel is old, and goes on with clone, which is refused for good.
    program += [_instruction(_EQUAL, _CLONE3, 0, 1), _instruction(_RETURN, _ERRNO | errno.ENOSYS)]
    program += _unless_any_bit(_OPEN, 1, _WRITING) + _unless_any_bit(_OPENAT, 2, _WRITING)
    program += _if_one_of(_FCNTL, 1, _FCNTLS) + _if_one_of(_IOCTL, 1, _IOCTLS)
    program += _if_all_zero(_PRLIMIT, 0, 2)  # reading its own limits only
    program.append(_instruction(_RETURN, _ERRNO | errno.EPERM))
    return b"".join(program)


def _unless_any_bit(number: int, argument: int, bits: int) -> list[bytes]:
    """Allow a call unless its argument has one of these bits."""
    return [
        _instruction(_EQUAL, number, 0, 4),
        _instruction(_LOAD, _argument(argument)),
        _instruction(_ANY_BIT, bits, 1, 0),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _ERRNO | errno.EPERM),
    ]


def _if_one_of(number: int, argument: int, values: Iterable[int]) -> list[bytes]:
    """Allow a call if the low and the high half of its argument are one of these values."""
    checks = []
    for value in values:
        checks += [_instruction(_EQUAL, value, 0, 1), _instruction(_RETURN, _ALLOW)]
    high = [_instruction(_LOAD, _argument(argument) + 4), _instruction(_EQUAL, 0, 1, 0)]
    body = [*high, _instruction(_RETURN, _ERRNO | errno.EPERM), _instruction(_LOAD, _argument(argument)), *checks]
    body.append(_instruction(_RETURN, _ERRNO | errno.EPERM))
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def _if_all_zero(number: int, *arguments: int) -> list[bytes]:
    """Allow a call if these arguments are zero."""
    body = []
    for half in (_argument(argument) + offset for argument in arguments for offset in (0, 4)):
        body += [_instruction(_LOAD, half), _instruction(_EQUAL, 0, 1, 0), _instruction(_RETURN, _ERRNO | errno.EPERM)]
    return [_instruction(_EQUAL, number, 0, len(body) + 1), *body, _instruction(_RETURN, _ALLOW)]


def _argument(index: int) -> int:
    """Where a call's argument lies in seccomp's data: its lower half."""
    return 16 + 8 * index


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


# -- putting it on -------------------------------------------------------------------------------------------------

_SET_PARENT_DEATH_SIGNAL: Final = 1
_SET_DUMPABLE, _SET_SECCOMP, _DROP_BOUNDING, _SET_NO_NEW_PRIVILEGES = 4, 22, 24, 38
_CAPABILITY_VERSION: Final = 0x20080522


def hide_from_others() -> None:
    """Keep this process's memory and /proc files from processes of the same user."""
    _checked(_libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def be_killed_first() -> None:
    """Let the kernel end this process before any other when memory runs out."""
    _checked(_libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")  # else the file is root's
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    hide_from_others()


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that forked it ends. To be asked for after `capset`.

    Raises:
        OSError: the kernel refused, or the parent has ended already.
    """
    _checked(_libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise ProcessLookupError(errno.ESRCH, "the supervisor has ended")


def lock_down(ruleset: int, program: bytes, limits: Mapping[int, int], parent: int) -> None:
    """Give up everything, for good.

    Args:
        ruleset: of `make_ruleset`; it is closed.
        program: of `make_filter`.
        limits: resource.RLIMIT_* -> value.
        parent: the process that forked this one, with which it ends.

    Raises:
        OSError: the kernel refused a part of it; the process must not go on.
    """
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    hide_from_others()
    _checked(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    _drop_capabilities()
    end_with_parent(parent)
    _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)
    text = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: an unsigned short, padding, a pointer.
    filter_ = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(text))
    _checked(_libc.prctl(_SET_SECCOMP, 2, filter_, 0, 0), "prctl(PR_SET_SECCOMP)")


def _drop_capabilities() -> None:
    """All of them, also those that root would get back by exec. An ordinary user has none."""
    capability = 0
    while _libc.prctl(_DROP_BOUNDING, capability, 0, 0, 0) == 0:
        capability += 1
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    _checked(_libc.capset(header, bytes(24)), "capset")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
