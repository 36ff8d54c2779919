"""Spans of OpenTelemetry's conventions: a real export, every way to write messages, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from toolenv.agents.formats import LogFormat
from toolenv.agents.imports import ImportReport, import_logs
from toolenv.agents.records import read_trajectories
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.errors import RecordError

# Written by opentelemetry-instrumentation-openai-v2 2.4b0 around openai 3.57, with content (SPAN_ONLY).
REAL = Path(__file__).parents[1] / "data" / "otel-openai-v2.jsonl"
ASKED = {"role": "user", "parts": [{"type": "text", "content": "Where is A-7?"}]}
CALL = {"type": "tool_call", "id": "x", "name": "get_order", "arguments": {"order_id": "A-7"}}
CALLED = {"role": "assistant", "parts": [{"type": "reasoning", "content": "I look."}, CALL], "finish_reason": "stop"}
RESULT = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "x", "response": {"status": "lost"}}]}
SAID = {"role": "assistant", "parts": [{"type": "text", "content": "Lost."}], "finish_reason": "stop"}
SYSTEM = [{"type": "text", "content": "Be kind."}]


def any_value(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    return {"kvlistValue": {"values": [{"key": key, "value": any_value(item)} for key, item in value.items()]}}


def attributes(named: dict[str, Any], before: str = "gen_ai.") -> list[dict[str, Any]]:
    return [{"key": f"{before}{key}", "value": any_value(value)} for key, value in named.items()]


def span(at: int, events: Any = (), trace: str = "t", failed: bool = False, **named: Any) -> dict[str, Any]:
    named = {key.replace("__", "."): value for key, value in named.items()}
    told = [
        {"name": f"gen_ai.{name}", "timeUnixNano": "1", "attributes": attributes(about, "")} for name, about in events
    ]
    times = {"startTimeUnixNano": str(at * 10**9), "endTimeUnixNano": str(at * 10**9 + 500_000_000)}
    status = {"code": 2, "message": "it broke"} if failed else {}
    return {"traceId": trace, **times, "attributes": attributes(named), "events": told, "status": status}


def chat(at: int, asked: list[Any], said: list[Any], **named: Any) -> dict[str, Any]:
    return span(at, operation__name="chat", input__messages=asked, output__messages=said, request__model="m", **named)


def read(tmp_path: Path, *spans: dict[str, Any]) -> tuple[list[Trajectory], ImportReport]:
    lines = [{"resourceSpans": [{"scopeSpans": [{"spans": [one]}]}]} for one in spans]
    log, out = tmp_path / "spans.jsonl", tmp_path / "out"
    tmp_path.mkdir(exist_ok=True)
    log.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    report = import_logs(log, LogFormat.OTEL, out)
    return list(read_trajectories(out)), report


def test_a_real_export_is_read(tmp_path):
    report = import_logs(REAL, LogFormat.OTEL, tmp_path / "out")
    (found,) = read_trajectories(tmp_path / "out")
    assert report.skipped == []
    assert (found.system, found.instruction, found.answer) == ("Be kind.", "Where is A-7?", "It is lost.")
    assert found.steps[0].action["arguments"] == {"order_id": "A-7"}
    assert found.steps[0].observation == '{"status":"lost"}'
    assert [usage.tokens for usage in found.usage or () if usage] == [110, 110]
    assert found.policy == "m"


@pytest.mark.parametrize("as_text", [False, True])
def test_spans_are_read_as_an_episode(tmp_path, as_text):
    """Out of order, structured or as text, with the tool's own span and an evaluation."""

    def written(value: Any) -> Any:
        return orjson.dumps(value).decode() if as_text else value

    tools = [{"type": "function", "name": "get_order", "parameters": {"type": "object", "properties": {}}}]
    about = {"agent__name": "status", "usage__input_tokens": 100, "usage__output_tokens": 7}
    evaluated = [("evaluation.result", {"gen_ai.evaluation.score.label": "pass"})]
    first = chat(1, written([ASKED]), written([CALLED]), system_instructions=written(SYSTEM), **about)
    first["attributes"] += attributes({"tool.definitions": written(tools)})
    run = span(2, operation__name="execute_tool", tool__name="get_order", tool__call__arguments='{"order_id":"A-7"}')
    again = written([ASKED, CALLED, RESULT])
    second = chat(3, again, written([SAID]), system_instructions=written(SYSTEM), events=evaluated, **about)
    (found,), report = read(tmp_path, second, run, first)
    assert report.skipped == []
    assert [step.action for step in found.steps] == [
        {"name": "get_order", "arguments": {"order_id": "A-7"}, "reasoning": "I look."},
        {"answer": "Lost."},
    ]
    assert found.steps[0].observation == '{"status":"lost"}'
    assert (found.system, found.family, found.success, found.graded) == ("Be kind.", "status", True, True)
    assert found.timing is not None
    assert (found.timing.policy_s, found.timing.total_s) == (1.0, 1.5)


def test_calls_without_ids_and_the_result_of_a_tools_own_span(tmp_path):
    unnamed = {**CALL, "id": 7}
    called = {"role": "assistant", "parts": [unnamed]}
    run = span(
        2,
        operation__name="execute_tool",
        tool__name="get_order",
        tool__call__arguments={"order_id": "A-7"},
        tool__call__result={"status": "lost"},
    )
    (found,), _ = read(tmp_path, chat(1, [ASKED], [called]), run)
    assert found.steps[0].observation == '{"status":"lost"}'
    reply = {"role": "tool", "parts": [{"type": "tool_call_response", "response": "late"}]}
    (found,), _ = read(tmp_path / "more", chat(1, [ASKED, called, reply], [SAID]))
    assert [step.observation for step in found.steps] == ["late", ""]


def test_the_older_events_are_read(tmp_path):
    calls = orjson.dumps([{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]).decode()
    events = [
        ("system.message", {"content": "Be kind."}),
        ("user.message", {"content": "Hello"}),
        ("assistant.message", {"tool_calls": calls}),
        ("tool.message", {"id": "x", "content": "found"}),
        ("choice", {"index": 0, "message": '{"content": "Done."}'}),
    ]
    (found,), _ = read(tmp_path, span(1, operation__name="chat", events=events))
    assert (found.system, found.tool_sequence, found.answer) == ("Be kind.", ("f",), "Done.")


def test_conversations_are_kept_apart_by_id_trace_and_messages(tmp_path):
    spans = [
        chat(1, [ASKED], [SAID], trace="a"),
        chat(2, [ASKED], [SAID], trace="b", conversation__id="one"),
        chat(3, [ASKED, SAID, ASKED], [SAID], trace="c", conversation__id="one"),
        chat(4, [ASKED], [SAID], trace="d"),
        chat(5, [ASKED], [SAID], trace="d"),
    ]
    found, _ = read(tmp_path, *spans)
    assert sorted(len(one.steps) for one in found) == [1, 1, 1, 2]


def test_a_failed_request_and_a_failed_tool_are_told(tmp_path):
    run = span(2, operation__name="execute_tool", tool__name="get_order", failed=True)
    spans = [chat(0, [ASKED], [], failed=True), chat(1, [ASKED], [CALLED]), run]
    (found,), report = read(tmp_path, *spans)
    assert found.steps[0].error == "tool_error"
    assert report.notes["a request that failed (it broke)"] == 1


def test_what_can_not_be_read_is_told_by_line_and_field(tmp_path):
    good = chat(1, [ASKED], [SAID], trace="good")
    spans = [
        good,
        span(2, operation__name="chat", trace="silent"),
        chat(3, [{"role": "user"}], [SAID], trace="parts"),
        chat(4, "no JSON", [SAID], trace="text"),
        {"traceId": "broken"},
        span(5, operation__name="execute_tool", trace="unnamed"),
    ]
    found, report = read(tmp_path, *spans)
    assert len(found) == 1
    log = tmp_path / "spans.jsonl"
    rules = [
        f"{log}:5: resourceSpans: not as OTLP's JSON has it",
        f"{log}:2: gen_ai.input.messages: missing",
        f"{log}:3: gen_ai.input.messages.0.parts: not a list",
        f"{log}:4: gen_ai.input.messages: a text that is not JSON",
        f"{log}:6: gen_ai.tool.name: not a text",
    ]
    assert len(report.skipped) == len(rules)
    for problem, rule in zip(report.skipped, rules, strict=True):
        assert problem.startswith(rule)
    log.write_text('{"spans": []}\n')
    with pytest.raises(RecordError, match="resourceSpans: not a list"):
        import_logs(log, LogFormat.OTEL, tmp_path / "other")
