"""The image whose containers run a worker: its name, and three ways to build it.

    host         the running interpreter, its libraries and the installed packages, imported as they are: needs no
                 network and takes seconds; the image knows no more than this machine does
    registry     from the official image of the same Python; needs a registry and a package index
    debootstrap  from Debian's own Python, where that is of the running version; needs root and a mirror

A tag names its content: the tools' sources, Python's version and those of the packages. A program whose sources differ
from those in an image therefore never talks to it. All three ways lead to the same tag; the last one built has it.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

from toolenv.tools.errors import OperatorError
from toolenv.tools.sandbox import docker_tree
from toolenv.tools.sandbox.interpreters import SandboxUnavailable

Method = Literal["host", "registry", "debootstrap"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
REPOSITORY: Final = "toolenv-sandbox"
_DEBIAN: Final = {(3, 11): "bookworm", (3, 13): "trixie"}
USER: Final = "65534:65534"
ENVIRONMENT: Final = {
    "LC_ALL": "C.UTF-8",
    "LD_LIBRARY_PATH": docker_tree.LIBRARIES,
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "TZ": "UTC",
}


def _python(path: str, module: str) -> list[str]:
    # Without `site`: agent-written code is to find the same sys.path in every image.
    code = f"import sys; sys.path.insert(0, {path!r}); from {module} import main; main()"
    return [docker_tree.PYTHON, "-S", "-s", "-P", "-c", code]


COMMAND: Final = [
    *_python(f"{docker_tree.SITE}/toolenv/tools/sandbox", "guest.supervisor"),
    "--worker",
    *_python(docker_tree.SITE, "toolenv.tools.sandbox.worker"),
]
"""What a container runs: a supervisor of interpreters, which starts a worker that serves on its input and output."""


def connect() -> Any:
    """A client of the engine that the environment names, `docker.DockerClient`.

    Raises:
        SandboxUnavailable: the package is not installed, or no engine answers.
    """
    try:
        import docker
        import docker.errors
        import requests.exceptions
    except ModuleNotFoundError as error:
        raise SandboxUnavailable(f"{error.name} is not installed: pip install 'toolenv[docker]'") from None
    # Where nothing answers, docker-py leaves the socket with which it tried to the collector, which warns of it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env()
            client.ping()
            return client
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            problem = str(error)
        gc.collect()
    raise SandboxUnavailable(f"no docker engine answers; start one, or name it in DOCKER_HOST ({problem})")


def tag() -> str:
    """The name of the image of this installation."""
    content = hashlib.sha256()
    for part in (sys.version, platform.machine(), *docker_tree.package_versions()):
        content.update(part.encode() + b"\0")
    for path, name in docker_tree.tool_sources():
        data = path.read_bytes()
        content.update(f"{name}\0{len(data)}\0".encode() + data)
    return f"{REPOSITORY}:{content.hexdigest()[:12]}"


def exists(client: Any, name: str) -> bool:
    """Whether the engine has an image."""
    import docker.errors

    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def ensure(client: Any = None) -> str:
    """The name of the image of this installation, which is built from this machine if the engine has none.

    Raises:
        OperatorError: no engine answers, or the image can not be built.
    """
    if client is None:
        with closing(connect()) as own:
            return ensure(own)
    name = tag()
    return name if exists(client, name) else build("host", client)


def build(method: Method, client: Any = None) -> str:
    """Build the image of this installation, even if there is one; its name.

    Raises:
        OperatorError: no engine answers, or the image can not be built in this way.
    """
    if client is None:
        with closing(connect()) as own:
            return build(method, own)
    import docker.errors

    name = tag()
    before = client.images.list(name)
    try:
        {"host": _from_host, "registry": _from_registry, "debootstrap": _from_debootstrap}[method](client, name)
    except docker.errors.DockerException as error:
        raise OperatorError(f"the image could not be built: {error}") from None
    for old in before:
        _remove_unnamed(client, old.id)
    return name


def _remove_unnamed(client: Any, image: str) -> None:
    """Remove an image that lost its name to a newer one, unless a container still runs it."""
    import docker.errors

    try:
        if not client.images.get(image).tags:
            client.images.remove(image)
    except docker.errors.APIError:
        return


def _from_host(client: Any, name: str) -> None:
    with tempfile.TemporaryFile() as file:
        tree = docker_tree.Tree(file)
        docker_tree.add_folders(tree)
        linked = docker_tree.add_python(tree)
        linked += docker_tree.add_packages(tree)
        docker_tree.add_libraries(tree, linked)
        docker_tree.add_tools(tree)
        tree.close()
        _import(client, name, file, "host")


def _import(client: Any, name: str, file: Any, method: Method) -> None:
    """Make an image of a tar file.

    Raises:
        OperatorError: the engine refuses.
    """
    file.seek(0)
    repository, _, version = name.partition(":")
    # In pieces, for docker-py announces pieces, and requests would send a file as one.
    pieces = iter(partial(file.read, 1 << 20), b"")
    told = client.api.import_image_from_stream(pieces, repository, version, changes=_changes(method))
    last = json.loads(told.strip().splitlines()[-1])
    if "error" in last:
        raise OperatorError(f"the engine refused the image: {last['error']}")


def _changes(method: Method) -> list[str]:
    """The lines of a Dockerfile that say how containers start."""
    environment = [f"ENV {name}={value}" for name, value in ENVIRONMENT.items()]
    return [
        *environment,
        f"LABEL toolenv.built-from={method}",
        f"USER {USER}",
        "WORKDIR /",
        f"CMD {json.dumps(COMMAND)}",
    ]


def context() -> bytes:
    """What an engine builds the registry's image from: a tar file with a Dockerfile, the requirements and the tools."""
    file = io.BytesIO()
    tree = docker_tree.Tree(file, compiles=False)
    tree.data("Dockerfile", dockerfile().encode())
    tree.data("requirements.txt", "\n".join([*docker_tree.package_versions(), ""]).encode())
    docker_tree.add_tools(tree, "site")
    tree.close()
    return file.getvalue()


def dockerfile() -> str:
    """Of the registry's image."""
    python, site = f"{sys.version_info.major}.{sys.version_info.minor}", docker_tree.SITE
    steps = [
        f"FROM python:{python}-slim",
        "COPY requirements.txt /tmp/",
        f"COPY site {site}",
        f"RUN pip install --no-cache-dir --no-deps --no-compile --target {site} -r /tmp/requirements.txt \\",
        f" && python -m compileall -q --invalidation-mode unchecked-hash {site} \\",
        " && pip uninstall -y pip \\",
        " && rm /tmp/requirements.txt \\",
        " && mkdir /sandbox",
    ]
    return "\n".join([*steps, *_changes("registry"), ""])


def _from_registry(client: Any, name: str) -> None:
    client.images.build(fileobj=io.BytesIO(context()), custom_context=True, tag=name, rm=True, pull=True)


def _from_debootstrap(client: Any, name: str) -> None:
    release = _DEBIAN.get(sys.version_info[:2])
    if release is None:
        raise OperatorError(f"no Debian has Python {platform.python_version()}: use host, or registry")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
        _run_debootstrap(release, folder)
        tree = docker_tree.Tree(file)
        docker_tree.add_folders(tree)
        docker_tree.add_debian(tree, Path(folder))
        docker_tree.add_packages(tree)
        docker_tree.add_tools(tree)
        tree.close()
        _import(client, name, file, "debootstrap")


def _run_debootstrap(release: str, folder: str) -> None:
    if shutil.which("debootstrap") is None:
        raise OperatorError("debootstrap is not installed: apt-get install debootstrap, or use host, or registry")
    if os.geteuid() != 0:
        raise OperatorError("debootstrap needs root: use host, or registry")
    command = ["debootstrap", "--variant=minbase", "--include=python3,libgcc-s1", release, folder]
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if finished.returncode:
        last = [line for line in (finished.stdout + finished.stderr).splitlines() if line.strip()][-1:]
        raise OperatorError(f"debootstrap failed: {''.join(last)}")
