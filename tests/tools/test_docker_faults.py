"""The docker sandbox when what it stands on fails: a typed error, nothing left behind, and a healthy next lease."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import gymnasium
import pytest

from toolenv.tools.errors import SandboxLost
from toolenv.tools.interpreter import workspace
from toolenv.tools.sandbox import docker_image, docker_labels, docker_tree
from toolenv.tools.sandbox.docker_container import ContainerSettings
from toolenv.tools.sandbox.docker_sandbox import DockerSandbox, PoolSettings
from toolenv.tools.sandbox.interpreters import SandboxUnavailable
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage, open_connection

TOOLBOX = Toolbox.of_families("interpreter")
IMAGE = workspace.added_to(WorldImage.of_connection(open_connection(), "empty"))
LIMITS = Limits(seconds=1)
ANSWER = 3.0
LATENCY = 1.0
SPIN = {"name": "run_python", "arguments": {"code": "while True: pass"}}
OWNERS = int(os.environ.get("TOOLENV_OWNERS_KILLED", "20"))


def made(**settings: object) -> DockerSandbox:
    """A sandbox; skips where there is no engine."""
    try:
        return DockerSandbox(
            LIMITS,
            ContainerSettings(answer_seconds=ANSWER, **settings),
            PoolSettings(warm=0, most=2, sessions=8, wait_seconds=10),
        )
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[DockerSandbox]:
    sandbox = made()
    yield sandbox
    sandbox.close()
    wait_until(lambda: not containers(sandbox), 5, "containers are left")


def containers(sandbox: DockerSandbox) -> list[str]:
    filters = {"label": f"{docker_labels.SESSION}={sandbox._session}"}
    return [found["Id"] for found in sandbox._client.api.containers(all=True, filters=filters)]


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def python(session, code: str) -> dict:
    return session.call("run_python", {"code": code}).content


def must_be_healthy(sandbox: DockerSandbox) -> None:
    session = sandbox.open(IMAGE, TOOLBOX)
    assert python(session, "1 + 1") == {"output": "2"}
    session.close()


def processes(sandbox: DockerSandbox, container: str) -> dict[str, int]:
    """The numbers, outside, of a container's processes by what they do; of interpreters that of the newest."""
    rows = [row.split()[:2] for row in _top(sandbox, container)]
    parents = {int(process): int(parent) for process, parent in rows}
    (init,) = [process for process, parent in parents.items() if parent not in parents]
    (supervisor,) = [process for process, parent in parents.items() if parent == init]
    worker, *guests = sorted(process for process, parent in parents.items() if parent == supervisor)
    return {"init": init, "supervisor": supervisor, "worker": worker, "interpreter": guests[-1]}


def _top(sandbox: DockerSandbox, container: str) -> list[str]:
    return [" ".join(row) for row in sandbox._client.api.top(container, "-o pid,ppid")["Processes"]]


def fail(sandbox: DockerSandbox, container: str, what: str) -> None:
    if what == "container":
        sandbox._client.api.kill(container)
    elif what == "pause":
        sandbox._client.api.pause(container)
    else:
        os.kill(processes(sandbox, container)[what], signal.SIGKILL)


@pytest.mark.parametrize("what", ["interpreter", "worker", "supervisor", "init", "container", "pause"])
def test_an_episode_is_truncated_and_masked_and_the_next_one_is_healthy(sandbox, what):
    env = gymnasium.make("ToolEnv-CodeInterpreter-v0", sandbox=sandbox)
    env.reset(seed=1)
    assert not env.step({"name": "run_python", "arguments": {"code": "x = 1"}})[3]
    container = env.unwrapped._session._session.worker.name
    neighbour = sandbox.open(IMAGE, TOOLBOX)
    assert neighbour._session.worker.name == container
    failed = []

    def fail_soon() -> None:
        time.sleep(0.2)
        fail(sandbox, container, what)
        failed.append(time.monotonic())

    thread = threading.Thread(target=fail_soon)
    thread.start()
    _, reward, terminated, truncated, info = env.step(SPIN)
    thread.join()
    assert time.monotonic() - failed[0] < LATENCY + (ANSWER if what == "pause" else 0)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["sandbox_lost"]
    assert info["reward_masked"]
    with pytest.raises(SandboxLost):
        python(neighbour, "1")
    wait_until(lambda: container not in containers(sandbox), 5, "the container is left")
    env.reset(seed=1)
    assert not env.step({"name": "run_python", "arguments": {"code": "1"}})[3]
    env.close()
    neighbour.close()
    assert [worker.sessions for worker in sandbox.pool.workers].count(0) == len(sandbox.pool.workers)


@pytest.mark.parametrize("what", ["worker", "container", "pause"])
def test_a_container_that_fails_while_nobody_uses_it_is_not_leased(sandbox, what):
    must_be_healthy(sandbox)
    session = sandbox.open(IMAGE, TOOLBOX)
    python(session, "1")
    container = session._session.worker.name
    idle = [worker.name for worker in sandbox.pool.workers]
    for name in idle:
        if name == container or what != "worker":
            fail(sandbox, name, what)
    session.close()
    must_be_healthy(sandbox)
    assert container not in [worker.name for worker in sandbox.pool.workers]
    wait_until(lambda: container not in containers(sandbox), 5, "the container is left")


def test_memory_that_agent_written_code_wants_is_a_result(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    python(session, "x = 1")
    assert python(session, "bytes(10 ** 9)")["exception"] == "MemoryError"
    assert python(session, "x") == {"output": "1"}
    session.close()


def test_a_container_out_of_memory_is_lost_and_no_other(sandbox):
    bystander = sandbox.open(IMAGE, TOOLBOX)
    python(bystander, "x = 1")
    small = made(memory=128 * 2**20)
    sessions = [small.open(IMAGE, TOOLBOX) for _ in range(4)]
    began = time.monotonic()
    # The kernel ends the interpreter of a session that waits; that session is told.
    with pytest.raises(SandboxLost):
        [python(session, "x = b'x' * 70_000_000") for session in [*sessions, *sessions]]
    assert time.monotonic() - began < LATENCY + ANSWER
    for session in sessions:
        session.close()
    must_be_healthy(small)
    small.close()
    wait_until(lambda: not containers(small), 5, "containers are left")
    assert python(bystander, "x") == {"output": "1"}
    bystander.close()


def test_the_kernel_ends_an_interpreter_first_when_memory_runs_out(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    python(session, "1")
    numbers = processes(sandbox, session._session.worker.name)
    scores = {name: int(Path(f"/proc/{number}/oom_score_adj").read_text()) for name, number in numbers.items()}
    assert scores["interpreter"] == 1000
    assert scores["worker"] < 1000
    session.close()


def test_full_temporary_file_systems_hinder_nobody(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    fill = "\n".join(
        f"try:\n  with open('{folder}/fill', 'wb') as file:\n    while True: file.write(bytes(1 << 20))\n"
        "except OSError as error: print(error.strerror)"
        for folder in ("/tmp", "/sandbox", "/dev/shm")
    )
    api, container = sandbox._client.api, session._session.worker.name
    made = api.exec_create(container, [docker_tree.PYTHON, "-S", "-c", fill])
    assert api.exec_start(made["Id"]).decode().split("\n")[:3] == ["No space left on device"] * 3
    assert session.call("write_file", {"path": "a.txt", "text": "a" * 50_000}).error is None
    assert python(session, "len(open('a.txt').read())") == {"output": "50000"}
    taken = session.snapshot()
    session.restore(taken)
    assert session.digest() == taken.digest
    session.close()
    for worker in sandbox.pool.workers:
        worker.abandon()  # what was filled stays full


def test_a_session_that_is_let_go_without_a_word_is_closed(sandbox):
    sessions = [sandbox.open(IMAGE, TOOLBOX) for _ in range(16)]
    python(sessions[-1], "1")
    del sessions
    gc.collect()
    again = [sandbox.open(IMAGE, TOOLBOX) for _ in range(16)]
    for session in again:
        session.close()


# -- the owner ------------------------------------------------------------------------------------------------------

_OWNER = """
import os, sys, time
from toolenv.tools.interpreter import workspace
from toolenv.tools.sandbox.docker_sandbox import DockerSandbox, PoolSettings
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage, open_connection
sandbox = DockerSandbox(Limits(seconds=1), pool=PoolSettings(warm=0, most=1))
print(sandbox._session, flush=True)
session = sandbox.open(
    workspace.added_to(WorldImage.of_connection(open_connection(), "empty")), Toolbox.of_families("interpreter")
)
session.call("run_python", {"code": "1"})
if "fork" in sys.argv and os.fork() == 0:
    time.sleep(10)
    os._exit(0)
print(session._session.worker.name, flush=True)
while True:
    session.call("run_python", {"code": "while True: pass"})
"""


def _left_of_killed_owner(sandbox: DockerSandbox, wait: float, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _OWNER, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as owner:
        try:
            session, container = owner.stdout.readline().strip(), owner.stdout.readline().strip()
            filters = {"label": f"{docker_labels.SESSION}={session}"}
            assert [found["Id"] for found in sandbox._client.api.containers(filters=filters)] == [container]
            time.sleep(wait)
            owner.kill()
            wait_until(
                lambda: not sandbox._client.api.containers(all=True, filters=filters),
                LIMITS.seconds + 1,
                "a container outlived its owner",
            )
        finally:
            os.killpg(owner.pid, signal.SIGKILL)


@pytest.mark.slow
def test_no_container_outlives_its_owner(sandbox):
    docker_image.ensure(sandbox._client)
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(_left_of_killed_owner, sandbox, 0.05 * (n % 20)) for n in range(OWNERS)]:
            done.result()


def test_a_fork_of_the_owner_keeps_no_container_alive(sandbox):
    docker_image.ensure(sandbox._client)
    _left_of_killed_owner(sandbox, 0.1, "fork")


def _in_a_fork(sandbox, session, answers) -> None:
    try:
        answers.put(python(session, "x"))
    except SandboxLost:
        answers.put("lost")
    session.close()
    fresh = sandbox.open(IMAGE, TOOLBOX)
    answers.put((python(fresh, "1 + 1"), fresh._session.worker.name))
    fresh.close()
    sandbox.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_fork_of_the_owner_has_containers_of_its_own(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    python(session, "x = 1")
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_in_a_fork, args=(sandbox, session, answers))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert answers.get() == "lost"
    said, container = answers.get()
    assert said == {"output": "2"}
    assert container != session._session.worker.name
    assert container not in containers(sandbox)
    assert python(session, "x") == {"output": "1"}
    session.close()
    answers.close()


@pytest.mark.slow
def test_what_an_owner_leaves_that_is_killed_while_it_starts_a_container_the_next_owner_removes(sandbox):
    docker_image.ensure(sandbox._client)
    sessions = []
    for number in range(8):
        with subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True) as owner:
            sessions.append(owner.stdout.readline().strip())
            time.sleep(0.04 * number)
            owner.kill()

    def none_is_left() -> bool:
        docker_labels.collect(sandbox._client)
        found = docker_labels.ours(sandbox._client)
        return not {container["Labels"][docker_labels.SESSION] for container in found} & set(sessions)

    time.sleep(1)  # a call to the engine may be under way
    wait_until(none_is_left, 10, "containers are left")


# -- the engine -----------------------------------------------------------------------------------------------------


class Engine:
    """An engine of our own, whose failure is nobody else's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/socket"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        for name in ("pid", "exec-root/containerd/containerd.pid"):  # of one that was killed
            (self.folder / name).unlink(missing_ok=True)
        # In a network of its own: an engine without a bridge removes that of another.
        command = ["unshare", "--net", "dockerd", "--bridge=none", "--iptables=false", "--host", self.host]
        for name in ("data-root", "exec-root", "pidfile"):
            command += [f"--{name}", str(self.folder / {"pidfile": "pid"}.get(name, name))]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                docker_image.connect().close()
                return
            except SandboxUnavailable:
                ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                pytest.skip(f"no engine of our own starts here: {(self.folder / 'log').read_text()[-300:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it with all that it started, as an engine that was killed leaves some of it behind."""
        self.process.terminate()
        self.process.wait(30)
        for process in self._processes():
            with suppress(ProcessLookupError):  # it may end with another
                os.kill(process, signal.SIGKILL)
        mounted = [
            line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if str(self.folder) in line
        ]
        for path in reversed(mounted):
            subprocess.run(["umount", "--lazy", path], check=True)

    def _processes(self) -> list[int]:
        """Those that the engine left behind: containerd and its shims name our folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it may have ended
                if f"{self.folder}/exec-root/" in (process / "cmdline").read_bytes().decode(errors="replace"):
                    found.append(int(process.name))
        return found


@pytest.fixture
def engine(monkeypatch) -> Iterator[Engine]:
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        pytest.skip("an engine of our own needs dockerd, and root")
    folder = Path(tempfile.mkdtemp(prefix="toolenv-engine-"))  # a socket's path must be short
    engine = Engine(folder)
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder)


# Where nothing answers, docker-py leaves the socket with which it tried to the collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_a_killed_engine_is_a_loss_and_a_restarted_one_serves_again(engine):
    sandbox = made()
    session = sandbox.open(IMAGE, TOOLBOX)
    python(session, "x = 1")
    timer = threading.Timer(0.2, engine.kill)
    timer.start()
    began = time.monotonic()
    with pytest.raises(SandboxLost):
        python(session, "while True: pass")
    assert time.monotonic() - began < 0.2 + LATENCY
    timer.join()
    session.close()
    with pytest.raises(SandboxLost):
        sandbox.open(IMAGE, TOOLBOX)
    engine.start()
    must_be_healthy(sandbox)
    # Of the container that died with the engine, the new one sometimes keeps a record that it can not remove.
    started = {worker.name for worker in sandbox.pool.workers}
    sandbox.close()
    wait_until(lambda: not started & set(containers(sandbox)), 10, "containers are left")
    sandbox._client.close()
    gc.collect()
