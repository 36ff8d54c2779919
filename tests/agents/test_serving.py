"""The parts of the service: reading conversations, telling turns, keys, limits, and what is kept between turns."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from openai.types.chat import ChatCompletion

from toolenv.agents.cascade import CascadeFile
from toolenv.agents.chat_client import ChatClient, EndpointSettings
from toolenv.agents.chat_policy import _of_native
from toolenv.agents.conversations import open_messages
from toolenv.agents.doubt import FEATURES, Doubt
from toolenv.agents.exports import to_wire
from toolenv.agents.policies import conversation_policy
from toolenv.agents.policy import Conversation, Decision
from toolenv.agents.serving.batcher import Batcher
from toolenv.agents.serving.conversation import Conversations, ServedConversation
from toolenv.agents.serving.gate import Allowance
from toolenv.agents.serving.refusal import Refused
from toolenv.agents.serving.settings import KEY_VARIABLE, Keys, ServeSettings, ServiceError, is_loopback
from toolenv.agents.serving.specialist import load_specialist
from toolenv.agents.serving.wire import ChatRequest, Turn, chunks, completion, read_request
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.actions import Answer, Malformed, parse_action
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.tools.toolbox import Toolbox

texts = st.text(max_size=20) | st.sampled_from(["<|call|>x {", '{"answer": "x"}', "data: x\n\n", ""])
values = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | texts, lambda some: st.lists(some, max_size=2))
actions = (
    st.fixed_dictionaries({"answer": texts, "reasoning": texts})
    | st.fixed_dictionaries(
        {"name": texts, "arguments": st.dictionaries(texts, values, max_size=2), "reasoning": texts}
    )
    | texts
)


# -- conversations -----------------------------------------------------------------------------------------


def test_a_conversation_that_was_sent_is_read_as_it_was(faulty: list[Trajectory]) -> None:
    """At every state of episodes with faults: calls that fail, text that can not be read, answers."""
    states = 0
    for trajectory in faulty[:150]:
        messages = trajectory.messages
        for end in range(2, len(messages)):
            if messages[end - 1]["role"] != "assistant":
                assert open_messages([to_wire(message) for message in messages[:end]]) == messages[:end]
                states += 1
    assert states > 300


def request(messages: Sequence[object], **named: object):
    return read_request(orjson.dumps({"model": "m", "messages": messages, **named}))


def test_the_tools_of_the_scenario_are_its_own(scenario: Scenario) -> None:
    own, conversations = scenario.toolbox, Conversations([scenario.toolbox], 1 << 20)
    asked = [{"role": "user", "content": "x"}]
    tools = orjson.loads(orjson.dumps(own.to_openai()))
    assert conversations.opened(request(asked)).toolbox is own
    assert conversations.opened(request(asked, tools=tools)).toolbox is own
    fewer = conversations.opened(request(asked, tools=tools[:2])).toolbox
    assert [fewer[name] is own[name] for name in fewer.names] == [True, True]
    assert fewer.shown_identifiers == own.shown_identifiers
    assert conversations.opened(request(asked, tools=tools[:2])).toolbox is fewer
    tools[0]["function"]["description"] += " Now otherwise."
    drifted = conversations.opened(request(asked, tools=tools)).toolbox
    assert [drifted[name] is own[name] for name in drifted.names].count(False) == 1


def test_of_several_scenarios_the_one_that_fits_best_is_taken(scenario: Scenario) -> None:
    other = load_scenario("database").toolbox
    conversations = Conversations([scenario.toolbox, other], 1 << 20)
    asked = [{"role": "user", "content": "x"}]
    for own in (scenario.toolbox, other):
        tools = orjson.loads(orjson.dumps(own.to_openai()))
        assert conversations.opened(request(asked, tools=tools)).toolbox is own
    assert conversations.opened(request(asked)).toolbox is scenario.toolbox


def test_what_was_computed_is_handed_out_once_and_to_who_goes_on(scenario: Scenario) -> None:
    conversations = Conversations([scenario.toolbox], 1 << 20)
    asked = [{"role": "user", "content": "x"}]
    first = conversations.opened(request(asked))
    first.memory["mine"] = 1
    call = {"name": "get_order_status", "arguments": {"order_id": "ORD-00001"}, "reasoning": "A thought."}
    turn = Turn.of(Decision(call), None)
    conversations.keep(first, turn)
    said = {**turn.message(), "reasoning_content": "Another, or none: it does not count."}
    reply = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "{}"}
    other = {**said, "tool_calls": [{**said["tool_calls"][0], "function": {"name": "f", "arguments": "{}"}}]}
    assert conversations.opened(request([*asked, other, reply])).memory == {}
    assert conversations.opened(request([*asked, said, reply])).memory == {"mine": 1}
    assert conversations.opened(request([*asked, said, reply])).memory == {}
    assert (len(conversations), conversations.kept_bytes) == (0, 0)


class Kept:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40_000), st.booleans()), max_size=30))
def test_what_is_kept_stays_within_its_bound(turns: list[tuple[int, int, bool]]) -> None:
    conversations = Conversations([], 100_000)
    sizes: dict[int, int] = {}
    for number, size, answered in turns:
        opened = conversations.opened(request([{"role": "user", "content": str(number)}]))
        opened.memory["past"] = Kept(size)
        action = {"answer": "x"} if answered else {"name": "f", "arguments": {}}
        conversations.keep(opened, Turn.of(Decision(action), None))
        sizes[number] = size
        assert 0 <= conversations.kept_bytes <= 100_000
    assert (len(conversations) == 0) == (conversations.kept_bytes == 0)


# -- turns -------------------------------------------------------------------------------------------------


def client_reads(body: bytes):
    """What our own client makes of a completion."""
    client = ChatClient(EndpointSettings.checked({"model": "m", "base_url": "http://127.0.0.1:9/v1"}, "test"))
    return client._read(ChatCompletion.model_validate_json(body), 0.0)


@settings(deadline=None)
@given(actions)
def test_a_turn_that_is_told_is_read_as_what_it_was(raw: object) -> None:
    turn = Turn.of(Decision(raw), None)
    action = parse_action(_of_native(client_reads(completion(turn, "m"))).action)
    if isinstance(turn.action, Malformed):
        assert isinstance(action, Malformed)
        assert action.raw == turn.action.raw or not turn.action.raw
    elif isinstance(turn.action, Answer):
        # The client refuses an empty answer, and takes spaces away around one.
        assert action == Answer(turn.action.text.strip(), turn.action.reasoning) or not turn.action.text.strip()
    elif turn.action.name:
        assert action == turn.action


@settings(deadline=None)
@given(actions)
def test_a_stream_adds_up_to_the_turn(raw: object) -> None:
    turn = Turn.of(Decision(raw), None)
    message, whole = {}, orjson.loads(completion(turn, "m"))["choices"][0]
    *events, done = b"".join(chunks(turn, "m", with_usage=True)).split(b"\n\n")[:-1]
    assert done == b"data: [DONE]"
    for event in events:
        for choice in orjson.loads(event.removeprefix(b"data: "))["choices"]:
            for name, value in choice["delta"].items():
                if name != "tool_calls":
                    message[name] = value
                elif "tool_calls" not in message:
                    message[name] = [{key: part for key, part in call.items() if key != "index"} for call in value]
                else:
                    message[name][0]["function"]["arguments"] += value[0]["function"]["arguments"]
            finished = choice["finish_reason"]
    for call in [*message.get("tool_calls", ()), *whole["message"].get("tool_calls", ())]:
        del call["id"]
    assert (message, finished) == (whole["message"], whole["finish_reason"])


def refused_or(work):
    try:
        return work()
    except Refused as refused:
        return refused


@settings(deadline=None)
@given(st.binary(max_size=60) | st.recursive(values, lambda some: st.dictionaries(texts, some)).map(orjson.dumps))
def test_no_body_is_worse_than_refused(body: bytes) -> None:
    outcome = refused_or(lambda: read_request(body))
    assert isinstance(outcome, ChatRequest) or (outcome.status == 400 and outcome.message)


messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["system", "user", "assistant", "tool"]) | values,
            "content": values,
            "tool_call_id": values,
            "tool_calls": st.lists(
                st.fixed_dictionaries(
                    {"id": texts, "function": st.fixed_dictionaries({"name": values, "arguments": values})}
                )
                | values,
                max_size=2,
            )
            | values,
        },
    )
    | values,
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(messages, st.lists(values | st.dictionaries(texts, values), max_size=2))
def test_no_conversation_is_worse_than_refused(said: list[object], tools: list[object]) -> None:
    conversations = Conversations([], 1 << 20)
    outcome = refused_or(lambda: conversations.opened(request(said, tools=tools)))
    if isinstance(outcome, Refused):
        assert outcome.status == 400
    else:
        assert [message["role"] for message in outcome.messages[:2]] == ["system", "user"]
        assert outcome.messages[-1]["role"] != "assistant"


# -- keys and limits ---------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 20), max_size=60), st.integers(1, 30))
def test_no_minute_has_more_requests_than_it_may(pauses: list[float], per_minute: int) -> None:
    now, taken = 0.0, []
    allowance = Allowance(per_minute, clock=lambda: now)
    for pause in pauses:
        now += pause
        before = [time for time in taken if now - time < 60]
        if wait := allowance.take():
            assert len(before) == per_minute
            assert wait == 60 - (now - before[0])
        else:
            assert len(before) < per_minute
            taken.append(now)


def test_who_waits_as_long_as_told_is_let_in() -> None:
    now = 0.0
    allowance = Allowance(2, clock=lambda: now)
    assert allowance.take() == 0
    now += 20
    assert [allowance.take(), allowance.take()] == [0, 40]
    now += 40
    assert [allowance.take(), allowance.take()] == [0, 20]


def test_keys_are_told_by_line_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    file = tmp_path / "keys"
    secret = "a-secret-that-stays-one"
    for text, problem in {
        "": "there is no key in it",
        "mia": ":1: a name, a space and a key",
        f"# x\nmia {secret} more": ":2: a name, a space and a key",
        f"mia {secret}\nmia {secret}2": ":2: a second key of mia",
        f"mia {secret}\nben {secret}": "the key of ben: that of mia, too",
        "mia short": "the key of mia: at least 16",
    }.items():
        file.write_text(text)
        with pytest.raises(ServiceError) as refused:
            Keys.read(file)
        assert problem in str(refused.value)
        assert secret not in str(refused.value)
    file.write_text(f"mia {secret}\n")
    keys = Keys.read(file)
    assert (keys.owner(secret), keys.owner(secret + "x"), bool(keys)) == ("mia", None, True)
    assert secret not in repr(vars(keys))
    with pytest.raises(ServiceError, match="No such file"):
        Keys.read(tmp_path / "nothing")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_other_machines_need_a_key(host: str) -> None:
    with pytest.raises(ServiceError, match="other machines could ask"):
        ServeSettings(host=host)
    assert ServeSettings(host=host, keys=Keys({"mia": "a-key-of-this-test"})).host == host


def test_this_machine_has_names() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"]))


@pytest.mark.parametrize("name", ["batch", "threads", "most_requests", "most_body_bytes", "per_minute", "deadline_s"])
def test_a_limit_is_above_nothing(name: str) -> None:
    with pytest.raises(ServiceError, match=name):
        ServeSettings(**{name: 0})


# -- the threads -------------------------------------------------------------------------------------------


class Gathering:
    """Waits at its first batch until it is told to go on."""

    name = "gathering"

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()

    def act(self, episodes: Sequence[Conversation]) -> list[Decision]:
        self.sizes.append(len(episodes))
        self.go.wait(10)
        return [Decision({"answer": episode.messages[-1]["content"]}) for episode in episodes]


def conversation(text: str) -> ServedConversation:
    return ServedConversation([{"role": "user", "content": text}], Toolbox(()))


def test_what_waits_is_decided_together_and_in_order() -> None:
    policy = Gathering()
    batcher = Batcher(policy, batch=4)
    decided = [batcher.submit(conversation("first"))]
    while not policy.sizes:
        threading.Event().wait(0.001)
    decided += [batcher.submit(conversation(str(number))) for number in range(6)]
    assert decided[2].cancel(), "who has gone is left out"
    policy.go.set()
    answers = [future.result(10).action["answer"] for future in decided if not future.cancelled()]
    assert answers == ["first", "0", "2", "3", "4", "5"]
    assert policy.sizes == [1, 3, 2]
    batcher.close(10)
    assert not batcher.healthy(10)


def test_a_batch_that_takes_too_long_is_no_good_health() -> None:
    policy = Gathering()
    batcher = Batcher(policy, batch=4)
    assert batcher.healthy(0)
    decided = batcher.submit(conversation("x"))
    while not policy.sizes:
        threading.Event().wait(0.001)
    assert batcher.healthy(60)
    assert not batcher.healthy(0)
    policy.go.set()
    decided.result(10)
    batcher.close(10)


# -- who can be served -------------------------------------------------------------------------------------


def test_what_needs_an_environment_is_not_served(tmp_path: Path) -> None:
    settings_file = tmp_path / "llm.yaml"
    settings_file.write_text("model: m\nbase_url: http://127.0.0.1:9/v1\n")
    endpoint = f"llm:{settings_file}"
    doubt = Doubt(intercept=0.0, weights=dict.fromkeys(FEATURES, 0.0))
    for name, frontier in (("good", endpoint), ("bad", "teacher")):
        file = CascadeFile(
            scenario="crm",
            scenario_version="x",
            small=endpoint,
            frontier=frontier,
            threshold=0.5,
            target=1,
            doubt=doubt,
        )
        file.write(tmp_path / f"{name}.json")
    assert conversation_policy(endpoint).name == "m"
    served = load_specialist(f"cascade:{tmp_path / 'good.json'}", name="both")
    assert (served.name, served.threads) == ("both", 8)
    (toolbox,) = served.toolboxes
    assert "get_order_status" in toolbox
    for spec in ("oracle", "teacher", "random", "faulty:0.2", f"mentored:{endpoint}", f"consistent:3:{endpoint}"):
        with pytest.raises(ValueError, match="acts by the environment"):
            conversation_policy(spec)
    with pytest.raises(ValueError, match=r"teacher acts by the environment"):
        conversation_policy(f"cascade:{tmp_path / 'bad.json'}")
    with pytest.raises(ValueError, match="there is no policy"):
        conversation_policy("nothing")
