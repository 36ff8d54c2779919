"""What happens to the embedded sandbox when processes are killed under it: a typed error, and a healthy next lease."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolenv.envs.tool_env import ToolEnv
from toolenv.tools.errors import SandboxLost
from toolenv.tools.interpreter import workspace
from toolenv.tools.sandbox.embedded import EmbeddedSandbox
from toolenv.tools.sandbox.interpreters import SandboxUnavailable
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage, open_connection

TOOLBOX = Toolbox.of_families("interpreter")
IMAGE = workspace.added_to(WorldImage.of_connection(open_connection(), "empty"))
DESK = Path(__file__).parents[1] / "data" / "desk.yaml"
LATENCY = 0.2
ROUNDS = 20


@pytest.fixture
def sandbox() -> Iterator[EmbeddedSandbox]:
    sandbox = EmbeddedSandbox(Limits(seconds=5.0))
    try:
        session = sandbox.open(IMAGE, TOOLBOX)
        session.call("run_python", {"code": "1"})
        session.close()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield sandbox
    sandbox.close()


def run(session, code):
    return session.call("run_python", {"code": code}).content


def supervisor_of(sandbox):
    return sandbox._interpreters.supervisor._process.pid


def children(process):
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def kill_while_spinning(session, victim):
    """Run a loop that does not end, kill a process meanwhile; seconds from the kill to the error."""
    killed = []

    def kill():
        time.sleep(0.1)
        killed.append(time.monotonic())
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(SandboxLost):
        session.call("run_python", {"code": "while True: pass"})
    took = time.monotonic() - killed[0]
    killer.join()
    return took


@pytest.mark.parametrize("whom", ["interpreter", "supervisor"])
def test_a_kill_in_mid_step_is_told_as_such_and_the_next_lease_is_healthy(sandbox, whom):
    session = sandbox.open(IMAGE, TOOLBOX)
    before = set(children(supervisor_of(sandbox)))
    run(session, "open('a', 'w').write('1'); x = 1")
    digest = session.digest()
    (guest,) = set(children(supervisor_of(sandbox))) - before
    assert kill_while_spinning(session, guest if whom == "interpreter" else supervisor_of(sandbox)) < LATENCY
    assert session.digest() == digest
    session.close()
    with_next = sandbox.open(IMAGE, TOOLBOX)
    assert run(with_next, "1 + 1") == {"output": "2"}
    with_next.close()
    assert not _alive(guest), "an interpreter outlived what held it"


def test_an_episode_whose_interpreter_is_killed_is_truncated_and_masked(sandbox, tmp_path):
    scenario = tmp_path / "desk.yaml"
    scenario.write_text(DESK.read_text().replace("toolbox: [crm]", "toolbox: [crm, interpreter]"))
    env = ToolEnv(scenario, sandbox=sandbox)
    env.reset(seed=1)
    assert not env.step({"name": "run_python", "arguments": {"code": "x = 1"}})[3]
    for guest in children(supervisor_of(sandbox)):
        os.kill(guest, signal.SIGKILL)
    _, reward, terminated, truncated, info = env.step({"name": "run_python", "arguments": {"code": "x"}})
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["sandbox_lost"]
    assert info["reward_masked"]
    env.reset(seed=1)
    assert not env.step({"name": "run_python", "arguments": {"code": "x = 1"}})[3]
    env.close()


_OWNER = """
import os, sys, time
from toolenv.tools.interpreter import workspace
from toolenv.tools.sandbox.embedded import EmbeddedSandbox
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage, open_connection
sandbox = EmbeddedSandbox(Limits(seconds=60.0))
session = sandbox.open(
    workspace.added_to(WorldImage.of_connection(open_connection(), "empty")), Toolbox.of_families("interpreter")
)
session.call("run_python", {"code": "1"})
if "fork" in sys.argv and os.fork() == 0:
    time.sleep(10)
    os._exit(0)
print(sandbox._interpreters.supervisor._process.pid, flush=True)
session.call("run_python", {"code": "while True: pass"})
"""


def _alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def nothing_must_outlive(wait, *arguments):
    """An owner of a supervisor and an interpreter that is killed after `wait` seconds."""
    command = [sys.executable, "-c", _OWNER, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as owner:
        try:
            supervisor = int(owner.stdout.readline())
            ours = [supervisor, *children(supervisor)]
            assert len(ours) == 2
            time.sleep(wait)
            owner.kill()
            deadline = time.monotonic() + 1
            while (left := [process for process in ours if _alive(process)]) and time.monotonic() < deadline:
                time.sleep(0.005)
            assert not left, f"{len(left)} processes are left a second after their owner was killed"
        finally:
            os.killpg(owner.pid, signal.SIGKILL)


def test_nothing_outlives_the_owner(sandbox):
    for number in range(ROUNDS):
        nothing_must_outlive(0.02 * (number % 3))


def test_a_fork_of_the_owner_keeps_no_interpreter_alive(sandbox):
    nothing_must_outlive(0.02, "fork")


def _in_a_fork(sandbox, session, parents, answers):
    answers.put((run(session, "x += 1; x"), supervisor_of(sandbox) != parents))
    fresh = sandbox.open(IMAGE, TOOLBOX)
    answers.put(run(fresh, "1 + 1"))
    fresh.close()
    session.close()
    sandbox.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_fork_of_the_owner_has_a_supervisor_of_its_own(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    run(session, "x = 1")
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_in_a_fork, args=(sandbox, session, supervisor_of(sandbox), answers))
    child.start()
    child.join(10)
    assert child.exitcode == 0
    assert answers.get() == ({"output": "2"}, True)
    assert answers.get() == {"output": "2"}
    assert run(session, "x") == {"output": "1"}
    session.close()
    answers.close()
