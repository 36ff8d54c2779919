"""The recorder around the real client of `openai` and a server that runs: what is read back is what happened."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.agents.imports import ImportReport, import_logs
from toolenv.agents.recorder import Recorder
from toolenv.agents.records import read_trajectories
from toolenv.agents.trajectory import Trajectory

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_order",
            "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
        },
    }
]
LOOKS = [("get_order", '{"order_id": "A-7"}')]


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path / "logs" / "agent.jsonl")


@pytest.fixture
def openai():
    return pytest.importorskip("openai")


@pytest.fixture
def client(openai, endpoint, recorder):
    with openai.OpenAI(base_url=endpoint.url, max_retries=0) as made:
        yield recorder.wrap(made)


def rows(recorder: Recorder) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in recorder.path.read_bytes().splitlines()]


def read_back(recorder: Recorder) -> tuple[list[Trajectory], ImportReport]:
    out = recorder.path.parent.parent / f"out-{time.monotonic_ns()}"
    report = import_logs(recorder.path, "openai", out)
    return list(read_trajectories(out)), report


def one(recorder: Recorder) -> Trajectory:
    (trajectory,), report = read_back(recorder)
    assert report.skipped == []
    return trajectory


def act(client: Any, get_order: Any, asked: str = "Where is A-7?") -> str:
    """An agent as people write them: it sends the client's own message objects back."""
    messages: list[Any] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": asked}]
    while True:
        message = client.chat.completions.create(model="m", messages=messages, tools=TOOLS).choices[0].message
        if not message.tool_calls:
            return message.content
        messages.append(message)
        for call in message.tool_calls:
            result = get_order(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})


# -- what is recorded ----------------------------------------------------------------------------------


def test_an_episode_is_read_back_as_it_was(client, endpoint, recorder):
    endpoint.script.extend([endpoint.says("I look.", calls=LOOKS), endpoint.says("Lost.", usage=(300, 7))])

    @recorder.tool
    def get_order(order_id: str) -> dict[str, str]:
        return {"status": "lost"}

    with recorder.episode(task="status", customer="gold") as episode:
        assert act(client, get_order) == "Lost."
        episode.outcome(success=True, reward=0.5)
    found = one(recorder)
    assert (found.system, found.instruction, found.family) == ("Be kind.", "Where is A-7?", "status")
    assert [step.action for step in found.steps] == [
        {"name": "get_order", "arguments": {"order_id": "A-7"}, "reasoning": "I look."},
        {"answer": "Lost."},
    ]
    assert [step.observation for step in found.steps] == ['{"status": "lost"}', ""]
    assert (found.policy, found.success, found.graded, found.reward) == ("m", True, True, 0.5)
    assert [usage and usage.tokens for usage in found.usage or ()] == [110, 307]
    assert found.timing is not None
    assert 0 < found.timing.policy_s <= found.timing.total_s
    assert rows(recorder)[0]["metadata"] == {"customer": "gold"}
    assert recorder.path.stat().st_mode & 0o077 == 0
    assert recorder.lost == 0


def test_without_an_episode_requests_that_go_on_with_each_other_are_one(client, endpoint, recorder):
    def get_order(order_id: str) -> dict[str, str]:
        return {"status": "lost"}

    for asked in ("Where is A-7?", "Where is A-8?", "Where is A-7?"):
        endpoint.script.extend([endpoint.says(calls=LOOKS), endpoint.says("Lost.")])
        act(client, get_order, asked)
    found, _ = read_back(recorder)
    assert [one.instruction for one in found] == ["Where is A-7?", "Where is A-8?", "Where is A-7?"]
    assert {one.tool_sequence for one in found} == {("get_order",)}
    assert {(one.graded, one.family) for one in found} == {(False, "untyped")}


def test_a_mapping_made_of_the_reply_goes_on_with_it(client, endpoint, recorder):
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    for _ in range(3):
        reply = client.chat.completions.create(model="m", messages=messages).choices[0].message
        messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": "And?"}]
    assert len(one(recorder).steps) == 3


def test_two_requests_from_one_point_are_two_conversations(client, recorder):
    asked = [{"role": "user", "content": "Hello"}]
    first = client.chat.completions.create(model="m", messages=asked)
    client.chat.completions.create(model="m", messages=asked)
    client.chat.completions.create(model="m", messages=[*asked, first.choices[0].message, *asked])
    found, _ = read_back(recorder)
    assert sorted(len(one.steps) for one in found) == [1, 2]


def test_parse_and_copies_of_the_client_are_recorded_too(client, endpoint, recorder):
    asked = [{"role": "user", "content": "Hello"}]
    client.with_options(timeout=5).chat.completions.create(model="m", messages=asked)
    client.chat.completions.parse(model="m", messages=asked)
    raw = client.chat.completions.with_raw_response.create(model="m", messages=iter(asked))
    assert raw.parse().choices[0].message.content == "Done."
    assert raw.headers["content-type"] == "application/json"
    assert [one.answer for one in read_back(recorder)[0]] == ["Done."] * 3
    assert recorder.wrap(client) is client
    client.chat.completions.create(model="m", messages=asked)
    assert len(rows(recorder)) == 4


def test_tools_alone_make_an_episode(recorder):
    @recorder.tool(name="look_up")
    def find(name: str, *more: str, limit: int = 3, **rest: int) -> str:
        return "found"

    with recorder.episode(task="search", request="Find Ada.") as episode:
        find("Ada", limit=5, deep=1)
        episode.outcome(success=True, answer="Found.")
    found = one(recorder)
    assert (found.instruction, found.answer, found.success) == ("Find Ada.", "Found.", True)
    assert found.steps[0].action == {"name": "look_up", "arguments": {"name": "Ada", "limit": 5, "deep": 1}}
    assert found.steps[0].observation == "found"


def test_a_tool_within_a_tool_is_not_recorded_and_a_model_within_one_is(client, endpoint, recorder):
    endpoint.script.extend([endpoint.says(calls=LOOKS), endpoint.says("Inner."), endpoint.says("Outer.")])

    @recorder.tool
    def inner() -> None:
        return None

    @recorder.tool
    def get_order(order_id: str) -> str:
        inner()
        asked = [{"role": "user", "content": "Inner?"}]
        return client.chat.completions.create(model="m", messages=asked).choices[0].message.content

    with recorder.episode("nested"):
        assert act(client, get_order) == "Outer."
    found, _ = read_back(recorder)
    assert sorted((one.instruction, one.answer) for one in found) == [("Inner?", "Inner."), ("Where is A-7?", "Outer.")]
    assert len({row["episode"] for row in rows(recorder) if row["part"] == 0}) == 1
    assert [row["run"]["name"] for row in rows(recorder) if "run" in row] == ["get_order"]


def test_the_program_of_the_documents_runs(openai, endpoint, tmp_path, monkeypatch):
    from toolenv import recorder as public

    page = Path(__file__).parents[2] / "docs" / "recorder.md"
    program = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert program is not None
    calls = [("get_order_status", '{"order_id": "ORD-00017"}')]
    endpoint.script.extend([endpoint.says(calls=calls), endpoint.says("It is shipped.")])
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.chdir(tmp_path)
    before = public.default.path
    try:
        names: dict[str, Any] = {}
        exec(compile(program[1], str(page), "exec"), names)
        names["client"].close()
        found = one(public.default)
    finally:
        public.configure(before)
    assert (found.family, found.success, found.answer) == ("order_status", True, "It is shipped.")
    assert found.steps[0].observation == '{"order_id": "ORD-00017", "status": "shipped"}'


# -- streams -------------------------------------------------------------------------------------------

CALLED = (
    {"role": "assistant", "content": "I "},
    {"content": "look."},
    {
        "tool_calls": [
            {"index": 0, "id": "x", "type": "function", "function": {"name": "get_order", "arguments": '{"ord'}}
        ]
    },
    {"tool_calls": [{"index": 0, "function": {"arguments": 'er_id":"A-7"}'}}]},
)
ASKED = [{"role": "user", "content": "Hello"}]


def test_a_stream_is_passed_on_and_put_together(openai, client, endpoint, recorder):
    endpoint.script.append(endpoint.streams(*CALLED, usage=(50, 5)))
    stream = client.chat.completions.create(model="m", messages=ASKED, stream=True)
    assert isinstance(stream, openai.Stream)
    assert stream.response.status_code == 200
    with stream:
        deltas = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    assert deltas == ["I ", "look.", None, None]
    (step,) = one(recorder).steps
    assert step.action == {"name": "get_order", "arguments": {"order_id": "A-7"}, "reasoning": "I look."}
    assert one(recorder).usage[0].tokens == 55


def test_a_stream_that_breaks_or_is_left_is_recorded_as_far_as_it_came(openai, client, endpoint, recorder):
    endpoint.script.append(endpoint.streams({"content": "Half"}, breaks=True))
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="m", messages=ASKED, stream=True))
    endpoint.script.append(endpoint.streams({"content": "One"}, {"content": "Two"}))
    stream = client.chat.completions.create(model="m", messages=ASKED, stream=True)
    next(stream)
    stream.close()
    stream.close()
    found, report = read_back(recorder)
    assert [one.answer for one in found] == ["Half", "One"]
    assert report.notes["a reply that was not read to its end"] == 2


def test_the_helper_for_streams_is_recorded(client, endpoint, recorder):
    endpoint.script.append(endpoint.streams({"role": "assistant", "content": "Hi"}, {"content": " there."}))
    with client.chat.completions.stream(model="m", messages=ASKED) as stream:
        stream.until_done()
    assert one(recorder).answer == "Hi there."


# -- threads, tasks and processes ----------------------------------------------------------------------


def test_threads_and_tasks_keep_their_conversations_apart(openai, client, endpoint, recorder):
    def echo(handler: Any, body: dict[str, Any]) -> None:
        endpoint.says(f"{body['messages'][0]['content']} {len(body['messages'])}")(handler, body)

    endpoint.default = echo

    def talk(name: str) -> None:
        messages: list[Any] = [{"role": "user", "content": name}]
        for _ in range(3):
            messages.append(client.chat.completions.create(model="m", messages=messages).choices[0].message)
            messages.append({"role": "user", "content": "And?"})

    async def talk_async(asking: Any, name: str) -> None:
        messages: list[Any] = [{"role": "user", "content": name}]
        with recorder.episode(task=name):
            for _ in range(3):
                reply = await asking.chat.completions.create(model="m", messages=messages)
                messages += [reply.choices[0].message, {"role": "user", "content": "And?"}]

    async def talk_all() -> None:
        async with openai.AsyncOpenAI(base_url=endpoint.url) as made:
            asking = recorder.wrap(made)
            await asyncio.gather(*(talk_async(asking, f"task{i}") for i in range(8)))
            endpoint.script.append(endpoint.streams({"content": "a"}, {"content": "b"}))
            stream = await asking.chat.completions.create(model="m", messages=ASKED, stream=True)
            assert isinstance(stream, openai.AsyncStream)
            assert [chunk.choices[0].delta.content async for chunk in stream] == ["a", "b"]

    threads = [threading.Thread(target=talk, args=(f"thread{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(talk_all())
    found, report = read_back(recorder)
    assert report.skipped == []
    spoken = {one.instruction: [step.action["answer"] for step in one.steps] for one in found}
    names = [f"{kind}{i}" for kind in ("thread", "task") for i in range(8)]
    assert spoken == {name: [f"{name} {n}" for n in (1, 3, 5)] for name in names} | {"Hello": ["ab"]}
    assert {one.family for one in found if one.instruction.startswith("task")} == set(names[8:])


def test_tools_that_run_in_threads_and_tasks_find_their_conversation(client, endpoint, recorder):
    endpoint.script.extend([endpoint.says(calls=LOOKS), endpoint.says("Lost.")])

    @recorder.tool
    def get_order(order_id: str) -> str:
        raise LookupError("no such order")

    def in_a_thread(**arguments: Any) -> str:
        caught: list[Exception] = []

        def run() -> None:
            try:
                get_order(**arguments)
            except LookupError as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return str(caught[0])

    act(client, in_a_thread)
    assert one(recorder).steps[0].error == "tool_error"

    @recorder.tool
    async def fetch(name: str) -> str:
        await asyncio.sleep(0)
        return name

    async def both() -> list[str]:
        with recorder.episode("fetching"):
            return await asyncio.gather(fetch("a"), fetch("b"))

    assert asyncio.run(both()) == ["a", "b"]
    fetched = read_back(recorder)[0][1]
    assert fetched.tool_sequence == ("fetch", "fetch")


PROCESS = """
import sys
from types import SimpleNamespace
from toolenv.agents.recorder import Recorder

message = SimpleNamespace(role="assistant", content="Done.", tool_calls=None)
completion = SimpleNamespace(choices=[SimpleNamespace(message=message)], model="m", usage=None)
client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=lambda **_: completion)))
Recorder(sys.argv[1]).wrap(client)
print("ready", flush=True)
for number in range(int(sys.argv[3])):
    asked = {"role": "user", "content": f"{sys.argv[2]} {number} " + "x" * 3000}
    client.chat.completions.create(model="m", messages=[asked])
"""


def start(recorder: Recorder, name: str, n: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", PROCESS, str(recorder.path), name, str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_processes_share_a_log_and_a_killed_one_loses_a_line_at_most(recorder):
    whole = [start(recorder, f"whole{i}", 150) for i in range(2)]
    killed = start(recorder, "killed", 10_000_000)
    assert killed.stdout is not None
    assert killed.stdout.readline() == b"ready\n"
    while not recorder.path.exists() or b"killed 50 " not in recorder.path.read_bytes():
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert [process.wait() for process in whole] == [0, 0]
    for process in (*whole, killed):
        assert process.stdout is not None
        process.stdout.close()
    found, report = read_back(recorder)
    assert len(report.skipped) <= 1
    numbers = [one.instruction.split()[:2] for one in found]
    for i in range(2):
        assert [number for name, number in numbers if name == f"whole{i}"] == [str(n) for n in range(150)]
    alone = [int(number) for name, number in numbers if name == "killed"]
    assert alone == list(range(len(alone)))
    assert len(alone) > 50


def test_a_line_that_was_torn_harms_no_other(client, recorder):
    client.chat.completions.create(model="m", messages=ASKED)
    with recorder.path.open("ab") as stream:
        stream.write(b'{"id": "torn", "part": 0, "mess')
    client.chat.completions.create(model="m", messages=ASKED)
    found, report = read_back(recorder)
    assert len(found) == 2
    (skipped,) = report.skipped
    assert f"{recorder.path}:2: record: not JSON" in skipped


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_fork_records_conversations_of_its_own(recorder):
    client = fake("Done.")
    recorder.wrap(client)
    messages = [*ASKED]
    messages.append(client.chat.completions.create(messages=messages).choices[0].message)
    messages.append({"role": "user", "content": "And?"})
    child = os.fork()
    if child == 0:
        client.chat.completions.create(messages=messages)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    client.chat.completions.create(messages=messages)
    found, report = read_back(recorder)
    assert report.skipped == []
    assert [len(one.steps) for one in found] == [2, 2]


# -- what must not happen to the agent -----------------------------------------------------------------


def fake(*contents: str | BaseException) -> Any:
    """Any client of this shape will do; the last reply repeats."""
    replies = list(contents)

    def create(**_: Any) -> Any:
        content = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(content, BaseException):
            raise content
        message = {"role": "assistant", "content": content}
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(**message))])

    return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))


def test_the_agents_exceptions_are_its_own(openai, client, endpoint, recorder):
    endpoint.script.append(endpoint.sends(b'{"error": {"message": "slow down"}}', 429))
    with pytest.raises(openai.RateLimitError, match="slow down"):
        client.chat.completions.create(model="m", messages=ASKED)
    with pytest.raises(TypeError, match="nonsense"):
        client.chat.completions.create(model="m", messages=ASKED, nonsense=1)
    client.chat.completions.create(model="m", messages=ASKED)  # trying again goes on with the conversation
    found, report = read_back(recorder)
    assert [len(one.steps) for one in found] == [1]
    assert report.notes["a request that failed (RateLimitError)"] == 1
    error = KeyboardInterrupt("now")

    @recorder.tool
    def get_order(order_id: str) -> None:
        raise error

    with pytest.raises(KeyboardInterrupt) as caught, recorder.episode("stop"):
        get_order("A-7")
    assert caught.value is error
    with pytest.raises(TypeError, match="order_id"):
        get_order()
    stopped = read_back(recorder)[0][1]
    assert (stopped.family, stopped.graded, stopped.success) == ("stop", True, False)
    assert stopped.steps[0].error == "tool_error"


def test_a_full_disk_is_told_once_and_breaks_nothing(recorder, caplog, tmp_path):
    client = recorder.wrap(fake("Done."))
    messages: list[Any] = [*ASKED]
    good = recorder.path
    for place in (good, Path("/dev/full"), Path("/dev/full"), good, good):
        recorder.configure(place)
        with caplog.at_level(logging.WARNING):
            messages += [client.chat.completions.create(messages=messages).choices[0].message, *ASKED]
    assert recorder.lost == 2
    (told,) = caplog.records
    assert "/dev/full: a line is lost" in told.message
    assert "No space left" in told.message
    assert len(one(recorder).steps) == 5  # what was lost stood in the next request, and the torn record is replaced


def test_what_can_not_be_recorded_is_told_and_passed_on(recorder, caplog):
    odd = SimpleNamespace(odd=True)
    create = SimpleNamespace(create=lambda *args, **kwargs: odd)
    client = recorder.wrap(SimpleNamespace(chat=SimpleNamespace(completions=create)))
    assert client.chat.completions.create("positional") is odd
    assert client.chat.completions.create(messages=ASKED, stream=True) is odd
    assert recorder.lost == 2
    assert len(caplog.records) == 1
    with pytest.raises(TypeError, match=r"has no chat\.completions\.create"):
        recorder.wrap(object())


def test_redaction_reaches_all_texts_before_the_disk(client, endpoint, recorder):
    secret = "ada@example.com"
    endpoint.script.extend([endpoint.says(f"I look for {secret}.", calls=[("find", json.dumps({"who": secret}))])])
    recorder.configure(redact=lambda text: re.sub(r"\S+@[\w.]+\w", "<e-mail>", text))

    @recorder.tool
    def find(who: str) -> dict[str, list[str]]:
        raise LookupError(who)

    asked = [{"role": "user", "name": secret, "content": [{"type": "text", "text": f"I am {secret}."}]}]
    with recorder.episode("find", request=secret, who=secret):
        client.chat.completions.create(model="m", messages=asked)
        with pytest.raises(LookupError):
            find(secret)
    assert endpoint.requests[0]["messages"][0]["name"] == secret
    assert secret not in recorder.path.read_text()
    found = one(recorder)
    assert found.instruction == "<e-mail>\n\nI am <e-mail>."
    assert found.steps[0].action["arguments"] == {"who": "<e-mail>"}


def test_a_redaction_that_fails_lets_nothing_through(recorder, caplog):
    recorder.configure(redact=lambda text: 1 / 0)
    client = recorder.wrap(fake("Done."))
    assert client.chat.completions.create(messages=ASKED).choices[0].message.content == "Done."
    assert recorder.lost == 1
    assert not recorder.path.exists()


# -- whatever happens ----------------------------------------------------------------------------------

WORDS = st.text(max_size=12)
VALUES = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | WORDS
)
ARGUMENTS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), VALUES, max_size=3)
TURNS = st.lists(st.lists(st.tuples(WORDS, ARGUMENTS, WORDS), max_size=3), min_size=1, max_size=4)


def clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


@settings(deadline=None, max_examples=60)
@given(turns=TURNS, asked=WORDS, answer=WORDS, scoped=st.booleans())
def test_what_is_recorded_and_imported_is_what_happened(tmp_path_factory, turns, asked, answer, scoped):
    """Turns of calls, with any text at all; the last turn is an answer."""
    recorder = Recorder(tmp_path_factory.mktemp("any") / "logs" / "agent.jsonl")
    replies = []
    for number, calls in enumerate(turns):
        called = [
            {"id": f"c{number}.{i}", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for i, (name, arguments, _) in enumerate(calls)
        ]
        replies.append({"role": "assistant", "content": answer, "tool_calls": called})
    waiting = [*replies, {"role": "assistant", "content": answer}]
    create = SimpleNamespace(create=lambda **_: {"choices": [{"message": waiting.pop(0)}]})
    client = recorder.wrap(SimpleNamespace(chat=SimpleNamespace(completions=create)))

    def play() -> None:
        messages: list[Any] = [{"role": "user", "content": asked}]
        for calls in [*turns, []]:
            message = client.chat.completions.create(model="m", messages=messages)["choices"][0]["message"]
            messages.append(message)
            for call, (_, _, result) in zip(message.get("tool_calls", ()), calls, strict=True):
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
            if not calls:
                messages.append({"role": "user", "content": "And?"})

    if scoped:
        with recorder.episode("any"):
            play()
    else:
        play()
    found = one(recorder)
    assert recorder.lost == 0
    assert found.instruction == clean(asked)
    expected: list[tuple[str | None, str]] = []
    for calls in [*turns, []]:
        expected += [(clean(name), clean(result)) for name, _, result in calls] or [(None, "And?")]
    expected[-1] = (None, "")
    assert [(step.tool, step.observation) for step in found.steps] == expected
    passed = [arguments for calls in turns for _, arguments, _ in calls]
    recorded = [step.action["arguments"] for step in found.steps if step.tool is not None]
    assert recorded == [orjson.loads(json.dumps(arguments)) for arguments in passed]
