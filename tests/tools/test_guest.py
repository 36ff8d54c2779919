"""The parts of the locked-down process that can be tested without locking this one down."""

from __future__ import annotations

import ast
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from toolenv.tools.sandbox.guest import lockdown
from toolenv.tools.sandbox.guest.files import Files
from toolenv.tools.sandbox.guest.interpreter import Interpreter, Output

LIMITS = {"output": 100, "files": 3, "file_bytes": 10, "all_bytes": 15}
ALLOW, KILL = 0x7FFF0000, 0x80000000
X86_64 = 0xC000003E


def verdict(number, *arguments, architecture=X86_64):
    """What the filter says of a system call: the program is run as the kernel would."""
    data = struct.pack("IIQ6Q", number, architecture, 0, *[*arguments, *[0] * 6][:6])
    program = list(struct.iter_unpack("HBBI", lockdown.make_filter()))
    accumulator = place = 0
    while True:
        code, if_true, if_false, value = program[place]
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("I", data, value)
        elif code == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            place += if_true if holds else if_false


def test_the_filter_allows_what_it_lists_and_refuses_the_rest():
    allowed = {number for number in range(1024) if verdict(number) == ALLOW}
    by_argument = {2, 257, 302}
    assert allowed == set(lockdown._ALLOWED.values()) | by_argument
    assert verdict(435) & 0xFFFF == 38


def test_the_filter_ends_who_uses_another_architecture():
    assert verdict(0, architecture=0x40000003) == KILL
    assert verdict(0x40000000) == KILL


@pytest.mark.parametrize(
    "flag", [os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND, os.O_TMPFILE | os.O_RDWR]
)
def test_the_filter_refuses_to_open_for_writing(flag):
    assert verdict(2, 0, flag) != ALLOW
    assert verdict(257, 0, 0, flag) != ALLOW


@pytest.mark.parametrize(
    ("call", "allowed"),
    [
        ((302, 0, 7, 0), True),
        ((302, 1, 7, 0), False),
        ((302, 1 << 32, 7, 0), False),
        ((302, 0, 7, 1), False),
        ((302, 0, 7, 1 << 32), False),
        ((72, 3, 1), True),
        ((72, 3, 1 << 32 | 1), False),
        ((72, 3, 0), False),
        ((16, 0, 0x5401), True),
        ((16, 0, 0x5412), False),
    ],
)
def test_the_filter_looks_at_arguments_in_whole(call, allowed):
    assert (verdict(*call) == ALLOW) == allowed


def test_system_call_numbers_are_those_of_the_headers():
    header = next((path for path in Path("/usr/include").rglob("unistd_64.h")), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed")
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    assert {name: int(known[name]) for name in lockdown._ALLOWED if name in known} == {
        name: number for name, number in lockdown._ALLOWED.items() if name in known
    }


def test_files_behave_as_files():
    files = Files(3, 10, 15)
    with files.open("a.txt", "w") as file:
        file.write("one\n")
    with files.open("a.txt", "a") as file:
        file.write("two\n")
    assert files.open("/workspace/a.txt").read() == "one\ntwo\n"
    files.mkdir("folder")
    files.replace("a.txt", "folder/b.txt")
    assert files.listdir() == ["folder"]
    assert [(entry.name, entry.is_file()) for entry in files.scandir("folder")] == [("b.txt", True)]
    assert files.stat("folder/b.txt").st_size == 8
    assert not files.access("a.txt")
    files.remove("folder/b.txt")
    files.rmdir("folder")
    assert files.contents == {}


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b"])
def test_no_file_is_outside(name):
    with pytest.raises(FileNotFoundError):
        Files(3, 10, 15).open(name)


def test_files_have_limits():
    files = Files(3, 10, 15)
    with files.open("a", "wb") as file, pytest.raises(OSError, match="No space"):
        file.write(b"x" * 11)
    files.store("a", b"x" * 10)
    with pytest.raises(OSError, match="No space"):
        files.store("b", b"x" * 10)
    files.store("b", b"")
    files.store("c", b"")
    with pytest.raises(OSError, match="No space"):
        files.store("d", b"")


def test_a_cell_and_its_reply():
    interpreter = Interpreter(LIMITS)
    request = {"nonce": "n", "code": "x = 2\nx + 1", "name": "<cell>", "fresh": False, "files": {}}
    expected = {"nonce": "n", "output": "3", "exception": None, "line": None, "files": {}}
    assert interpreter.run(request) == expected
    assert interpreter.run(request | {"code": "x", "fresh": True})["exception"].startswith("NameError")
    assert interpreter.run(request | {"code": "1 / 0"})["line"] == 1


def test_output_is_cut():
    output = Output(3)
    output.write("abcde")
    assert output.take() == "abc\n[2 more characters]"
    assert output.take() == ""


def test_the_clock_stands_still():
    code = (
        "from toolenv.tools.sandbox.guest import clockwork; clockwork.install()\n"
        "import time, datetime, random, uuid\n"
        "time.sleep(60)\n"
        "print([str(datetime.datetime.now()), str(datetime.date.today()), time.time(), time.strftime('%M'),\n"
        " isinstance(datetime.datetime(2026, 1, 1), datetime.date), str(uuid.uuid4()), random.Random().random()])"
    )
    first, second = (subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(2))
    assert first == second
    assert ast.literal_eval(first)[:5] == ["2026-03-15 12:01:00", "2026-03-15", 1_773_576_060.0, "01", True]
