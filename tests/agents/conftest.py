"""Scenarios and trajectories that the tests of this room share."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from toolenv.agents.policies import make_policy
from toolenv.agents.policy import Policy
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.sampler import Sampler

Play = Callable[..., list[Trajectory]]
Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    return load_scenario("crm")


@pytest.fixture(scope="session")
def sampler(scenario: Scenario) -> Sampler:
    return Sampler(scenario, "all")


@pytest.fixture(scope="session")
def play(scenario: Scenario) -> Play:
    """Run a policy on seeds: trajectories in the order of seeds."""

    def run(
        policy: Policy | str, seeds: Iterable[int], *, family: str | None = None, batch: int = 16
    ) -> list[Trajectory]:
        policy = make_policy(policy) if isinstance(policy, str) else policy
        attempts = [Attempt(seed, family) for seed in seeds]
        done = rollout(scenario, policy, attempts, families="all", batch=batch)
        return sorted(done, key=lambda trajectory: trajectory.seed)

    return run


@pytest.fixture(scope="session")
def faulty(play: Play) -> list[Trajectory]:
    """600 episodes, four in five with a fault."""
    return play("faulty:0.8", range(600))


@pytest.fixture(scope="session")
def contents() -> Contents:
    """The files of a dataset's folder, timing taken out."""

    def read(folder: Path) -> dict[str, bytes]:
        timing = re.compile(rb',"timing":\{[^}]*\}')
        return {path.name: timing.sub(b"", path.read_bytes()) for path in sorted(folder.iterdir())}

    return read


# -- a server that speaks OpenAI's protocol, and fails as it is told -------------------------------------

KEY = "sk-sentinel-5f0c1d"
Behaviour = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the endpoint's next behaviour."""

    protocol_version = "HTTP/1.1"
    endpoint: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.endpoint.lock:
            self.endpoint.requests.append(body)
            self.endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.endpoint.running += 1
            self.endpoint.most_at_once = max(self.endpoint.most_at_once, self.endpoint.running)
            behaviour = self.endpoint.script.popleft() if self.endpoint.script else self.endpoint.default
        try:
            behaviour(self, body)
        except OSError:
            self.close_connection = True  # the client has gone away
        finally:
            with self.endpoint.lock:
                self.endpoint.running -= 1

    def send(self, data: bytes, status: int = 200, *, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", headers.pop("length", str(len(data))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """No log."""


class Endpoint:
    """A server on localhost. Requests are answered by `script`, then by `default`."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.script: deque[Behaviour] = deque()
        self.default: Behaviour = self.says("Done.")
        self.running = self.most_at_once = 0
        self.lock = threading.Lock()
        handler = type("BoundHandler", (Handler,), {"endpoint": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @staticmethod
    def says(
        content: str | None = None,
        *,
        calls: Iterable[tuple[str, Any]] = (),
        finish: str = "stop",
        usage: Any = (100, 10),
        **message: Any,
    ) -> Behaviour:
        """A chat completion; `calls` are names with their arguments as text."""
        called = [
            {"id": f"x{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(calls)
        ]
        written = {"role": "assistant", "content": content, **({"tool_calls": called} if called else {}), **message}
        used = None
        if usage is not None:
            used = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        choice = {"index": 0, "message": written, "finish_reason": finish}
        completion = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return Endpoint.sends(json.dumps(completion | {"usage": used}).encode())

    @staticmethod
    def sends(data: bytes, status: int = 200, **headers: str) -> Behaviour:
        return lambda handler, _: handler.send(data, status, **headers)

    @staticmethod
    def streams(*deltas: dict[str, Any], usage: Any = None, breaks: bool = False) -> Behaviour:
        """A streamed completion of these deltas; with `breaks` the connection ends before the stream does."""
        events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        if usage is not None:
            events.append({"choices": [], "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}})
        head = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        lines = [f"data: {json.dumps(head | event)}\n\n" for event in events]
        data = "".join([*lines, "" if breaks else "data: [DONE]\n\n"]).encode()

        def behave(handler: Handler, body: dict[str, Any]) -> None:
            handler.send(data, kind="text/event-stream", length=str(len(data) + 100 * breaks))
            handler.close_connection = breaks

        return behave

    @staticmethod
    def stalls(seconds: float) -> Behaviour:
        return lambda handler, _: time.sleep(seconds)

    @staticmethod
    def hangs_up() -> Behaviour:
        """A body that ends in its middle."""

        def behave(handler: Handler, body: dict[str, Any]) -> None:
            handler.send(b'{"id": "c", "choi', length="4000")
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True

        return behave


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A scripted server, with a key in the environment that must not turn up anywhere."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    server = Endpoint()
    yield server
    server.close()
