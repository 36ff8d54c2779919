"""One container with a worker in it."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import Any, Final

from toolenv.tools.errors import OperatorError, SandboxLost
from toolenv.tools.sandbox import docker_image, docker_labels
from toolenv.tools.sandbox.remote import RemoteWorker

_HEADER: Final = struct.Struct(">BxxxI")
_STDOUT: Final = 1
_MOST_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """What a container may use. It has no network, no mounts, no capabilities, and can not write its file system.

    Attributes:
        memory: bytes, swap included.
        cpus: cores.
        pids: processes and threads.
        scratch: bytes of each of its two temporary file systems.
        seconds: after which a container is removed, whoever owns it.
        answer_seconds: after which a worker that does not answer counts as lost; a restored session runs its whole
            journal within them.
        runtime: of the engine, such as "runsc"; its default if None.
    """

    memory: int = 768 * 2**20
    cpus: float = 1.0
    pids: int = 256
    scratch: int = 32 * 2**20
    seconds: float = 6 * 3_600
    answer_seconds: float = 30.0
    runtime: str | None = None


class AttachedLine:
    """A container's standard input and output, as lines.

    Args:
        attached: what `attach_socket` gave.
        container: the container's id.
        seconds: after which waiting for a line fails.
    """

    def __init__(self, client: Any, attached: Any, container: str, seconds: float) -> None:
        self._client, self._attached, self._container, self._seconds = client, attached, container, seconds
        self._socket: socket.socket = attached._sock
        self._raw, self._lines = bytearray(), bytearray()

    def send(self, data: bytes) -> None:
        self._socket.settimeout(self._seconds)
        self._socket.sendall(data)

    def receive(self) -> bytes:
        deadline = time.monotonic() + self._seconds
        while (end := self._lines.find(b"\n")) < 0:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            part = self._socket.recv(1 << 18)
            if not part:
                raise ConnectionError("the container has ended")
            self._raw += part
            self._take_frames()
        line = bytes(self._lines[: end + 1])
        del self._lines[: end + 1]
        return line

    def drop(self) -> None:
        self._attached._response.close()  # and with it the socket

    def close(self) -> None:
        """Remove the container."""
        self.drop()
        remove(self._client, self._container)

    def _take_frames(self) -> None:
        """The engine sends frames: which stream, how long, content."""
        while len(self._raw) >= _HEADER.size:
            stream, length = _HEADER.unpack_from(self._raw)
            if stream != _STDOUT or len(self._lines) + length > _MOST_BYTES:
                raise ConnectionError("the container sent what no worker sends")
            end = _HEADER.size + length
            if len(self._raw) < end:
                return
            self._lines += self._raw[_HEADER.size : end]
            del self._raw[:end]


def start(client: Any, image: str, session: str, settings: ContainerSettings) -> RemoteWorker:
    """Start a container and wait until its worker answers.

    Raises:
        SandboxLost: it does not start.
    """
    import docker.errors
    import requests.exceptions

    api = client.api
    scratch = f"rw,nosuid,nodev,size={settings.scratch}"
    container = ""
    try:
        container = api.create_container(
            image,
            command=docker_image.COMMAND,
            stdin_open=True,
            user="65534:65534",
            labels=docker_labels.labels(session, settings.seconds),
            network_disabled=True,
            host_config=api.create_host_config(
                network_mode="none",
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                init=True,
                auto_remove=True,
                mem_limit=settings.memory,
                memswap_limit=settings.memory,
                nano_cpus=int(settings.cpus * 1e9),
                pids_limit=settings.pids,
                ipc_mode="private",
                shm_size=2**20,
                tmpfs={"/tmp": scratch, "/sandbox": scratch},
                log_config={"Type": "none"},
                runtime=settings.runtime,
                ulimits=[{"Name": "nofile", "Soft": 8_192, "Hard": 8_192}, {"Name": "core", "Soft": 0, "Hard": 0}],
            ),
        )["Id"]
        attached = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stream": 1})
        api.start(container)
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        if container:
            remove(client, container)
        if isinstance(error, docker.errors.ImageNotFound):
            raise OperatorError(f"there is no image {image}: `toolenv sandbox build`") from None
        raise SandboxLost(f"no container could be started: {error}") from None
    worker = RemoteWorker(AttachedLine(client, attached, container, settings.answer_seconds), name=container)
    try:
        worker.ask("ping")
    except SandboxLost:
        worker.close()
        raise
    return worker


def remove(client: Any, container: str) -> None:
    """Remove a container, if it is still there. An engine that does not answer is left alone: `collect` comes later."""
    import docker.errors
    import requests.exceptions

    try:
        client.api.remove_container(container, force=True, v=True)
    except (docker.errors.APIError, requests.exceptions.RequestException):
        return
