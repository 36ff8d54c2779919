"""A service within its limits, what it tells of itself, and its end; a server that is really started."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
Start = Callable[..., Any]


# -- who may ask, and how much -----------------------------------------------------------------------------


def test_keys(start: Start, tmp_path: Path) -> None:
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


def test_too_many_at_once(start: Start, tmp_path: Path) -> None:
    server, released = start("--most_requests", "2"), tmp_path / "released"
    with server.client(retries=8) as client, server.held(released, 2) as outcomes:
        assert server.together(["say x"] * 3) == [429] * 3
        status, headers, told = server.post(b"{}")
        assert (status, headers["retry-after"], told["error"]["code"]) == (429, "1", "too_many_requests")
        asking = [SYSTEM, {"role": "user", "content": "say at last"}]
        answers: list[Any] = []
        with server.background(lambda: answers.append(client.chat.completions.create(model="parrot", messages=asking))):
            server.wait_for(lambda: server.metric('toolenv_requests_total{status="429"}') == 5)
            released.touch()
    assert outcomes == [str(released)] * 2
    assert answers[0].choices[0].message.content == "at last", "who heeds Retry-After is served"


def test_too_many_a_minute(start: Start, tmp_path: Path) -> None:
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


def test_a_deadline(start: Start, tmp_path: Path) -> None:
    server, released = start("--deadline_s", "1"), tmp_path / "released"
    with server.held(released, 1) as outcomes:
        assert server.together(["say x"]) == [504], "one that waits for the policy is not forgotten, either"
        server.wait_for(lambda: server.get("/health")[0] == 503)  # at one batch for twice as long
        released.touch()
        server.wait_for(lambda: server.get("/health")[0] == 200)
    assert outcomes == [504]
    assert server.ask("say I am still here").choices[0].message.content == "I am still here"


# -- what is told about it ---------------------------------------------------------------------------------


def test_metrics(start: Start, tmp_path: Path) -> None:
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
    with server.held(released, 1), server.background(lambda: server.together(["say x"] * 8)):
        server.wait_for(lambda: server.metric("toolenv_queue_length") == 8)
        released.touch()
    assert server.metric("toolenv_batch_size_sum") == 6 + 9
    assert server.metric("toolenv_batch_size_count") == 6 + 1 + 2, "two batches of four"


# -- its end -----------------------------------------------------------------------------------------------


def test_a_stop_in_mid_request(start: Start, tmp_path: Path) -> None:
    server, released = start(), tmp_path / "released"
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    kept.request("GET", "/ready")
    assert kept.getresponse().read() == b'{"status":"ready"}'
    with server.held(released, 2) as outcomes:
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


def test_the_time_of_grace_ends(start: Start, tmp_path: Path) -> None:
    server = start("--grace_s", "0.3")
    with server.held(tmp_path / "never", 1) as outcomes:
        began = time.monotonic()
        assert server.stop() == 0
    assert time.monotonic() - began < 15
    assert outcomes == [503]


def test_who_never_ends_a_request_does_not_hold_the_end_up(start: Start) -> None:
    server = start("--grace_s", "0.3", "--deadline_s", "60")
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.putrequest("POST", "/v1/chat/completions")
    for name, text in (("Content-Type", "application/json"), ("Content-Length", "100")):
        connection.putheader(name, text)
    connection.endheaders(b"{")
    server.wait_for(lambda: server.metric("toolenv_requests_under_way") == 1)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10
    assert server.events()[-1]["event"] == "stopped"
    connection.close()


def test_an_idle_server_stops_at_once(start: Start) -> None:
    server = start()
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10


def test_a_client_that_hangs_up_is_not_waited_for(start: Start, tmp_path: Path) -> None:
    server, released = start("--batch", "1"), tmp_path / "released"
    with server.held(released, 1):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        body = json.dumps({"model": "parrot", "messages": [{"role": "user", "content": "hold /never"}]})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        server.wait_for(lambda: server.metric("toolenv_requests_under_way") == 2)
        connection.close()
        server.wait_for(lambda: server.metric('toolenv_requests_total{status="499"}') == 1)
        released.touch()
    assert server.ask("say next").choices[0].message.content == "next"


def test_no_episode_is_lost_over_a_restart(start: Start, scenario: Scenario) -> None:
    server = start()
    settings = {"model": "parrot", "base_url": server.url, "max_retries": 20, "concurrency": 4}
    policy = ChatPolicy(EndpointSettings.checked(settings, "test"))
    played: list[Any] = []
    attempts = [Attempt(seed) for seed in range(120)]

    def play() -> None:
        played.extend(rollout(scenario, policy, attempts, batch=4))

    with server.background(play):
        server.wait_for(lambda: len(played) >= 4)
        assert server.stop() == 0
        assert len(played) < 120
        start("--port", str(server.port))
    policy.close()
    assert sorted(trajectory.seed for trajectory in played) == list(range(120))
    assert all(trajectory.answer for trajectory in played)


def test_a_port_that_is_taken(start: Start) -> None:
    server = start()
    command = [sys.executable, str(PARROT), "--port", str(server.port)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert f"127.0.0.1:{server.port}: Address already in use" in finished.stderr
