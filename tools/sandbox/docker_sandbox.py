"""The docker backend: worlds, tools and interpreters in containers, many episodes in each.

Environments that name it share one pool a process. Containers are started by one thread, ahead of need; one that failed
is removed, and its sessions raise SandboxLost.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from toolenv.tools.calls import Json, ToolResult
from toolenv.tools.declaration import SQLITE
from toolenv.tools.errors import OperatorError, SandboxLost
from toolenv.tools.forks import abandon_in_forks
from toolenv.tools.sandbox import docker_container, docker_image, docker_labels
from toolenv.tools.sandbox.docker_container import ContainerSettings
from toolenv.tools.sandbox.lease import Lease
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.sandbox.remote import RemoteSession, RemoteWorker
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import RowChange, WorldImage, WorldSnapshot

_COLLECT_EVERY: Final = 60.0
_LOOK_EVERY: Final = 0.25  # seconds, after which at the latest a lost worker is seen
_MEMORY_A_CONTAINER: Final = 266 * 2**20


class SandboxExhausted(OperatorError):
    """Every container is full, and none became free in time."""


def _most_containers() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(2 * (os.cpu_count() or 1), memory // 2 // _MEMORY_A_CONTAINER))


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How many containers there are.

    Attributes:
        warm: started ahead of need.
        most: at once; twice the cores, or what half the memory holds, if left out.
        sessions: that share one.
        wait_seconds: for a free one, when there may be no more.
    """

    warm: int = 2
    most: int = field(default_factory=_most_containers)
    sessions: int = 64
    wait_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not (0 <= self.warm <= self.most and self.most >= 1 and self.sessions >= 1):
            raise ValueError(f"0 <= warm <= most, 1 <= most, 1 <= sessions; got {self}")


class Pool:
    """Containers, started by a thread of its own.

    Args:
        start: starts one and gives its worker, or raises OperatorError.
        collect: removes what others left behind, and what is ours but not among the names that it is given; called at
            the start and now and then.
    """

    def __init__(
        self, settings: PoolSettings, start: Callable[[], RemoteWorker], collect: Callable[[Sequence[str]], None]
    ) -> None:
        self.settings = settings
        self._start, self._collect = start, collect
        self._changed = threading.Condition()
        self._leased: dict[RemoteWorker, int] = {}
        self._waiting = 0
        self._left: deque[RemoteSession] = deque()
        self._problem: OperatorError | None = None
        self._closed = False
        abandon_in_forks(self)
        self._thread = threading.Thread(target=self._tend, name="toolenv-containers", daemon=True)
        self._thread.start()

    @property
    def workers(self) -> list[RemoteWorker]:
        """Those that are not known to be lost."""
        return [worker for worker in list(self._leased) if not worker.lost]

    def lease(self) -> RemoteWorker:
        """A worker that answers and has room for one more session: the least busy. Give it back with `release`.

        Raises:
            SandboxExhausted: there is none, and none became free in time.
            OperatorError: none can be started.
            SandboxLost: the pool is closed.
        """
        deadline = time.monotonic() + self.settings.wait_seconds
        while True:
            worker = self._take(deadline)
            try:
                worker.ask("ping")
            except SandboxLost:  # while nobody used it
                self.release(worker)
            else:
                return worker

    def share(self, worker: RemoteWorker) -> None:
        """One more session in a leased worker, whether it has room or not."""
        with self._changed:
            self._leased[worker] = self._leased.get(worker, 0) + 1

    def release(self, worker: RemoteWorker) -> None:
        """One session less. A worker that failed is removed."""
        with self._changed:
            if worker in self._leased:
                self._leased[worker] -= 1
                self._changed.notify_all()

    def leave(self, session: RemoteSession) -> None:
        """A session was let go without a word, wherever the collector runs: nothing here may wait."""
        self._left.append(session)

    def close(self) -> None:
        """Remove all containers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        for worker in self._leased:
            worker.close()

    def abandon(self) -> None:
        """Be empty in a fork."""
        self._changed = threading.Condition()
        self._leased, self._closed = {}, True

    def _take(self, deadline: float) -> RemoteWorker:
        with self._changed:
            self._waiting += 1
            self._problem = None
            self._changed.notify_all()
            try:
                while (worker := self._roomiest()) is None:
                    if self._closed:
                        raise SandboxLost("the containers were removed")
                    if self._problem is not None:
                        raise self._problem
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        raise SandboxExhausted(
                            f"all {len(self._leased)} containers are full; none became free in"
                            f" {self.settings.wait_seconds:g} s"
                        )
                self._leased[worker] += 1
                return worker
            finally:
                self._waiting -= 1

    def _roomiest(self) -> RemoteWorker | None:
        room = [worker for worker in self.workers if self._leased[worker] < self.settings.sessions]
        return min(room, key=self._leased.__getitem__, default=None)

    def _wants_more(self) -> bool:
        if self._problem is not None:
            return False
        free = sum(not self._leased[worker] for worker in self.workers)
        starving = self._waiting and self._roomiest() is None
        return len(self.workers) < self.settings.most and (bool(starving) or free < self.settings.warm)

    def _has_work(self) -> bool:
        return self._closed or bool(self._left) or len(self.workers) < len(self._leased) or self._wants_more()

    def _tend(self) -> None:
        """What the thread does: remove lost workers, close what was left, collect, and start workers."""
        next_collect = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work, _LOOK_EVERY)
                if self._closed:
                    return
                lost = [worker for worker in self._leased if worker.lost]
                for worker in lost:
                    del self._leased[worker]
                wanted = self._wants_more()
            for worker in lost:
                worker.close()
            while self._left:
                session = self._left.popleft()
                session.close()
                self.release(session.worker)
            try:
                if time.monotonic() >= next_collect:
                    next_collect = time.monotonic() + _COLLECT_EVERY
                    self._collect([worker.name for worker in list(self._leased)])
                if wanted:
                    self._add(self._start())
            except OperatorError as error:
                with self._changed:
                    self._problem = error
                    self._changed.notify_all()

    def _add(self, worker: RemoteWorker) -> None:
        with self._changed:
            self._leased[worker] = 0
            self._changed.notify_all()


class DockerSession:
    """A session in a container."""

    def __init__(self, pool: Pool, session: RemoteSession) -> None:
        self._pool, self._session = pool, session
        self._left = weakref.finalize(self, pool.leave, session)
        self._left.atexit = False

    def call(self, name: str, arguments: Json) -> ToolResult:
        return self._session.call(name, arguments)

    def fork(self) -> DockerSession:
        other = self._session.fork()
        self._pool.share(other.worker)
        return DockerSession(self._pool, other)

    def snapshot(self) -> WorldSnapshot:
        return self._session.snapshot()

    def restore(self, snapshot: WorldSnapshot) -> None:
        self._session.restore(snapshot)

    def digest(self) -> str:
        return self._session.digest()

    def diff(self) -> tuple[RowChange, ...]:
        return self._session.diff()

    def close(self) -> None:
        if self._left.detach():
            self._session.close()
            self._pool.release(self._session.worker)


class DockerSandbox:
    """Opens sessions in containers.

    Args:
        limits: of agent-written Python.
        container: limits of a container.
        pool: how many there are.
        image: built from this installation if left out.

    Raises:
        SandboxUnavailable: docker's package is missing, or no engine answers.
    """

    name = "docker"
    sql = SQLITE

    def __init__(
        self,
        limits: Limits | None = None,
        container: ContainerSettings | None = None,
        pool: PoolSettings | None = None,
        image: str | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._settings = container or ContainerSettings()
        self._pool_settings = pool or PoolSettings()
        self._image = image
        self._client: Any = docker_image.connect()
        self._session = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._pool: Pool | None = None
        self.level = "a container"
        abandon_in_forks(self)

    @property
    def pool(self) -> Pool:
        """Started when it is first needed."""
        with self._lock:
            if self._pool is None:
                atexit.register(self.close)
                image = self._image or docker_image.ensure(self._client)
                start = docker_container.start
                self._pool = Pool(
                    self._pool_settings,
                    lambda: start(self._client, image, self._session, self._settings),
                    lambda names: _collect(self._client, self._session, names),
                )
            return self._pool

    def open(self, image: WorldImage, toolbox: Toolbox) -> DockerSession:
        pool = self.pool
        worker = pool.lease()
        try:
            session = worker.open(image, toolbox, self.limits)
        except BaseException:
            pool.release(worker)
            raise
        self.level = f"a container, {worker.level}"
        return DockerSession(pool, session)

    def close(self) -> None:
        """Remove the containers."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            atexit.unregister(self.close)
            pool.close()
            with suppress(SandboxLost):  # it went with the engine, or another owner collects it
                _collect(self._client, self._session, keep=())

    def abandon(self) -> None:
        """Start containers of its own in a fork."""
        self._lock = threading.Lock()
        self._pool, self._session = None, uuid.uuid4().hex
        atexit.unregister(self.close)
        self._client.close()  # its connections; it makes others


class SharedDocker:
    """What environments get that name "docker": one `DockerSandbox` a process, closed by the last of them."""

    name = "docker"
    sql = SQLITE

    def __init__(self) -> None:
        key = os.getpid()
        if key not in _SHARED:
            sandbox = DockerSandbox()
            _SHARED[key] = sandbox, Lease(sandbox)
        self._sandbox, self._lease = _SHARED[key]
        self._lease.join(self)

    @property
    def level(self) -> str:
        return self._sandbox.level

    def open(self, image: WorldImage, toolbox: Toolbox) -> DockerSession:
        self._lease.join(self)
        return self._sandbox.open(image, toolbox)

    def close(self) -> None:
        self._lease.leave(self)


_SHARED: dict[int, tuple[DockerSandbox, Lease]] = {}


def _collect(client: Any, session: str, keep: Sequence[str]) -> None:
    """Remove what others left, and of our own session what an engine that did not answer would not remove.

    Raises:
        SandboxLost: the engine does not answer.
    """
    import docker.errors
    import requests.exceptions

    try:
        docker_labels.collect(client)
        for found in client.api.containers(all=True, filters={"label": f"{docker_labels.SESSION}={session}"}):
            if found["Id"] not in keep:
                docker_container.remove(client, found["Id"])
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise SandboxLost(f"the docker engine does not answer: {error}") from None
