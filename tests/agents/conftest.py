"""Scenarios and trajectories that the tests of this room share."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
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


# -- a service of ours, whose policy does as it is told ----------------------------------------------------

PARROT = Path(__file__).with_name("parrot.py")
SYSTEM = {"role": "system", "content": "Do as you are told."}


class ServedParrot:
    """A parrot in a process of its own."""

    def __init__(self, log: Path, *options: str, **environment: str) -> None:
        self.log = log
        with log.open("ab") as stream:
            known = {name: value for name, value in os.environ.items() if name != "TOOLENV_API_KEY"}
            self.process = subprocess.Popen(
                [sys.executable, str(PARROT), *options], stderr=stream, env=known | environment
            )
        self.url = str(self.told("listening")["url"])
        self.port = int(self.url.split(":")[2].split("/")[0])

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def told(self, event: str) -> dict[str, Any]:
        """The latest such event of the log, as soon as there is one."""
        deadline = time.monotonic() + 60
        while not (found := [told for told in self.events() if told["event"] == event]):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return found[-1]

    def client(self, key: str = "none", retries: int = 0) -> Any:
        import openai

        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=retries, timeout=30)

    def ask(self, *texts: str, key: str = "none", **named: Any) -> Any:
        messages = [SYSTEM, *({"role": "user", "content": text} for text in texts)]
        with self.client(key) as client:
            reply = client.chat.completions.create(**{"model": "parrot", "messages": messages} | named)
            return list(reply) if named.get("stream") else reply

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        status, _, body = self.send("GET", path, **headers)
        return status, body

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read().decode()

    def post(self, body: bytes, **headers: str) -> tuple[int, dict[str, str], Any]:
        named = {"Content_Type": "application/json"} | headers
        status, answered, text = self.send("POST", "/v1/chat/completions", body, **named)
        return status, answered, json.loads(text)

    def metric(self, series: str) -> float:
        lines = dict(line.rsplit(" ", 1) for line in self.get("/metrics")[1].splitlines() if line[0] != "#")
        return float(lines.get(series, 0))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def together(self, texts: list[str]) -> list[Any]:
        """What becomes of each, asked side by side, the first a little ahead: content, a tool's name or a status."""
        import openai

        outcomes: list[Any] = [None] * len(texts)

        def ask(place: int, text: str) -> None:
            try:
                message = self.ask(text).choices[0].message
            except openai.APIStatusError as error:
                outcomes[place] = error.status_code
            else:
                outcomes[place] = message.tool_calls[0].function.name if message.tool_calls else message.content

        threads = [threading.Thread(target=ask, args=item) for item in enumerate(texts)]
        for thread in threads:
            thread.start()
            time.sleep(0.1 if thread is threads[0] else 0)
        for thread in threads:
            thread.join()
        return outcomes

    @contextlib.contextmanager
    def held(self, released: Path, count: int) -> Iterator[list[Any]]:
        """Requests that are under way until the file is there; what becomes of them, when the block has ended."""
        outcomes: list[Any] = []
        with self.background(lambda: outcomes.extend(self.together([f"hold {released}"] * count))):
            self.wait_for(lambda: self.metric("toolenv_requests_under_way") == count)
            yield outcomes

    @staticmethod
    @contextlib.contextmanager
    def background(work: Callable[[], object]) -> Iterator[None]:
        """Work that goes on beside the block, and is waited for at its end."""
        thread = threading.Thread(target=work)
        thread.start()
        yield
        thread.join()

    @staticmethod
    def wait_for(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ServedParrot]]:
    started: list[ServedParrot] = []

    def make(*options: str, **environment: str) -> ServedParrot:
        started.append(ServedParrot(tmp_path / f"log{len(started)}", *options, **environment))
        return started[-1]

    yield make
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedParrot]:
    """One for all that leaves it as it is: without keys, with small limits."""
    server = ServedParrot(tmp_path_factory.mktemp("parrot") / "log", "--most_body_bytes", "20000")
    yield server
    server.kill()
