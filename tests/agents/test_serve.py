"""`serve` as clients meet it: a server that is really started, asked by the official `openai` client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

import openai

from toolenv.agents.chat_client import EndpointSettings
from toolenv.agents.chat_policy import ChatPolicy
from toolenv.agents.rollout import Attempt, rollout
from toolenv.scenarios.loading import Scenario

PARROT = Path(__file__).with_name("parrot.py")
KEY = "a-key-of-this-test"
SYSTEM = {"role": "system", "content": "Do as you are told."}
STATUS = {
    "type": "function",
    "function": {"name": "status", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}},
}


class Server:
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


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def make(*options: str, **environment: str) -> Server:
        started.append(Server(tmp_path / f"log{len(started)}", *options, **environment))
        return started[-1]

    yield make
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all that leaves it as it is: without keys, with small limits."""
    server = Server(tmp_path_factory.mktemp("parrot") / "log", "--most_body_bytes", "20000")
    yield server
    server.kill()


# -- turns -------------------------------------------------------------------------------------------------


def test_an_answer(server: Server) -> None:
    completion = server.ask("say It is shipped.")
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "It is shipped.")
    assert choice.finish_reason == "stop"
    assert (completion.model, completion.object) == ("parrot", "chat.completion")
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (10, 3)
    assert completion.usage.total_tokens == 13


def test_a_call_and_the_turn_after_it(server: Server) -> None:
    first = server.ask('call status {"id": "ORD-1"}', tools=[STATUS]).choices[0]
    (call,) = first.message.tool_calls
    assert (call.type, call.function.name) == ("function", "status")
    assert json.loads(call.function.arguments) == {"id": "ORD-1"}
    assert (first.finish_reason, first.message.content) == ("tool_calls", None)
    assert first.message.reasoning_content == "I was told to."
    conversation = [
        SYSTEM,
        {"role": "user", "content": 'call status {"id": "ORD-1"}'},
        first.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "then say done"},
    ]
    with server.client() as client:
        second = client.chat.completions.create(model="parrot", messages=conversation, tools=[STATUS])
        again = client.chat.completions.create(model="parrot", messages=conversation, tools=[STATUS])
    assert second.choices[0].message.content == "done"
    # What was computed is handed out once; who asks again has it computed anew.
    assert second.usage.prompt_tokens_details.cached_tokens == 1
    assert again.usage.prompt_tokens_details.cached_tokens == 0


def test_what_cannot_be_read_is_no_answer(server: Server) -> None:
    (choice,) = server.ask("write <|call|>status {").choices
    assert choice.finish_reason == "length"
    assert choice.message.content == "<|call|>status {"


def test_a_turn_beyond_max_tokens_is_not_told(server: Server) -> None:
    (choice,) = server.ask("say one two three", max_tokens=2).choices
    assert (choice.finish_reason, choice.message.content) == ("length", "")
    assert server.ask("say one two three", max_tokens=3).choices[0].finish_reason == "stop"


@pytest.mark.parametrize("text", ["say It is shipped.", 'call status {"id": "ORD-1"}'])
def test_a_stream_tells_the_same(server: Server, text: str) -> None:
    whole = server.ask(text, tools=[STATUS])
    (expected,) = whole.choices
    content, reasoning, name, arguments, finished = "", "", "", "", None
    parts = server.ask(text, tools=[STATUS], stream=True, stream_options={"include_usage": True})
    for choice in (choice for part in parts for choice in part.choices):
        content += choice.delta.content or ""
        reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        for call in choice.delta.tool_calls or ():
            name += call.function.name or ""
            arguments += call.function.arguments
        finished = choice.finish_reason or finished
    assert content == (expected.message.content or "")
    assert reasoning == (getattr(expected.message, "reasoning_content", None) or "")
    calls = expected.message.tool_calls or []
    assert (name, arguments) == ((calls[0].function.name, calls[0].function.arguments) if calls else ("", ""))
    assert finished == expected.finish_reason
    assert parts[-1].usage == whole.usage
    assert {part.id for part in parts} == {parts[0].id}


def test_models(server: Server) -> None:
    with server.client() as client:
        assert [model.id for model in client.models.list()] == ["parrot"]
        assert client.models.retrieve("parrot").owned_by == "toolenv"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("cuckoo")


# -- what is refused ---------------------------------------------------------------------------------------


def test_an_unknown_model(server: Server) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        server.ask("say hello", model="cuckoo")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("named", "param"),
    [
        ({"n": 2}, "n"),
        ({"temperature": 0.7}, "temperature"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"stop": ["x"]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [SYSTEM]}, "messages"),
        ({"messages": [{"role": "bystander", "content": "x"}]}, "messages.0.role"),
        ({"messages": [SYSTEM, {"role": "user", "content": 7}]}, "messages.1.content"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "a", "content": "y"}]},
            "messages.1.tool_call_id",
        ),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [STATUS, STATUS]}, "tools.1"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": 3}}}]}, "tools.0.parameters"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(server: Server, named: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        server.ask("say hello", **named)
    assert refused.value.param == param
    assert param in refused.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"text"',
        b"\xff",
        b'{"model": "parrot"}',
        b"",
        b"[" * 19000,
        b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
)
def test_a_malformed_body(server: Server, body: bytes) -> None:
    status, _, told = server.post(body)
    assert status == 400
    assert told["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_long(server: Server) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        server.ask("say " + "x" * 20_000)
    assert refused.value.status_code == 413
    status, _, told = server.post(b"{}", Content_Length="100000000")
    assert (status, told["error"]["code"]) == (413, "too_large")


def test_a_form_that_a_page_could_send(server: Server) -> None:
    assert server.post(b"{}", Content_Type="text/plain")[0] == 415
    assert server.post(b"{}", Host="rebound.example")[0] == 403


def test_an_unknown_route(server: Server) -> None:
    assert server.get("/v1/embeddings")[0] == 404
    assert server.get("/docs")[0] == 404
    assert server.send("DELETE", "/v1/chat/completions")[0] == 405


def test_a_deadline(start: Callable[..., Server], tmp_path: Path) -> None:
    server, released = start("--deadline_s", "1"), tmp_path / "released"
    with held(server, released, 1) as outcomes:
        assert together(server, ["say x"]) == [504], "one that waits for the policy is not forgotten, either"
        wait_for(lambda: server.get("/health")[0] == 503)  # at one batch for twice as long
        released.touch()
        wait_for(lambda: server.get("/health")[0] == 200)
    assert outcomes == [504]
    assert server.ask("say I am still here").choices[0].message.content == "I am still here"


def test_one_that_fails_does_not_take_others_with_it(server: Server) -> None:
    for failing, status in (("fail", 500), ("endpoint", 502)):
        outcomes = together(server, ["wait 0.5", *[failing, "say kept", "call status {}"] * 4])
        assert outcomes[1:] == [status, "kept", "status"] * 4
    outcomes = together(server, ["wait 0.5", *["fail", "endpoint", "say kept"] * 3])
    assert outcomes[1:] == [500, 502, "kept"] * 3
    log = server.log.read_text()
    assert "secret-of-the-parrot" not in log, "what an exception says may repeat what a client said"
    assert server.told("failed")["error"] == "RuntimeError"


def test_a_schema_that_refers_to_nothing(server: Server) -> None:
    broken = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"$ref": "#/no"}}}}}
    before = server.metric('toolenv_steps_total{kind="invalid_call"}')
    assert server.ask('call f {"a": 1}', tools=[broken]).choices[0].message.tool_calls
    assert server.metric('toolenv_steps_total{kind="invalid_call"}') == before + 1


# -- who may ask, and how much -----------------------------------------------------------------------------


def test_keys(start: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of this test\nmia {KEY}\n")
    server = start("--keys", str(file), TOOLENV_API_KEY="another-key-from-outside")
    for wrong in ("none", KEY[:-1], KEY + "x", "mia"):
        with pytest.raises(openai.AuthenticationError):
            server.ask("say hello", key=wrong)
    assert server.post(b"{}")[1]["www-authenticate"] == "Bearer"
    assert server.ask("say hello", key=KEY).choices[0].message.content == "hello"
    assert server.ask("say hello", key="another-key-from-outside")
    assert server.get("/v1/models")[0] == 401
    assert server.get("/metrics")[0] == 401
    assert server.get("/metrics", Authorization=f"Bearer {KEY}")[0] == 200
    assert server.get("/health")[0] == server.get("/ready")[0] == 200
    asked = [event for event in server.events() if event["event"] == "request"]
    assert [event["key"] for event in asked if event["status"] == 200] == ["mia", "env"]
    assert KEY not in server.log.read_text()
    assert "hello" not in server.log.read_text()


def test_too_many_at_once(start: Callable[..., Server], tmp_path: Path) -> None:
    server, released = start("--most_requests", "2"), tmp_path / "released"
    with server.client(retries=8) as client, held(server, released, 2) as outcomes:
        assert together(server, ["say x"] * 3) == [429] * 3
        status, headers, told = server.post(b"{}")
        assert (status, headers["retry-after"], told["error"]["code"]) == (429, "1", "too_many_requests")
        asking = [SYSTEM, {"role": "user", "content": "say at last"}]
        answers: list[Any] = []
        with background(lambda: answers.append(client.chat.completions.create(model="parrot", messages=asking))):
            wait_for(lambda: server.metric('toolenv_requests_total{status="429"}') == 5)
            released.touch()
    assert outcomes == [str(released)] * 2
    assert answers[0].choices[0].message.content == "at last", "who heeds Retry-After is served"


def test_too_many_a_minute(start: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"mia {KEY}\nben another-{KEY}\n")
    server = start("--per_minute", "3", "--keys", str(file))
    for _ in range(3):
        server.ask("say hello", key=KEY)
    with pytest.raises(openai.RateLimitError) as refused:
        server.ask("say hello", key=KEY)
    assert refused.value.code == "rate_limit_exceeded"
    assert 50 < int(refused.value.response.headers["retry-after"]) <= 60
    assert server.ask("say hello", key=f"another-{KEY}")


# -- what is told about it ---------------------------------------------------------------------------------


def test_metrics(start: Callable[..., Server], tmp_path: Path) -> None:
    server, released = start("--batch", "4"), tmp_path / "released"
    order = {"id": "ORD-00001"}
    own = [
        "call get_order_status " + json.dumps({"order_id": "ORD-00001"}),
        "call get_order_status " + json.dumps(order),
        "call no_such_tool {}",
        "write <|call|>",
        "say one two",
        "fail",
    ]
    for text in own:
        with contextlib.suppress(openai.InternalServerError):
            server.ask(text)
    kinds = {"valid_call": 1, "invalid_call": 2, "unreadable": 1, "answer": 1, "cut": 0}
    assert {kind: server.metric(f'toolenv_steps_total{{kind="{kind}"}}') for kind in kinds} == kinds
    assert server.metric('toolenv_requests_total{status="200"}') == 5
    assert server.metric('toolenv_requests_total{status="500"}') == 1
    assert server.metric("toolenv_request_seconds_count") == 5
    assert server.metric('toolenv_tokens_total{kind="prompt"}') == 50
    assert server.metric("process_resident_memory_bytes") > 1e6
    with held(server, released, 1), background(lambda: together(server, ["say x"] * 8)):
        wait_for(lambda: server.metric("toolenv_queue_length") == 8)
        released.touch()
    assert server.metric("toolenv_batch_size_sum") == 6 + 9
    assert server.metric("toolenv_batch_size_count") == 6 + 1 + 2, "two batches of four"


# -- its end -----------------------------------------------------------------------------------------------


def test_a_stop_in_mid_request(start: Callable[..., Server], tmp_path: Path) -> None:
    server, released = start(), tmp_path / "released"
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    kept.request("GET", "/ready")
    assert kept.getresponse().read() == b'{"status":"ready"}'
    with held(server, released, 2) as outcomes:
        server.process.send_signal(signal.SIGTERM)
        server.told("stopping")
        status, headers, told = server.post(b"{}")  # on a connection of its own
        assert (status, told["error"]["code"], headers["retry-after"]) == (503, "stopping", "1")
        kept.request("GET", "/ready")
        assert kept.getresponse().status == 503
        assert server.get("/health")[0] == 200
        released.touch()
    assert outcomes == [str(released)] * 2
    assert server.process.wait(10) == 0
    assert server.told("stopped")
    kept.close()


def test_the_time_of_grace_ends(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--grace_s", "0.3")
    with held(server, tmp_path / "never", 1) as outcomes:
        began = time.monotonic()
        assert server.stop() == 0
    assert time.monotonic() - began < 15
    assert outcomes == [503]


def test_who_never_ends_a_request_does_not_hold_the_end_up(start: Callable[..., Server]) -> None:
    server = start("--grace_s", "0.3", "--deadline_s", "60")
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.putrequest("POST", "/v1/chat/completions")
    for name, text in (("Content-Type", "application/json"), ("Content-Length", "100")):
        connection.putheader(name, text)
    connection.endheaders(b"{")
    wait_for(lambda: server.metric("toolenv_requests_under_way") == 1)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10
    assert server.events()[-1]["event"] == "stopped"
    connection.close()


def test_an_idle_server_stops_at_once(start: Callable[..., Server]) -> None:
    server = start()
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10


def test_a_client_that_hangs_up_is_not_waited_for(start: Callable[..., Server], tmp_path: Path) -> None:
    server, released = start("--batch", "1"), tmp_path / "released"
    with held(server, released, 1):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        body = json.dumps({"model": "parrot", "messages": [{"role": "user", "content": "hold /never"}]})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        wait_for(lambda: server.metric("toolenv_requests_under_way") == 2)
        connection.close()
        wait_for(lambda: server.metric('toolenv_requests_total{status="499"}') == 1)
        released.touch()
    assert server.ask("say next").choices[0].message.content == "next"


def test_no_episode_is_lost_over_a_restart(start: Callable[..., Server], scenario: Scenario) -> None:
    server = start()
    settings = {"model": "parrot", "base_url": server.url, "max_retries": 20, "concurrency": 4}
    policy = ChatPolicy(EndpointSettings.checked(settings, "test"))
    played: list[Any] = []
    attempts = [Attempt(seed) for seed in range(120)]

    def play() -> None:
        played.extend(rollout(scenario, policy, attempts, batch=4))

    with background(play):
        wait_for(lambda: len(played) >= 4)
        assert server.stop() == 0
        assert len(played) < 120
        start("--port", str(server.port))
    policy.close()
    assert sorted(trajectory.seed for trajectory in played) == list(range(120))
    assert all(trajectory.answer for trajectory in played)


def test_a_port_that_is_taken(start: Callable[..., Server]) -> None:
    server = start()
    command = [sys.executable, str(PARROT), "--port", str(server.port)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert f"127.0.0.1:{server.port}: Address already in use" in finished.stderr


# -- several at once ---------------------------------------------------------------------------------------


def together(server: Server, texts: list[str]) -> list[Any]:
    """What becomes of each, asked side by side, the first a little ahead: content, a tool's name or a status."""
    outcomes: list[Any] = [None] * len(texts)

    def ask(place: int, text: str) -> None:
        try:
            message = server.ask(text).choices[0].message
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
def held(server: Server, released: Path, count: int) -> Iterator[list[Any]]:
    """Requests that are under way until the file is there; what becomes of them, when the block has ended."""
    outcomes: list[Any] = []
    with background(lambda: outcomes.extend(together(server, [f"hold {released}"] * count))):
        wait_for(lambda: server.metric("toolenv_requests_under_way") == count)
        yield outcomes


@contextlib.contextmanager
def background(work: Callable[[], object]) -> Iterator[None]:
    """Work that goes on beside the block, and is waited for at its end."""
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
