"""The client against a server that fails in every way: what is repeated, what is told, what it costs, what it hides."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openai")

from toolenv.agents.budget import BudgetSpent
from toolenv.agents.chat_client import (
    ChatClient,
    EndpointError,
    EndpointSettings,
    Prices,
    RawCall,
    Reply,
    Request,
    SettingsError,
)
from toolenv.agents.equivalence import Guide
from toolenv.agents.judge import Verdict, make_judge
from toolenv.agents.policy import PolicyStopped
from toolenv.agents.usage import Usage, total
from toolenv.envs.tool_env import ToolEnv

KEY = "sk-sentinel-5f0c1d"
ASK = Request([{"role": "user", "content": "Hello"}])
PRICES = {"input": 2.0, "output": 10.0, "cached": 0.5}


@pytest.fixture
def client(endpoint):
    made = []

    def make(**settings):
        settings = {"model": "m", "base_url": endpoint.url, "max_retries": 2, "max_tokens": 50} | settings
        made.append(ChatClient(EndpointSettings.checked(settings, "test")))
        return made[-1]

    yield make
    for one in made:
        one.close()


def only(replies: list[Reply | PolicyStopped]) -> Reply:
    (reply,) = replies
    assert isinstance(reply, Reply), reply
    return reply


def refusal(replies: list[Reply | PolicyStopped]) -> str:
    (stopped,) = replies
    assert isinstance(stopped, EndpointError)
    return str(stopped)


# -- what is asked and what comes back ---------------------------------------------------------------------


def test_a_reply_with_its_price(endpoint, client):
    body = b"""{"choices": [{"message": {"content": "Hi", "reasoning_content": "Greet."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}}"""
    endpoint.script.append(endpoint.sends(body))
    reply = only(client(prices=PRICES).ask([ASK]))
    assert (reply.content, reply.reasoning, reply.calls, reply.finish_reason) == ("Hi", "Greet.", (), "stop")
    usage = reply.usage
    assert (usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.requests) == (1000, 400, 100, 1)
    assert usage.usd == pytest.approx((600 * 2 + 400 * 0.5 + 100 * 10) / 1e6)
    assert 0 < usage.seconds < 30


def test_what_the_settings_say_is_asked(endpoint, client):
    asking = client(temperature=0.3, max_tokens=7, max_tokens_field="max_completion_tokens", extra_body={"top_k": 5})
    asking.ask([Request(ASK.messages, [{"type": "function", "function": {"name": "f"}}])])
    (body,) = endpoint.requests
    tools = body.pop("tools")
    assert tools == [{"type": "function", "function": {"name": "f"}}]
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "temperature": 0.3,
        "max_completion_tokens": 7,
        "top_k": 5,
    }
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"


def test_replies_come_in_the_order_of_requests_and_no_more_at_once_than_allowed(endpoint, client):
    def slow_echo(handler, body):
        time.sleep(0.05)
        endpoint.says(body["messages"][0]["content"])(handler, body)

    endpoint.default = slow_echo
    replies = client(concurrency=3).ask([Request([{"role": "user", "content": str(i)}]) for i in range(12)])
    assert [reply.content for reply in replies] == [str(i) for i in range(12)]
    assert endpoint.most_at_once == 3


def test_it_may_be_asked_where_an_event_loop_runs(endpoint, client):
    import asyncio

    async def within() -> list[Reply | PolicyStopped]:
        return client().ask([ASK])

    assert only(asyncio.run(within())).content == "Done."


# -- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        lambda e: e.sends(b"{}", 500),
        lambda e: e.sends(b"busy", 503, kind="text/plain"),
        lambda e: e.sends(b"{}", 429),
        lambda e: e.hangs_up(),
        lambda e: e.sends(b'{"id": "c", "choices": [{"mess'),
        lambda e: e.sends(b"<html>a proxy</html>", kind="text/html"),
        lambda e: e.sends(b'{"choices": []}'),
        lambda e: e.sends(b'{"choices": null}'),
        lambda e: e.sends(b'{"choices": [{"message": null}]}'),
        lambda e: e.sends(b"[1, 2]"),
        lambda e: e.sends(b'{"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}'),
    ],
    ids=["500", "503", "429", "hung up", "cut", "html", "no choice", "null", "no message", "list", "no text"],
)
def test_a_fault_that_passes_is_not_noticed(endpoint, client, fault):
    endpoint.script.append(fault(endpoint))
    assert only(client().ask([ASK])).content == "Done."
    assert len(endpoint.requests) == 2


def test_a_fault_that_stays_is_told_after_all_attempts(endpoint, client):
    endpoint.default = endpoint.sends(b'{"error": {"message": "overloaded"}}', 503)
    told = refusal(client(max_retries=1).ask([ASK]))
    assert told.startswith(f"m at {endpoint.url}: answered 503: ")
    assert "overloaded" in told
    assert len(endpoint.requests) == 2
    endpoint.default = endpoint.sends(b"<html>", kind="text/html")
    assert "sent no chat completion" in refusal(client(max_retries=1).ask([ASK]))
    assert len(endpoint.requests) == 4


def test_retry_after_is_honoured(endpoint, client):
    endpoint.script.append(endpoint.sends(b"{}", 429, Retry_After="1.5"))
    began = time.monotonic()
    only(client().ask([ASK]))
    assert 1.5 <= time.monotonic() - began < 10, "by itself it would have waited half a second"


def test_a_stall_is_given_up_and_repeated(endpoint, client):
    endpoint.script.append(endpoint.stalls(3.0))
    began = time.monotonic()
    assert only(client(timeout_s=0.3).ask([ASK])).content == "Done."
    assert time.monotonic() - began < 2.9
    endpoint.default = endpoint.stalls(1.0)
    assert "timed out" in refusal(client(timeout_s=0.2, max_retries=0).ask([ASK]))


def test_what_is_wrong_with_the_request_is_not_repeated(endpoint, client):
    endpoint.default = endpoint.sends(b'{"error": {"message": "no such model"}}', 404)
    assert "answered 404: " in refusal(client().ask([ASK]))
    assert len(endpoint.requests) == 1


def test_nobody_there(client):
    told = refusal(client(base_url="http://127.0.0.1:9/v1", max_retries=0).ask([ASK]))
    assert "m at http://127.0.0.1:9/v1: Connection error" in told


def test_text_that_a_record_can_not_keep_is_escaped(endpoint, client):
    endpoint.script.append(endpoint.says("a\ud800b", calls=[("f\udfff", '{"x": "\ud800"}')]))
    reply = only(client().ask([ASK]))
    assert reply.content == "a\\ud800b"
    assert reply.calls == (RawCall("f\\udfff", '{"x": "\\ud800"}'),)


# -- the key -----------------------------------------------------------------------------------------------


def test_the_key_is_nowhere_but_in_the_request(endpoint, client, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    endpoint.default = endpoint.sends(f'{{"error": {{"message": "bad key {KEY} {KEY}"}}}}'.encode(), 401)
    asking = client()
    (stopped,) = asking.ask([ASK])
    assert "answered 401" in str(stopped)
    assert "bad key ***" in str(stopped)
    unreadable = endpoint.sends(f'{{"choices": "{KEY}"}}'.encode())
    endpoint.default = unreadable
    (other,) = client(max_retries=0).ask([ASK])
    shown = [str(stopped), repr(stopped), str(other), repr(asking), repr(vars(asking)), repr(asking.settings)]
    shown += [caplog.text, *capfd.readouterr(), str(stopped.__cause__), repr(asking.settings.decisive())]
    assert not [text for text in shown if KEY in text]


def test_another_variable_may_hold_it(endpoint, client, monkeypatch):
    monkeypatch.setenv("MY_KEY", "another")
    client(api_key_env="MY_KEY").ask([ASK])
    assert endpoint.headers[0]["authorization"] == "Bearer another"


def test_without_a_key_openai_is_not_asked_and_a_server_of_ones_own_is(endpoint, client, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    only(client().ask([ASK]))
    with pytest.raises(EndpointError, match="OPENAI_API_KEY is not set"):
        ChatClient(EndpointSettings(model="m")).ask([ASK])


def test_nothing_is_logged_unasked(endpoint):
    code = (
        "import sys; from toolenv.agents.chat_client import *;"
        "c = ChatClient(EndpointSettings(model='m', base_url=sys.argv[1]));"
        "print(c.ask([Request([{'role': 'user', 'content': 'x'}])])[0].content)"
    )  # not closed: it ends with the program
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, endpoint.url], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Done.\n", "")


# -- threads -----------------------------------------------------------------------------------------------


def test_several_threads_share_a_client(endpoint, client, monkeypatch):
    shared, replies, opened = client(), [], []
    open_ = ChatClient._open

    def slowly(self: ChatClient) -> None:
        opened.append(self)
        time.sleep(0.05)
        open_(self)

    monkeypatch.setattr(ChatClient, "_open", slowly)
    threads = [threading.Thread(target=lambda: replies.append(only(shared.ask([ASK])))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(replies) == 8
    assert opened == [shared]


def test_a_closed_or_dropped_client_leaves_no_thread(endpoint, client):
    def threads() -> int:
        return sum(thread.name == "toolenv-chat" for thread in threading.enumerate())

    before = threads()
    asking = client()
    asking.ask([ASK])
    assert threads() == before + 1
    asking.close()
    assert threads() == before
    with pytest.raises(ValueError, match="closed"):
        asking.ask([ASK])
    dropped = ChatClient(EndpointSettings(model="m", base_url=endpoint.url))
    dropped.ask([ASK])
    del dropped
    assert threads() == before


# -- the budget --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_budget_in_tokens_is_not_passed(endpoint, client, concurrency):
    endpoint.default = endpoint.says("Hi", usage=(40, 10))
    asking = client(budget_tokens=500, max_tokens=50, concurrency=concurrency)
    replies = asking.ask([ASK] * 40)
    refused = [reply for reply in replies if isinstance(reply, BudgetSpent)]
    assert asking.budget.spent.tokens == 50 * (40 - len(refused)) == 50 * len(endpoint.requests)
    assert 350 <= asking.budget.spent.tokens <= 500, "as far as it goes, and no further"
    assert "the budget of 500 tokens does not cover another request" in str(refused[0])


def test_a_budget_in_money_is_not_passed(endpoint, client):
    endpoint.default = endpoint.says("Hi", usage=(40, 10))
    asking = client(budget_usd=0.002, prices=PRICES, max_tokens=20)
    replies = asking.ask([ASK] * 40)
    assert 0 < asking.budget.spent.usd <= 0.002
    assert len(endpoint.requests) == sum(isinstance(reply, Reply) for reply in replies) < 40


def test_no_budget_can_be_kept_where_nobody_counts(endpoint, client):
    endpoint.default = endpoint.says("Hi", usage=None)
    assert only(client().ask([ASK])).usage.tokens == 0
    assert "does not tell what it used" in refusal(client(budget_tokens=1000).ask([ASK]))


usages = st.builds(
    Usage,
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.none() | st.floats(0, 10).map(lambda usd: round(usd, 4)),
    st.floats(0, 10).map(lambda s: round(s, 3)),
    st.integers(0, 9),
)


@settings(deadline=None)
@given(st.lists(usages, max_size=6))
def test_usages_add_up(parts):
    whole = total(parts)
    assert whole.tokens == sum(part.tokens for part in parts)
    known = [part.usd for part in parts if part.usd is not None]
    assert whole.usd == (pytest.approx(sum(known)) if known else None)
    assert total(reversed(parts)).requests == whole.requests


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_is_cached_costs_no_more_than_what_is_not(fresh, cached, written):
    prices = Prices(input=2, output=8, cached=0.5)
    assert prices.usd(fresh + cached, cached, written) <= prices.usd(fresh + cached, 0, written)
    assert Prices(input=2, output=8).usd(fresh + cached, cached, 0) == pytest.approx((fresh + cached) * 2 / 1e6)


# -- settings ----------------------------------------------------------------------------------------------


def test_settings_from_a_file(tmp_path):
    file = tmp_path / "teacher.yaml"
    file.write_text("model: m\nbase_url: http://localhost:8000/v1\nprices: {input: 1, output: 2}\nbudget_usd: 3\n")
    settings = EndpointSettings.read(file)
    assert (settings.model, settings.budget_usd, settings.api_key_env) == ("m", 3.0, "OPENAI_API_KEY")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("base_url: http://localhost/v1", "model: Field required"),
        ("model: m\ntemprature: 1", "temprature: Extra inputs are not permitted"),
        ("model: m\nprices: {input: -1, output: 2}", "prices.input: Input should be greater than or equal to 0"),
        ("model: m\nbase_url: localhost:8000", "base_url: Value error, a URL such as"),
        ("model: m\nbase_url: http://me:secret@host/v1", "base_url: Value error, no user, password or query"),
        ("model: m\nbudget_usd: 1", "settings: Value error, budget_usd needs prices"),
        ("model: [", "not YAML"),
        ("- m", "settings: Input should be"),
        ("", "settings: Input should be"),
    ],
)
def test_what_is_wrong_with_settings_is_told_with_file_and_field(tmp_path, text, told):
    file = tmp_path / "teacher.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as raised:
        EndpointSettings.read(file)
    assert str(raised.value).startswith(f"{file}: {told}")
    assert "secret" not in str(raised.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.yaml: No such file"):
        EndpointSettings.read(tmp_path / "none.yaml")


# -- as a judge and as a user ------------------------------------------------------------------------------


def test_a_conversation_is_completed_and_a_refusal_is_raised(endpoint, client):
    one = client(max_retries=0)
    endpoint.script += [endpoint.says("GOOD"), endpoint.sends(b"{}", 400)]
    assert one.complete([{"role": "user", "content": "Is it?"}]) == "GOOD"
    assert endpoint.requests[-1]["messages"] == [{"role": "user", "content": "Is it?"}]
    with pytest.raises(EndpointError):
        one.complete([{"role": "user", "content": "Is it?"}])


def test_a_model_behind_an_endpoint_judges_steps(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    endpoint.script += [endpoint.says("BAD: it guesses"), endpoint.says("who knows")]
    env = ToolEnv("crm")
    env.reset(seed=1)
    judge, guide = make_judge("llm:m"), Guide.start(env)
    opinions = [judge.judge(env, guide, {"answer": "It is on its way."}) for _ in range(2)]
    assert [opinion.verdict for opinion in opinions] == [Verdict.BAD, Verdict.ABSTAIN]
    assert endpoint.requests[0]["model"] == "m"
    assert "It is on its way." in str(endpoint.requests[0]["messages"])
