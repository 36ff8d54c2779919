"""Hostile code in the interpreter: whatever it tries, nothing outside notices and the next step works.

Known, and not tested: Landlock does not restrict `stat` and `readlink`, so that code can learn whether a path exists,
how large the file is and when it was changed; never what stands in it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import toolenv.tools.sandbox.embedded
from toolenv.tools.interpreter import workspace
from toolenv.tools.sandbox.embedded import EmbeddedSandbox
from toolenv.tools.sandbox.interpreters import SandboxUnavailable
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.sandbox.monty import MontySandbox
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage, open_connection

# Tests do not stand on the import path.
_SPEC = importlib.util.spec_from_file_location("hostile", Path(__file__).with_name("hostile.py"))
hostile = importlib.util.module_from_spec(_SPEC)
sys.modules["hostile"] = hostile
_SPEC.loader.exec_module(hostile)

TOOLBOX = Toolbox.of_families("interpreter")
SANDBOX = Path(toolenv.tools.sandbox.embedded.__file__)
NOBODY = 65_534


def image() -> WorldImage:
    connection = open_connection()
    connection.execute(
        "CREATE TABLE balances (id INTEGER PRIMARY KEY, amount INTEGER); INSERT INTO balances VALUES (1, 5)"
    )
    return workspace.added_to(WorldImage.of_connection(connection, "balances"))


IMAGE = image()


class Surroundings:
    """What hostile code may be after: a file, a secret of the environment, listeners, a process."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.secret = secrets.token_hex(16)
        self.folder = folder
        self.canary = folder / "canary.py"
        self.canary.write_text(f"canary = {self.secret!r}\n")
        os.environ["TOOLENV_HOSTILE"] = self.secret
        self.backend = backend
        limits = Limits(seconds=0.5)
        self.sandbox = EmbeddedSandbox(limits) if backend == "embedded" else MontySandbox(limits)
        try:
            embedded = backend == "embedded"
            self.supervisor = self.sandbox._interpreters.supervisor._process.pid if embedded else os.getpid()
        except BaseException:  # before there is anything else to give back
            del os.environ["TOOLENV_HOSTILE"]
            raise
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind("\0" + self.secret)
        self.abstract.listen()
        self.victim = subprocess.Popen(["sleep", "600"])
        self.before = self.state()

    def state(self) -> tuple[object, ...]:
        """All that hostile code must leave as it is."""
        files = [(path.name, path.stat().st_mode, path.read_bytes()) for path in sorted(self.folder.iterdir())]
        guest = sorted((path.name, path.stat().st_mtime) for path in SANDBOX.with_name("guest").glob("*.py"))
        return files, guest, descendants(os.getpid()), self.victim.poll()

    def connections(self) -> int:
        """How many reached a listener."""
        found = 0
        for listener in (self.listener, self.abstract):
            listener.settimeout(0)
            try:
                listener.accept()[0].close()
                found += 1
            except BlockingIOError:
                pass
        return found

    def filled_in(self, code: str) -> str:
        words = {
            "SUPERVISOR": self.supervisor,
            "OWNER": os.getpid(),
            "VICTIM": self.victim.pid,
            "CANARY": self.canary,
            "FOLDER": self.folder,
            "SOURCE": SANDBOX,
            "GUEST": SANDBOX.with_name("guest") / "lockdown.py",
            "PACKAGES": sysconfig.get_path("purelib"),
            "PORT": self.listener.getsockname()[1],
            "ABSTRACT": self.secret,
            "SECRET": "TOOLENV_HOSTILE",
        }
        for word, meaning in words.items():
            code = code.replace(f"${word}", str(meaning))
        return code

    def close(self) -> None:
        self.sandbox.close()
        self.victim.kill()
        self.victim.wait()
        self.listener.close()
        self.abstract.close()
        del os.environ["TOOLENV_HOSTILE"]


def descendants(process: int) -> list[int]:
    """The processes below a process, without those of Monty's pool, which come and go."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            if Path(f"/proc/{child}/comm").read_text() != "monty\n":
                found += [child, *descendants(child)]
    return sorted(found)


@pytest.fixture(scope="module", params=["embedded", "monty"])
def around(request, tmp_path_factory) -> Iterator[Surroundings]:
    folder = tmp_path_factory.mktemp("hostile")
    folder.chmod(0o777)
    try:
        surroundings = Surroundings(folder, request.param)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield surroundings
    surroundings.close()


@pytest.mark.parametrize("snippet", hostile.SNIPPETS, ids=lambda snippet: f"{snippet.kind}-{snippet.name}")
def test_contained(around, snippet):
    session = around.sandbox.open(IMAGE, TOOLBOX)
    try:
        assert session.call("write_file", {"path": "kept.txt", "text": "kept"}).error is None
        result = session.call("run_python", {"code": around.filled_in(snippet.code)})
        assert result.error is None
        assert hostile.ESCAPED not in result.text, "it had what it tried to get"
        assert around.secret not in result.text.replace(f"\\u0000{around.secret}", ""), "a secret is shown"
        if around.backend == "embedded":  # in Monty most fail because there is no such thing
            assert re.search(snippet.says, result.text), "it failed for another reason than meant"
        assert len(result.text) < 30_000, "the result is longer than the limit on output allows"
        texts = [session.call("run_python", {"code": "print(1 + 1)"}).text for _ in range(1 if snippet.sound else 3)]
        assert texts[-1] == '{"output":"2"}' or snippet.kind == "confuse", "the interpreter is of no use any more"
        files = session.call("list_files", {}).content["files"]
        assert {"path": "kept.txt", "bytes": 4} in files, "a file of the workspace is gone"
        assert [change.table for change in session.diff() if change.table not in ("_files", "_cells")] == []
    finally:
        session.close()
    assert around.connections() == 0, "it reached a listener"
    assert around.state() == around.before, "it changed something outside"


def test_a_healthy_session_after_all_of_them(around):
    session = around.sandbox.open(IMAGE, TOOLBOX)
    assert session.call("run_python", {"code": "sum(range(10))"}).content == {"output": "45"}
    session.close()


def _as_ordinary_user() -> list[str]:
    """The start of a command line that runs the rest as an ordinary user.

    Where that user may not read the interpreter (it lies in root's home), a user namespace makes root an ordinary user
    instead: number 65534 inside, no capability anywhere, and of files and processes what root's plain owner may.
    """
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    # `setpriv` still has root's power when it starts the interpreter, which then can not start another.
    again = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', 'import pytest']).returncode)"
    if (
        shutil.which("setpriv")
        and not subprocess.run([*prefix, sys.executable, "-c", again], capture_output=True).returncode
    ):
        return prefix
    return ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Where everybody may write: pytest's own folders are closed to other users."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="everything above ran as an ordinary user already")
def test_contained_as_an_ordinary_user(open_folder):
    prefix = _as_ordinary_user()
    check = "import os; print(os.getuid(), *[l for l in open('/proc/self/status') if l.startswith('CapEff')])"
    who = subprocess.run([*prefix, sys.executable, "-c", check], capture_output=True, text=True)
    if who.returncode:
        pytest.skip(f"no way to become an ordinary user here: {who.stderr.strip()[-200:]}")
    assert who.stdout.split() == [str(NOBODY), "CapEff:", "0" * 16]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={open_folder / 'base'}",
        Path(__file__).name,
    ]
    run = subprocess.run([*prefix, *command], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-5000:]
    assert f"{2 * (len(hostile.SNIPPETS) + 1)} passed" in run.stdout
