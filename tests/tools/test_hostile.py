"""Hostile code in the interpreter: whatever it tries, nothing outside notices and the next step works.

Known, and not tested: Landlock does not restrict `stat` and `readlink`, so that code can learn whether a path exists,
how large the file is and when it was changed; never what stands in it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import toolenv.tools.sandbox.embedded
from toolenv.tools.interpreter import workspace
from toolenv.tools.sandbox import docker_tree
from toolenv.tools.sandbox.contract import Sandbox
from toolenv.tools.sandbox.docker_container import AttachedLine
from toolenv.tools.sandbox.docker_sandbox import DockerSandbox, PoolSettings
from toolenv.tools.sandbox.embedded import EmbeddedSandbox
from toolenv.tools.sandbox.interpreters import SandboxUnavailable
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage, open_connection

# Tests do not stand on the import path.
_SPEC = importlib.util.spec_from_file_location("hostile", Path(__file__).with_name("hostile.py"))
hostile = importlib.util.module_from_spec(_SPEC)
sys.modules["hostile"] = hostile
_SPEC.loader.exec_module(hostile)

LIMITS = Limits(seconds=0.5)
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


BYSTANDER = Path(__file__).with_name("bystander.py")


class Surroundings:
    """What hostile code may be after (see `bystander.py`), and a secret in the environment of the sandbox's owner.

    Args:
        sandbox: where the code runs.
        bystander: what it said first.
        ask: gives the line that it says when it is asked.
        words: of a snippet -> their meaning, besides those that the bystander knows.
    """

    def __init__(
        self, sandbox: Sandbox, bystander: dict[str, Any], ask: Callable[[], bytes], words: dict[str, object]
    ) -> None:
        self.sandbox, self._ask = sandbox, ask
        self.secrets = [bystander["secret"], os.environ["TOOLENV_HOSTILE"]]
        self._words = {
            **words,
            "VICTIM": bystander["victim"],
            "CANARY": bystander["canary"],
            "FOLDER": Path(bystander["canary"]).parent,
            "PORT": bystander["port"],
            "ABSTRACT": bystander["secret"],
            "SECRET": "TOOLENV_HOSTILE",
        }
        self.before = self.state()

    def state(self) -> dict[str, object]:
        """All that hostile code must leave as it is."""
        guest = sorted((path.name, path.stat().st_mtime) for path in SANDBOX.with_name("guest").glob("*.py"))
        return {"guest": guest, **json.loads(self._ask())}

    def filled_in(self, code: str) -> str:
        for word, meaning in self._words.items():
            code = code.replace(f"${word}", str(meaning))
        return code


@contextmanager
def around_local(sandbox: EmbeddedSandbox, supervisor: int, folder: Path) -> Iterator[Surroundings]:
    """The bystander is another child of this process."""
    with closing(sandbox):
        words = {
            "SUPERVISOR": supervisor,
            "OWNER": os.getpid(),
            "SOURCE": SANDBOX,
            "GUEST": SANDBOX.with_name("guest") / "lockdown.py",
            "PACKAGES": sysconfig.get_path("purelib"),
        }
        command = [sys.executable, BYSTANDER, folder, str(os.getpid())]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as bystander:

            def ask() -> bytes:
                bystander.stdin.write(b"\n")
                return bystander.stdout.readline()

            yield Surroundings(sandbox, json.loads(bystander.stdout.readline()), ask, words)
            bystander.stdin.close()


@contextmanager
def around_embedded(folder: Path) -> Iterator[Surroundings]:
    sandbox = EmbeddedSandbox(LIMITS)
    with around_local(sandbox, sandbox._interpreters.supervisor._process.pid, folder) as surroundings:
        yield surroundings


@contextmanager
def around_monty(folder: Path) -> Iterator[Surroundings]:
    from toolenv.tools.sandbox.monty import MontySandbox  # an extra: SandboxUnavailable without it

    with around_local(MontySandbox(LIMITS), os.getpid(), folder) as surroundings:
        yield surroundings


@contextmanager
def around_docker(_: Path) -> Iterator[Surroundings]:
    """The bystander is in the container, and of the same user as the interpreters."""
    sandbox = DockerSandbox(LIMITS, pool=PoolSettings(warm=0, most=1))
    with closing(sandbox):
        sandbox.open(IMAGE, TOOLBOX).close()
        (worker,) = sandbox.pool.workers
        api = sandbox._client.api
        command = [docker_tree.PYTHON, "-c", BYSTANDER.read_text(), "/tmp/hostile", "1"]
        secret = {"TOOLENV_HOSTILE": os.environ["TOOLENV_HOSTILE"]}
        made = api.exec_create(worker.name, command, stdin=True, environment=secret)
        line = AttachedLine(sandbox._client, api.exec_start(made["Id"], socket=True), worker.name, seconds=10)

        def ask() -> bytes:
            line.send(b"\n")
            return line.receive()

        bystander = json.loads(line.receive())
        words = {
            **dict(zip(("SUPERVISOR", "OWNER"), bystander["below"], strict=True)),
            "SOURCE": f"{docker_tree.SITE}/toolenv/tools/sandbox/embedded.py",
            "GUEST": f"{docker_tree.SITE}/toolenv/tools/sandbox/guest/lockdown.py",
            "PACKAGES": docker_tree.SITE,
        }
        written = api.diff(worker.name)
        yield Surroundings(sandbox, bystander, ask, words)
        line._attached._response.close()
        assert api.diff(worker.name) == written, "something was written to the container's layer"


AROUND = {"embedded": around_embedded, "monty": around_monty, "docker": around_docker}


@pytest.fixture(scope="module", params=AROUND)
def around(request, tmp_path_factory) -> Iterator[Surroundings]:
    folder = tmp_path_factory.mktemp("hostile")
    folder.chmod(0o777)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("TOOLENV_HOSTILE", secrets.token_hex(16))
        try:
            surroundings = stack.enter_context(AROUND[request.param](folder))
        except SandboxUnavailable as error:
            pytest.skip(str(error))
        yield surroundings


@pytest.mark.parametrize("snippet", hostile.SNIPPETS, ids=lambda snippet: f"{snippet.kind}-{snippet.name}")
def test_contained(around, snippet):
    session = around.sandbox.open(IMAGE, TOOLBOX)
    try:
        assert session.call("write_file", {"path": "kept.txt", "text": "kept"}).error is None
        result = session.call("run_python", {"code": around.filled_in(snippet.code)})
        assert result.error is None
        assert hostile.ESCAPED not in result.text, "it had what it tried to get"
        shown = result.text.replace(f"\\u0000{around.secrets[0]}", "")
        assert not [secret for secret in around.secrets if secret in shown], "a secret is shown"
        if around.sandbox.name != "monty":  # there most fail because there is no such thing
            assert re.search(snippet.says, result.text), "it failed for another reason than meant"
        assert len(result.text) < 30_000, "the result is longer than the limit on output allows"
        texts = [session.call("run_python", {"code": "print(1 + 1)"}).text for _ in range(1 if snippet.sound else 3)]
        assert texts[-1] == '{"output":"2"}' or snippet.kind == "confuse", "the interpreter is of no use any more"
        files = session.call("list_files", {}).content["files"]
        assert {"path": "kept.txt", "bytes": 4} in files, "a file of the workspace is gone"
        assert [change.table for change in session.diff() if change.table not in ("_files", "_cells")] == []
    finally:
        session.close()
    assert around.state() == around.before, "it changed something outside, or reached a listener"


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
        "-k",
        "not docker",
        f"--basetemp={open_folder / 'base'}",
        Path(__file__).name,
    ]
    run = subprocess.run([*prefix, *command], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-5000:]
    backends = 1 + (importlib.util.find_spec("pydantic_monty") is not None)
    assert f"{backends * (len(hostile.SNIPPETS) + 1)} passed" in run.stdout
