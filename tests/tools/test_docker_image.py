"""The image of the docker sandbox, built by the real engine, and whose a container is. Skipped where none answers."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from toolenv.tools.errors import OperatorError
from toolenv.tools.sandbox import docker_image, docker_labels, docker_tree

NOW = 1_000_000.0


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    try:
        found = docker_image.connect()
    except OperatorError as error:
        pytest.skip(str(error))
    yield found
    found.close()


@pytest.fixture(scope="module")
def image(client: Any) -> str:
    return docker_image.build("host", client)


@pytest.fixture
def container(client: Any, image: str) -> Iterator[Any]:
    """One that waits for its input to end, with the labels of this process."""
    labels = docker_labels.labels("test", 60)
    yield from _waiting(client, image, labels)


def _waiting(client: Any, image: str, labels: dict[str, str]) -> Iterator[Any]:
    command = [docker_tree.PYTHON, "-S", "-c", "input()"]
    made = client.containers.create(image, command, labels=labels, network_mode="none", stdin_open=True)
    made.start()
    yield made
    for left in client.containers.list(all=True, filters={"id": made.id}):
        left.remove(force=True)


def run(client: Any, image: str, code: str) -> str:
    """What a container prints, under what the pool puts on it."""
    # Not `containers.run`, which leaves the sockets of what it streams open.
    container = client.containers.create(
        image,
        [docker_tree.PYTHON, "-S", "-s", "-P", "-c", code],
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )
    try:
        container.start()
        container.wait()
        output: bytes = container.logs()
    finally:
        container.remove(force=True)
    return output.decode()


# -- the image -----------------------------------------------------------------------------------------------------


def test_the_tag_names_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    before = docker_image.tag()
    repository, _, version = before.partition(":")
    assert (repository, len(version)) == ("toolenv-sandbox", 12)
    assert docker_image.tag() == before
    monkeypatch.setattr(docker_tree, "package_versions", lambda: ["orjson==0"])
    assert docker_image.tag() != before


def test_what_was_built_is_there_and_is_not_built_again(
    client: Any, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_image, "build", None)
    assert docker_image.ensure(client) == docker_image.ensure() == image == docker_image.tag()


def test_a_missing_image_is_built(client: Any, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "toolenv-sandbox:test"
    monkeypatch.setattr(docker_image, "tag", lambda: name)
    try:
        assert docker_image.ensure() == name
        assert docker_image.exists(client, name)
    finally:
        client.images.remove(name, force=True)
    assert not docker_image.exists(client, name)


def test_building_anew_leaves_no_image_without_a_name(client: Any, image: str) -> None:
    before = client.images.get(image).id
    assert docker_image.build("host", client) == image
    after = client.images.get(image).id
    assert after != before
    assert before not in {found.id for found in client.images.list(all=True)}


def test_containers_start_as_nobody_with_a_still_environment(client: Any, image: str) -> None:
    config = client.images.get(image).attrs["Config"]
    assert config["User"] == "65534:65534"
    assert config["Cmd"] == docker_image.COMMAND
    assert {"PYTHONHASHSEED=0", "LC_ALL=C.UTF-8", "TZ=UTC"} <= set(config["Env"])
    code = "import os, time; print(os.getuid(), os.getgid(), time.tzname[0], hash('a') == hash('a'), 'ä')"
    assert run(client, image, code) == "65534 65534 UTC True ä\n"
    assert run(client, image, "print(hash('a'))") == run(client, image, "print(hash('a'))")


def test_the_same_interpreter_runs_there(client: Any, image: str) -> None:
    assert run(client, image, "import sys; print(sys.version)") == f"{sys.version}\n"


def test_every_module_of_the_tools_can_be_imported_there(client: Any, image: str) -> None:
    """But those of the host: random actions are drawn there, and servers are spoken to from there."""
    names = [
        ".".join(["toolenv.tools", *name.removesuffix(".py").removesuffix("/__init__").split("/")])
        for _, name in docker_tree.tool_sources()
        if name not in ("__init__.py", "sampling.py") and "postgres" not in name and "monty" not in name
    ]
    assert "toolenv.tools.toolbox" in names
    code = f"import sys, importlib; sys.path.insert(0, '/toolenv')\nfor name in {names}: importlib.import_module(name)"
    assert run(client, image, f"{code}\nprint('all')") == "all\n"


def test_a_supervisor_can_lock_interpreters_in_there(client: Any, image: str) -> None:
    code = (
        "import socket, subprocess, sys; here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        f"command = {docker_image.COMMAND[: docker_image.COMMAND.index('--worker')]};"
        "subprocess.Popen([*command, str(there.fileno())], pass_fds=[there.fileno()]); print(here.recv(1 << 16))"
    )
    assert "ready" in run(client, image, code)


def test_every_module_is_compiled_and_never_checked(client: Any, image: str) -> None:
    code = (
        "import json, pathlib, sys; sys.path.insert(0, '/toolenv'); import toolenv.tools.toolbox, pydantic\n"
        "for name in list(sys.modules):\n"
        "    spec = getattr(sys.modules[name], '__spec__', None)\n"
        "    if spec and spec.has_location and spec.origin.endswith('.py'):\n"
        "        assert pathlib.Path(spec.cached).read_bytes()[4:8] == bytes([1, 0, 0, 0]), name\n"
        "print('ok')"
    )
    assert run(client, image, code) == "ok\n"


def test_the_image_holds_no_other_packages(client: Any, image: str) -> None:
    code = "import os; print(*sorted(name for name in os.listdir('/toolenv') if not name.startswith('__')))"
    found = set(run(client, image, code).split())
    assert {"toolenv", "pydantic", "pydantic_core", "orjson", "apsw"} <= found
    assert not found & {"gymnasium", "numpy", "pip", "pytest"}


def test_the_same_tree_gives_the_same_bytes() -> None:
    trees = []
    for _ in range(2):
        file = io.BytesIO()
        tree = docker_tree.Tree(file)
        docker_tree.add_folders(tree)
        docker_tree.add_tools(tree)
        tree.close()
        trees.append(file.getvalue())
    assert trees[0] == trees[1]


def test_the_registry_s_image_is_built_from_pinned_packages_and_the_tools() -> None:
    """Only what the engine is given: building it needs a registry."""
    with tarfile.open(fileobj=io.BytesIO(docker_image.context())) as tar:
        names = set(tar.getnames())
        read = {name: tar.extractfile(name) for name in ("Dockerfile", "requirements.txt", "site/toolenv/__init__.py")}
        texts = {name: file.read().decode() for name, file in read.items() if file is not None}
    assert "site/toolenv/tools/sandbox/guest/supervisor.py" in names
    assert texts["site/toolenv/__init__.py"] == ""
    assert texts["requirements.txt"].split() == docker_tree.package_versions()
    lines = texts["Dockerfile"].splitlines()
    assert lines[0] == f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    assert "USER 65534:65534" in lines
    assert lines[-1].startswith('CMD ["/usr/local/bin/python", "-S"')


@pytest.mark.parametrize("path", ["", "/nowhere"])
def test_debootstrap_says_what_it_lacks(path: str, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(docker_image, "_DEBIAN", {sys.version_info[:2]: "bookworm"})
    with pytest.raises(OperatorError, match="apt-get install debootstrap"):
        docker_image.build("debootstrap", client)


def test_debootstrap_needs_a_debian_with_this_python(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_image, "_DEBIAN", {})
    with pytest.raises(OperatorError, match="no Debian has Python"):
        docker_image.build("debootstrap", client)


def test_an_engine_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(OperatorError, match="no docker engine answers"):
        docker_image.connect()


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(OperatorError, match=r"pip install 'toolenv\[docker\]'"):
        docker_image.connect()


# -- labels --------------------------------------------------------------------------------------------------------


def test_a_container_of_a_living_owner_stays_until_it_expires() -> None:
    labels = docker_labels.labels("session", 60)
    assert labels["toolenv"] == "1"
    assert labels["toolenv.session"] == "session"
    assert not docker_labels.is_stale(labels, time.time())
    assert docker_labels.is_stale(labels, time.time() + 62)


def _dead_owner() -> str:
    host, _, started = docker_labels.owner().split(":")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    return f"{host}:{ended.pid}:{started}"


def test_a_container_of_a_dead_owner_is_stale() -> None:
    labels = {"toolenv": "1", "toolenv.owner": _dead_owner(), "toolenv.expires": f"{NOW + 60:.0f}"}
    assert docker_labels.why_stale(labels, NOW) == "its owner is dead"


def test_a_number_that_was_given_to_another_process_is_not_the_owner() -> None:
    labels = docker_labels.labels("session", 60)
    labels["toolenv.owner"] = labels["toolenv.owner"].rpartition(":")[0] + ":1"
    assert docker_labels.is_stale(labels, time.time())


def test_a_process_that_ended_and_was_not_waited_for_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    host = docker_labels.owner().partition(":")[0]
    assert docker_labels.is_stale({"toolenv": "1", "toolenv.owner": f"{host}:{process.pid}:5"}, NOW)
    process.wait()


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"toolenv.expires": "1"},
        {"toolenv": "2", "toolenv.expires": "1"},
        {"toolenv": "1"},
        {"toolenv": "1", "toolenv.owner": "", "toolenv.expires": "soon"},
        {"toolenv": "1", "toolenv.owner": "elsewhere:999999999:1", "toolenv.expires": f"{NOW + 1:.0f}"},
    ],
    ids=["none", "not ours", "of another version", "no owner", "nonsense", "another host's"],
)
def test_what_is_not_surely_ours_and_dead_stays(labels: dict[str, str]) -> None:
    assert not docker_labels.is_stale(labels, NOW)


def test_collect_removes_what_is_stale_and_nothing_else(client: Any, image: str, container: Any) -> None:
    dead = {**docker_labels.labels("test", 60), "toolenv.owner": _dead_owner()}
    expired = docker_labels.labels("test", -1)
    foreign = {"toolenv.expires": "1"}
    waiting = [_waiting(client, image, labels) for labels in (dead, expired, foreign)]
    ids = [next(each).id for each in waiting]
    try:
        removed = {one.id: one.reason for one in docker_labels.collect(client)}
        assert {key: removed[key] for key in ids if key in removed} == {ids[0]: "its owner is dead", ids[1]: "expired"}
        assert container.id not in removed
        left = {found.id for found in client.containers.list(all=True)}
        assert {container.id, ids[2]} <= left
        assert not set(ids[:2]) & left
    finally:
        for each in waiting:
            next(each, None)
