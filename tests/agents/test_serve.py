"""`serve` as clients meet it: a server that is really started, asked by the official `openai` client."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

import openai

SYSTEM = {"role": "system", "content": "Do as you are told."}
STATUS = {
    "type": "function",
    "function": {"name": "status", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}},
}


# -- turns -------------------------------------------------------------------------------------------------


def test_an_answer(parrot: Any) -> None:
    completion = parrot.ask("say It is shipped.")
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "It is shipped.")
    assert choice.finish_reason == "stop"
    assert (completion.model, completion.object) == ("parrot", "chat.completion")
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (10, 3)
    assert completion.usage.total_tokens == 13


def test_a_call_and_the_turn_after_it(parrot: Any) -> None:
    first = parrot.ask('call status {"id": "ORD-1"}', tools=[STATUS]).choices[0]
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
    with parrot.client() as client:
        second = client.chat.completions.create(model="parrot", messages=conversation, tools=[STATUS])
        again = client.chat.completions.create(model="parrot", messages=conversation, tools=[STATUS])
    assert second.choices[0].message.content == "done"
    # What was computed is handed out once; who asks again has it computed anew.
    assert second.usage.prompt_tokens_details.cached_tokens == 1
    assert again.usage.prompt_tokens_details.cached_tokens == 0


def test_what_cannot_be_read_is_no_answer(parrot: Any) -> None:
    (choice,) = parrot.ask("write <|call|>status {").choices
    assert choice.finish_reason == "length"
    assert choice.message.content == "<|call|>status {"


def test_a_turn_beyond_max_tokens_is_not_told(parrot: Any) -> None:
    (choice,) = parrot.ask("say one two three", max_tokens=2).choices
    assert (choice.finish_reason, choice.message.content) == ("length", "")
    assert parrot.ask("say one two three", max_tokens=3).choices[0].finish_reason == "stop"


@pytest.mark.parametrize("text", ["say It is shipped.", 'call status {"id": "ORD-1"}'])
def test_a_stream_tells_the_same(parrot: Any, text: str) -> None:
    whole = parrot.ask(text, tools=[STATUS])
    (expected,) = whole.choices
    content, reasoning, name, arguments, finished = "", "", "", "", None
    parts = parrot.ask(text, tools=[STATUS], stream=True, stream_options={"include_usage": True})
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


def test_models(parrot: Any) -> None:
    with parrot.client() as client:
        assert [model.id for model in client.models.list()] == ["parrot"]
        assert client.models.retrieve("parrot").owned_by == "toolenv"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("cuckoo")


# -- what is refused ---------------------------------------------------------------------------------------


def test_an_unknown_model(parrot: Any) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        parrot.ask("say hello", model="cuckoo")
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
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": [], "content": "y"}]},
            "messages.1.tool_call_id",
        ),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [STATUS, STATUS]}, "tools.1"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": 3}}}]}, "tools.0.parameters"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(parrot: Any, named: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        parrot.ask("say hello", **named)
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
def test_a_malformed_body(parrot: Any, body: bytes) -> None:
    status, _, told = parrot.post(body)
    assert status == 400
    assert told["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_long(parrot: Any) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        parrot.ask("say " + "x" * 20_000)
    assert refused.value.status_code == 413
    status, _, told = parrot.post(b"{}", Content_Length="100000000")
    assert (status, told["error"]["code"]) == (413, "too_large")


def test_a_form_that_a_page_could_send(parrot: Any) -> None:
    assert parrot.post(b"{}", Content_Type="text/plain")[0] == 415
    assert parrot.post(b"{}", Host="rebound.example")[0] == 403


def test_an_unknown_route(parrot: Any) -> None:
    assert parrot.get("/v1/embeddings")[0] == 404
    assert parrot.get("/docs")[0] == 404
    assert parrot.send("DELETE", "/v1/chat/completions")[0] == 405


def test_one_that_fails_does_not_take_others_with_it(parrot: Any) -> None:
    for failing, status in (("fail", 500), ("endpoint", 502)):
        outcomes = parrot.together(["wait 0.5", *[failing, "say kept", "call status {}"] * 4])
        assert outcomes[1:] == [status, "kept", "status"] * 4
    outcomes = parrot.together(["wait 0.5", *["fail", "endpoint", "say kept"] * 3])
    assert outcomes[1:] == [500, 502, "kept"] * 3
    log = parrot.log.read_text()
    assert "secret-of-the-parrot" not in log, "what an exception says may repeat what a client said"
    assert parrot.told("failed")["error"] == "RuntimeError"


def test_a_schema_that_refers_to_nothing(parrot: Any) -> None:
    broken = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"$ref": "#/no"}}}}}
    before = parrot.metric('toolenv_steps_total{kind="invalid_call"}')
    assert parrot.ask('call f {"a": 1}', tools=[broken]).choices[0].message.tool_calls
    assert parrot.metric('toolenv_steps_total{kind="invalid_call"}') == before + 1
