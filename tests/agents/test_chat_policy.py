"""A model behind an endpoint acts: what a reply becomes, what it is sent, what its records hold."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openai")

from toolenv.agents.chat_client import EndpointError, EndpointSettings, RawCall, Reply
from toolenv.agents.chat_policy import FIRST_THOUGHT, ChatPolicy, _of_hermes, _of_native
from toolenv.agents.dialects import SpanKind
from toolenv.agents.exports import export, import_messages
from toolenv.agents.policies import endpoints_of, is_model, make_policy, settings_of
from toolenv.agents.policy import Decision
from toolenv.agents.replay import Replayer
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.agents.usage import Usage
from toolenv.envs.actions import Answer, Call, Malformed, parse_action

LOOK_UP = ("get_order_status", '{"order_id": "ORD-00000"}')
texts = st.text(max_size=30) | st.sampled_from(['{"answer": "x"}', "<tool_call>", "</tool_call>", "<think>", "{"])
arguments = texts | st.dictionaries(texts, st.integers() | texts, max_size=2).map(json.dumps)
replies = st.builds(
    Reply,
    st.lists(texts, max_size=4).map("".join),
    texts,
    st.lists(st.builds(RawCall, texts, arguments), max_size=2).map(tuple),
    st.sampled_from(["stop", "length", "tool_calls"]),
    st.just(Usage(requests=1)),
)


@pytest.fixture
def policy(endpoint):
    made = []

    def make(**settings):
        settings = {"model": "m", "base_url": endpoint.url, "max_retries": 0} | settings
        made.append(ChatPolicy(EndpointSettings.checked(settings, "test")))
        return made[-1]

    yield make
    for one in made:
        one.close()


def reply(content: str = "", calls: tuple[RawCall, ...] = (), finish: str = "stop", reasoning: str = "") -> Reply:
    return Reply(content, reasoning, calls, finish, Usage(10, 5, requests=1))


def read(decision: Decision) -> Call | Answer | Malformed:
    return parse_action(decision.action)


# -- native ------------------------------------------------------------------------------------------------


def test_a_call_with_the_text_beside_it_as_its_reasoning():
    decision = _of_native(reply("Look it up.", (RawCall("f", '{"a": [1]}'),), reasoning="It asks."))
    assert read(decision) == Call("f", {"a": [1]}, "It asks.\n\nLook it up.")
    assert decision.labels == {}
    assert decision.usage == Usage(10, 5, requests=1)


def test_a_call_without_arguments():
    assert read(_of_native(reply(calls=(RawCall("f", ""),)))) == Call("f", {})


def test_text_is_the_answer():
    assert read(_of_native(reply(" It is paid. ", reasoning="I know."))) == Answer("It is paid.", "I know.")


def test_of_several_calls_the_first_is_taken_and_told():
    decision = _of_native(reply(calls=(RawCall("f", "{}"), RawCall("g", "{}"), RawCall("h", "{}"))))
    assert read(decision) == Call("f", {})
    assert decision.labels == {"calls": 3}


@pytest.mark.parametrize("arguments", ['{"order_id": "ORD-', "[1]", '"x"', "order 5", "NaN", '{"a": NaN}'])
def test_arguments_that_are_no_object_can_not_be_read_and_are_kept(arguments):
    action = read(_of_native(reply(calls=(RawCall("f", arguments),), finish="tool_calls")))
    assert isinstance(action, Malformed)
    assert json.loads(action.raw) == {"name": "f", "arguments": arguments}


@pytest.mark.parametrize(
    "said", [reply("It is", finish="length"), reply(""), reply("", reasoning="Hm", finish="length")]
)
def test_what_was_cut_or_is_empty_can_not_be_read(said):
    assert isinstance(read(_of_native(said)), Malformed)
    assert isinstance(read(_of_hermes(said)), Malformed)


def test_a_call_that_was_whole_when_the_reply_was_cut_counts():
    assert read(_of_native(reply("x", (RawCall("f", "{}"),), finish="length"))) == Call("f", {}, "x")


# -- in the text -------------------------------------------------------------------------------------------


def test_a_call_in_the_text_with_what_stands_before_it_as_reasoning():
    text = 'I look.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    decision = _of_hermes(reply(text))
    assert read(decision) == Call("f", {"a": 1}, "I look.")
    assert decision.text == text
    assert [(span.kind, text[span.start : span.end]) for span in decision.spans] == [
        (SpanKind.REASON, "I look.\n"),
        (SpanKind.ACT, text.removeprefix("I look.\n")),
    ]


def test_a_thought_and_an_answer_in_the_text():
    decision = _of_hermes(reply("<think>\nEasy.\n</think>\n\nIt is paid."))
    assert read(decision) == Answer("It is paid.", "Easy.")
    assert decision.spans[0].kind is SpanKind.REASON


def test_of_several_calls_in_the_text_the_first_is_taken():
    call = '<tool_call>{{"name": "{}", "arguments": {{}}}}</tool_call>'
    decision = _of_hermes(reply(call.format("f") + call.format("g")))
    assert read(decision) == Call("f", {})
    assert decision.labels == {"calls": 2}


@pytest.mark.parametrize("inside", ["{", '{"name": "f"}', "[]", '{"name": "f", "arguments": "x"}', '{"answer": "x"}'])
def test_a_call_in_the_text_that_is_none(inside):
    decision = _of_hermes(reply(f"<tool_call>{inside}</tool_call>"))
    assert isinstance(read(decision), Malformed)
    assert inside in str(decision.text)


@settings(deadline=None)
@given(replies)
def test_any_reply_is_a_decision_that_can_be_recorded(said):
    for decision in (_of_native(said), _of_hermes(said)):
        action = read(decision)
        assert read(Decision(action.to_action())) == action or isinstance(action, Malformed)
        if decision.text is not None:
            parts = [decision.text[span.start : span.end] for span in decision.spans]
            assert "".join(parts) == decision.text
            orjson.dumps(decision.text)


# -- whole episodes ----------------------------------------------------------------------------------------


def play(scenario, policy, n=1, **options) -> list[Trajectory]:
    return list(rollout(scenario, policy, [Attempt(seed) for seed in range(n)], **options))


def test_an_episode_in_native_calls(endpoint, policy, scenario):
    endpoint.script.extend(
        [
            endpoint.says("I look.", calls=[LOOK_UP], finish="tool_calls", usage=(300, 20)),
            endpoint.says(calls=[("get_order_status", "{")], finish="tool_calls"),
            endpoint.says("Unknown.", usage=(500, 5)),
        ]
    )
    (trajectory,) = play(scenario, policy(prices={"input": 1, "output": 1}))
    assert [step.error for step in trajectory.steps] == ["not_found", "malformed_call", None]
    assert trajectory.answer == "Unknown."
    assert [usage.tokens for usage in trajectory.usage] == [320, 110, 505]
    assert sum(usage.usd for usage in trajectory.usage) == pytest.approx(935 / 1e6)
    sent = endpoint.requests[-1]
    assert sent["tools"] == scenario.toolbox.to_openai()
    call = {"name": "get_order_status", "arguments": '{"order_id":"ORD-00000"}'}
    assert sent["messages"] == [
        {"role": "system", "content": trajectory.system},
        {"role": "user", "content": trajectory.instruction},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": trajectory.steps[0].observation},
        {"role": "assistant", "content": trajectory.steps[1].action},
        {"role": "user", "content": trajectory.steps[1].observation},
    ]


def test_it_replays_and_its_cost_is_no_part_of_that(endpoint, policy, scenario):
    endpoint.script.extend([endpoint.says(calls=[LOOK_UP]), endpoint.says(calls=[("f", "[")]), endpoint.says("Done.")])
    (trajectory,) = play(scenario, policy())
    again = Trajectory.from_json(trajectory.to_json())
    assert again == trajectory
    report = Replayer(scenario).replay(again)
    assert report.same, report
    assert trajectory.without_timing().usage is None
    line = orjson.loads(trajectory.to_json())
    del line["usage"]
    assert Trajectory.from_json(orjson.dumps(line)).usage is None, "an older record can be read"


@pytest.mark.parametrize(
    ("setting", "there"), [("content", "content"), ("reasoning_content", "reasoning_content"), ("drop", None)]
)
def test_where_earlier_thoughts_are_sent_back(endpoint, policy, scenario, setting, there):
    endpoint.script.append(endpoint.says(calls=[LOOK_UP], reasoning_content="I look."))
    play(scenario, policy(reasoning=setting))
    message = endpoint.requests[-1]["messages"][2]
    assert {name for name, value in message.items() if value == "I look."} == ({there} if there else set())


def test_an_episode_with_calls_in_the_text(endpoint, policy, scenario):
    called = '<tool_call>\n{"name":"get_order_status","arguments":{"order_id":"ORD-00000"}}\n</tool_call>'
    endpoint.script.append(endpoint.says(f"I look.\n{called}"))
    (trajectory,) = play(scenario, policy(tool_calls="hermes"))
    assert [step.error for step in trajectory.steps] == ["not_found", None]
    assert trajectory.steps[0].text == f"I look.\n{called}"
    first, last = endpoint.requests
    assert "tools" not in first
    assert '"name":"get_order_status"' in first["messages"][0]["content"]
    assert last["messages"][2] == {"role": "assistant", "content": f"<think>\nI look.\n</think>\n\n{called}"}
    assert last["messages"][3]["content"].startswith("<tool_response>")


def test_a_batch_is_asked_at_once(endpoint, policy, scenario):
    play(scenario, policy(concurrency=4), n=8, batch=8)
    assert len(endpoint.requests) == 8
    assert endpoint.most_at_once <= 4


@pytest.mark.parametrize("dialect", ["native", "hermes"])
def test_a_first_thought_begins_the_first_turn_and_no_other(endpoint, policy, scenario, dialect):
    call = [LOOK_UP] if dialect == "native" else []
    text = '<tool_call>{"name": "get_order_status", "arguments": {"order_id": "ORD-00000"}}</tool_call>'
    endpoint.script.append(endpoint.says("Find the order.\n\nThen tell.", usage=(50, 8)))
    endpoint.script.append(endpoint.says("So I look." + ("" if call else text), calls=call))
    (trajectory,) = play(scenario, policy(tool_calls=dialect, first_thought=True))
    thought, first, second = endpoint.requests
    assert thought["messages"] == [
        {"role": "system", "content": FIRST_THOUGHT},
        {"role": "user", "content": trajectory.instruction},
    ]
    assert first["messages"][-1] == {"role": "assistant", "content": "Find the order."}
    assert second["messages"][-1]["role"] != "assistant"
    assert trajectory.steps[0].parsed.reasoning == "Find the order.\n\nSo I look."
    assert trajectory.usage[0].tokens == 58 + 110
    step = trajectory.steps[0]
    assert "".join(step.text[span.start : span.end] for span in step.spans) == step.text
    assert step.text[step.spans[0].start : step.spans[0].end].startswith("Find the order.")


def test_an_endpoint_that_stays_down_ends_the_run_and_gives_up_no_episode(endpoint, policy, scenario):
    """The others' replies are carried out, and all that was under way can go on."""
    attempts = [Attempt(seed) for seed in range(3)]
    endpoint.script.extend([endpoint.says(calls=[LOOK_UP])] * 3)
    endpoint.script.extend([endpoint.says("Done."), endpoint.sends(b"{}", 400), endpoint.says(calls=[LOOK_UP])])
    run = rollout(scenario, policy(concurrency=1), attempts)
    ended = [next(run)]
    with pytest.raises(EndpointError, match="answered 400") as raised:
        ended += run
    left = raised.value.unfinished
    assert len(ended) == 1
    assert sorted(len(record.steps) for record in left) == [1, 2]
    before = len(endpoint.requests)
    endpoint.script.clear()
    by_seed = {record.seed: record for record in left}
    rest = [Attempt(seed, begun=by_seed[seed]) for seed in by_seed]
    for trajectory in rollout(scenario, policy(), rest):
        begun = by_seed[trajectory.seed]
        assert trajectory.steps[:-1] == begun.steps
        assert trajectory.usage[:-1] == begun.usage
        assert trajectory.answer == "Done."
        assert Replayer(scenario).replay(trajectory).same
    assert len(endpoint.requests) == before + 2, "what was paid for is not asked again"


# -- by name -----------------------------------------------------------------------------------------------


def test_specs(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    policy = make_policy("llm:gpt-5")
    assert isinstance(policy, ChatPolicy)
    assert (policy.name, policy.settings.base_url) == ("gpt-5", endpoint.url)
    file = tmp_path / "teacher.yaml"
    file.write_text("model: m\nbase_url: http://localhost:1/v1\ntemperature: 0.7\nconcurrency: 3\n")
    wrapped = f"mentored:2:consistent:3:llm:{file}"
    assert make_policy(wrapped).name == "m+consistent:3+mentor:2"
    assert endpoints_of(wrapped) == (EndpointSettings.read(file),)
    settings = settings_of(wrapped)
    assert (settings["temperature"], settings["base_url"]) == (0.7, "http://localhost:1/v1")
    assert not {"concurrency", "api_key_env", "budget_usd", "prices", "timeout_s"} & settings.keys()
    assert not is_model(wrapped)
    assert settings_of("oracle") is None


# -- the wire ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            texts,
            st.dictionaries(texts, st.none() | st.booleans() | st.integers(-(2**63), 2**63) | texts, max_size=3),
            texts,
        ),
        max_size=3,
    )
)
def test_messages_survive_the_wire(calls):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    for number, (name, given_, reasoning) in enumerate(calls, 1):
        function = {"name": name, "arguments": given_}
        messages += [
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": reasoning,
                "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
            },
            {"role": "tool", "name": name, "tool_call_id": f"call_{number}", "content": "{}"},
        ]

    class Conversation:
        def __init__(self) -> None:
            self.messages = messages

    (row,) = export([Conversation()], "openai", [])
    wired = orjson.loads(orjson.dumps(row))
    assert all(
        isinstance(call["function"]["arguments"], str) for m in wired["messages"] for call in m.get("tool_calls", ())
    )
    assert import_messages(wired, "openai") == messages
