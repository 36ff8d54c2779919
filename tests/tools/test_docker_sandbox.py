"""The docker backend on a real engine: the same results as embedded, and failures that are nobody's but its own."""

from __future__ import annotations

import json
import time

import gymnasium
import numpy as np
import pytest

from toolenv.tools.errors import SandboxLost
from toolenv.tools.interpreter import workspace
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage, open_connection

docker = pytest.importorskip("docker")

from toolenv.tools.sandbox import docker_image  # noqa: E402
from toolenv.tools.sandbox.docker_sandbox import DockerSandbox, PoolSettings, SandboxExhausted  # noqa: E402
from toolenv.tools.sandbox.limits import Limits  # noqa: E402

TOOLBOX = Toolbox.of_families("interpreter")
IMAGE = workspace.added_to(WorldImage.of_connection(open_connection(), "empty"))


def _engine_answers() -> bool:
    try:
        client = docker.from_env()
    except docker.errors.DockerException:
        return False
    client.close()
    return True


pytestmark = pytest.mark.skipif(not _engine_answers(), reason="no docker engine answers")


@pytest.fixture(scope="module")
def sandbox():
    sandbox = DockerSandbox(Limits(seconds=1), pool=PoolSettings(warm=1, most=3, sessions=2, wait_seconds=5))
    yield sandbox
    sandbox.close()
    client = docker_image.connect()
    deadline = time.monotonic() + 10
    while left := client.containers.list(filters={"label": f"toolenv.session={sandbox._session}"}):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    client.close()


def python(session, code: str) -> dict:
    return session.call("run_python", {"code": code}).content


def test_a_session_keeps_its_state_and_its_forks_go_their_own_way(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    assert python(session, "x = 1; open('a.txt', 'w').write('é')") == {"output": "1"}
    fork = session.fork()
    assert fork.digest() == session.digest()
    assert python(fork, "x += 1; x") == {"output": "2"}
    assert python(session, "x") == {"output": "1"}
    before = session.snapshot()
    assert before.digest == session.digest()
    python(session, "x = 9")
    assert session.digest() != before.digest
    session.restore(before)
    assert python(session, "x, open('a.txt').read()") == {"output": "(1, 'é')"}
    assert [change.table for change in session.diff()].count("_files") == 1
    fork.close()
    session.close()


def test_a_container_holds_nothing_worth_stealing(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    for code in (
        "import posix; posix.open('/proc/1/environ', 0)",
        "import _io; _io.FileIO('/etc/passwd')",
        "import _io; _io.FileIO('/tmp/x', 'w')",
        "import socket; socket.socket()",
        "import posix; posix.fork()",
        "import posix; posix.kill(1, 9)",
    ):
        assert "PermissionError" in python(session, code)["exception"]
    assert "TimeoutError" in python(session, "while True: pass")["exception"]
    assert "MemoryError" in python(session, "b'x' * 10**9")["exception"]
    assert python(session, "1 + 1") == {"output": "2"}
    session.close()


def test_a_killed_container_is_lost_at_once_and_the_next_lease_is_healthy(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    neighbour = session.fork()
    client = docker_image.connect()
    client.api.kill(session._session.worker.name)
    client.close()
    begun = time.monotonic()
    for lost in (session, neighbour):
        with pytest.raises(SandboxLost):
            python(lost, "1")
        lost.close()
    assert time.monotonic() - begun < 5
    following = sandbox.open(IMAGE, TOOLBOX)
    assert python(following, "1") == {"output": "1"}
    following.close()


def test_full_containers_are_waited_for_and_then_refused(sandbox):
    sessions = [sandbox.open(IMAGE, TOOLBOX) for _ in range(6)]
    assert len({session._session.worker.name for session in sessions}) == 3
    with pytest.raises(SandboxExhausted):
        sandbox.open(IMAGE, TOOLBOX)
    for session in sessions:
        session.close()
    sandbox.open(IMAGE, TOOLBOX).close()


@pytest.mark.parametrize("env_id", ["ToolEnv-CRM-v0", "ToolEnv-Database-v0", "ToolEnv-CodeInterpreter-v0"])
def test_the_same_actions_give_the_same_episode_as_embedded(env_id):
    here, there = gymnasium.make(env_id), gymnasium.make(env_id, sandbox="docker")
    for seed in range(6):
        (one, said), (other, answered) = here.reset(seed=seed), there.reset(seed=seed)
        assert _equal(one, other)
        assert said.pop("sandbox")["name"] == "embedded"
        assert answered.pop("sandbox") == {"name": "docker", "level": f"a container, {here.unwrapped.sandbox.level}"}
        assert said == answered
        plan = here.unwrapped.task.start_plan()
        ended = False
        while not ended:
            step = plan.next()
            call = step.call
            action = {"answer": step.answer} if call is None else {"name": call.name, "arguments": call.arguments}
            one, other = here.step(action), there.step(action)
            assert _equal(one[0], other[0])
            assert one[1:] == other[1:]
            ended = one[2] or one[3]
            if call is not None:
                plan.feed(json.loads(one[4]["messages"][-1]["content"]))
        assert one[1] == 1.0
        assert here.unwrapped.session.digest() == there.unwrapped.session.digest()
        assert here.unwrapped.session.diff() == there.unwrapped.session.diff()
    here.close()
    there.close()


def test_a_lost_container_ends_the_episode_with_its_reward_masked():
    env = gymnasium.make("ToolEnv-CRM-v0", sandbox="docker")
    env.reset(seed=1)
    client = docker_image.connect()
    client.api.kill(env.unwrapped._session._session.worker.name)
    client.close()
    _, reward, terminated, truncated, info = env.step({"name": "search_orders", "arguments": {}})
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["reward_masked"]
    assert info["sandbox_lost"]
    env.reset(seed=1)
    assert not env.step({"name": "search_orders", "arguments": {}})[3]
    env.close()


def _equal(one, other) -> bool:
    return all(np.array_equal(one[key], other[key]) for key in one)
