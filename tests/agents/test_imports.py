"""Imports: our own exports come back, a team's logs are read as they are meant, and what is wrong is told by line."""

from __future__ import annotations

import gzip
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.agents.atif import to_atif
from toolenv.agents.conversations import TOOL_ERROR, UNTYPED, Notes, read_conversation
from toolenv.agents.dataset import DatasetMismatch
from toolenv.agents.exports import export
from toolenv.agents.formats import LogFormat
from toolenv.agents.grounding import identifier_uses
from toolenv.agents.imports import import_logs
from toolenv.agents.logged_tools import logged_toolbox
from toolenv.agents.records import read_trajectories
from toolenv.agents.replay import replay
from toolenv.agents.trajectory import ELSEWHERE, Trajectory
from toolenv.agents.usage import Usage
from toolenv.tools.errors import INVALID_CALLS, InvalidArguments, RecordError

MESSAGES = (LogFormat.OPENAI, LogFormat.ATIF)  # the forms that are written, too


def spec(name: str, properties: dict[str, Any], *required: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


TOOLS = [
    spec("get_order", {"order_id": {"type": "string"}, "verbose": {"type": "boolean"}}, "order_id"),
    spec("refund", {"orderId": {"type": "string"}, "amount": {"type": "number"}}, "orderId", "amount"),
]


def called(name: str, arguments: Any, call_id: str = "c1", content: Any = None) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def result(content: Any, call_id: str = "c1", **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **fields}


ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Where is order A-7?"}]
LOOKED = [called("get_order", {"order_id": "A-7"}), result('{"status":"lost"}')]
ANSWERED = {"role": "assistant", "content": "It is lost."}


def read(messages: Any, tools: Any = TOOLS, notes: Notes | None = None, **about: Any) -> Trajectory:
    toolbox = None if tools is None else logged_toolbox(tools)
    return read_conversation({"messages": messages, **about}, toolbox, "log:1", Notes() if notes is None else notes)


# -- our own exports -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", MESSAGES)
def test_our_own_export_comes_back(tmp_path, play, scenario, form):
    ours = play("faulty:0.8", range(150))
    tools = scenario.toolbox.to_openai()
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in export(ours, form, tools)))
    report = import_logs(log, form, tmp_path / "out")
    back = list(read_trajectories(tmp_path / "out"))
    assert (report.imported, report.skipped) == (150, [])
    for one, other in zip(ours, back, strict=True):
        assert (other.system, other.instruction) == (one.system, one.instruction)
        assert [s.action for s in other.steps] == [s.action for s in one.steps]
        assert [s.observation for s in other.steps] == [s.observation for s in one.steps]
        assert [s.error in INVALID_CALLS for s in other.steps] == [s.error in INVALID_CALLS for s in one.steps]
        assert other.messages == one.messages
        assert other.scenario == ELSEWHERE
        assert sum(step.reward for step in other.steps) == other.reward
    assert orjson.loads((tmp_path / "out" / "tools.json").read_bytes()) == tools
    # The marks of our schemas tell which arguments are identifiers.
    for one, other in zip(ours, back, strict=True):
        assert list(identifier_uses(other, logged_toolbox(tools))) == list(identifier_uses(one, scenario.toolbox))


def test_episodes_of_ours_are_carried_out_again(tmp_path, play, scenario):
    ours = play("faulty:0.8", range(100))
    rows = list(export(ours, "atif", scenario.toolbox.to_openai()))
    rows[5]["steps"][1]["message"] += " Quick!"
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    report = import_logs(log, LogFormat.ATIF, tmp_path / "out", scenario=scenario)
    back = list(read_trajectories(tmp_path / "out"))
    assert (report.imported, report.native) == (100, 99)
    assert any(f"{log}:6: instruction: not that of {ours[5].task}" in note for note in report.notes)
    assert back[5].scenario == ELSEWHERE
    for number in (0, 1, 2, 50, 99):
        assert replay(back[number], scenario).same
        assert back[number].grade == ours[number].grade
        assert back[number].reward == ours[number].reward
        assert back[number].world_digest == ours[number].world_digest
        assert back[number].tool_versions == ours[number].tool_versions


WORDS = st.text(st.characters(codec="utf-8"), max_size=30)
ARGUMENTS = st.dictionaries(WORDS, st.none() | st.booleans() | st.integers(-9, 9) | WORDS | st.lists(WORDS, max_size=2))
TURNS = st.lists(st.tuples(WORDS, ARGUMENTS, WORDS, WORDS) | st.tuples(WORDS, WORDS), min_size=1, max_size=5)


@settings(deadline=None)
@given(turns=TURNS, system=WORDS, asked=WORDS)
def test_any_conversation_comes_back_through_both_formats(turns, system, asked):
    """Calls and answers, some of which the user replies to."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}, {"role": "user", "content": asked}]
    for number, turn in enumerate(turns):
        if len(turn) == 4:
            name, arguments, observation, thought = turn
            messages.append(called(name, arguments, f"c{number}", thought))
            messages.append(result(observation, f"c{number}"))
        else:
            messages += [{"role": "assistant", "content": turn[0]}, {"role": "user", "content": turn[1] or "And?"}]
    first = read(messages)
    for form in MESSAGES:
        (row,) = export([first], form, TOOLS)
        if form is LogFormat.ATIF:
            from toolenv.agents.atif import from_atif

            row = from_atif(orjson.loads(orjson.dumps(row)), Notes())
        again = read_conversation(row, logged_toolbox(TOOLS), "log:1", Notes())
        assert [(s.action, s.observation, s.error) for s in again.steps] == [
            (s.action, s.observation, s.error) for s in first.steps
        ]
        assert (again.system, again.instruction) == (system, asked)
    assert Trajectory.from_json(first.to_json()) == first


# -- what logs hold ------------------------------------------------------------------------------------


def test_a_log_is_an_episode_of_no_scenario():
    found = read([*ASKED, *LOOKED, ANSWERED], id="conv-1", task_type="status", model="gpt", success=True)
    assert (found.scenario, found.task, found.family) == (ELSEWHERE, f"{ELSEWHERE}/status/conv-1", "status")
    assert (found.policy, found.success, found.graded, found.truncated) == ("gpt", True, True, False)
    assert (found.reward, found.scenario_version, found.world_digest) == (1.0, "", "")
    assert found.instruction == "Where is order A-7?"
    assert found.tool_sequence == ("get_order",)
    assert found.answer == "It is lost."


@pytest.mark.parametrize(
    ("about", "success", "graded"),
    [
        ({}, False, False),
        ({"success": False}, False, True),
        ({"outcome": "Resolved"}, True, True),
        ({"outcome": "failed"}, False, True),
        ({"outcome": {"success": True}}, True, True),
        ({"metadata": {"success": True}}, True, True),
        ({"outcome": "escalated"}, False, False),
    ],
)
def test_the_outcome_is_known_only_where_it_is_told(about, success, graded):
    notes = Notes()
    found = read([*ASKED, ANSWERED], notes=notes, **about)
    assert (found.success, found.graded) == (success, graded)
    assert any("escalated" in note for note in notes) == (about.get("outcome") == "escalated")


def test_parallel_calls_are_steps_one_after_the_other():
    both = called("get_order", {"order_id": "A-7"}, "x", "I look.")
    both["tool_calls"] += called("get_order", {"order_id": "A-8"}, "y")["tool_calls"]
    notes = Notes()
    found = read([*ASKED, both, result("late", "y"), result("early", "x"), ANSWERED], notes=notes)
    assert [s.observation for s in found.steps] == ["early", "late", ""]
    assert [s.action.get("reasoning") for s in found.steps] == ["I look.", None, None]
    assert notes["parallel calls: read one after the other"] == 1


def test_the_old_form_of_function_calls_is_read():
    call = {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "get_order", "arguments": '{"order_id":"A"}'},
    }
    reply = {"role": "function", "name": "get_order", "content": "{}"}
    found = read([*ASKED, call, reply, ANSWERED])
    assert [s.tool for s in found.steps] == ["get_order", None]
    assert found.steps[0].observation == "{}"


def test_a_user_goes_on_talking():
    again = [{"role": "user", "content": "And A-8?"}, called("get_order", {"order_id": "A-8"}), result("{}"), ANSWERED]
    thanks = {"role": "user", "content": [{"type": "text", "text": "Thanks"}, {"type": "image_url", "image_url": {}}]}
    notes = Notes()
    found = read([*ASKED, *LOOKED, ANSWERED, *again, thanks], notes=notes)
    assert [s.observation for s in found.steps] == ['{"status":"lost"}', "And A-8?", "{}", "Thanks\n[image_url]"]
    assert not found.truncated
    assert all(use.seen for use in identifier_uses(found, logged_toolbox(TOOLS))), "A-8 was said by the user"
    assert [m["role"] for m in found.messages[4:7]] == ["assistant", "user", "assistant"]
    assert notes == Notes({"a part of kind image_url: its place is marked": 1})


def test_a_word_between_result_and_turn_is_joined_and_told():
    notes = Notes()
    hurry = [{"role": "user", "content": "Hurry!"}, {"role": "system", "content": "Five left."}]
    found = read([*ASKED, *LOOKED, *hurry, ANSWERED], notes=notes)
    assert found.steps[0].observation == '{"status":"lost"}\n\nHurry!\n\nFive left.'
    assert sum(notes.values()) == 2


@pytest.mark.parametrize(
    ("call", "reply", "error"),
    [
        (called("get_order", {"order_id": "A-7"}), result("{}"), None),
        (called("get_order", {"order_id": 7}), result("{}"), "invalid_arguments"),
        (called("get_order", {}), result("{}"), "invalid_arguments"),
        (called("get_order", ""), result("{}"), "invalid_arguments"),
        (called("cancel", {}), result("{}"), "unknown_tool"),
        (called("get_order", '{"order_id": "A-7"'), result("{}"), "malformed_call"),
        (called("get_order", "[1]"), result("{}"), "malformed_call"),
        (called("get_order", {"order_id": "A-7"}), result("Error: no connection"), TOOL_ERROR),
        (called("get_order", {"order_id": "A-7"}), result('{"error": "gone"}'), TOOL_ERROR),
        (called("get_order", {"order_id": "A-7"}), result("gone", is_error=True), TOOL_ERROR),
        (called("get_order", {"order_id": "A-7"}), result("gone", status="error"), TOOL_ERROR),
        (called("get_order", {"order_id": "A-7"}), result('{"error":{"type":"not_found"}}'), "not_found"),
        (called("get_order", {"order_id": "A-7"}), result("Errors are rare"), None),
    ],
)
def test_what_counts_as_an_error(call, reply, error):
    assert read([*ASKED, call, reply, ANSWERED]).steps[0].error == error


def test_without_declared_tools_a_call_is_only_read():
    notes = Notes()
    found = read([*ASKED, called("anything", {"a": 1}), result("{}"), ANSWERED], tools=None, notes=notes)
    assert found.steps[0].error is None
    assert (found.toolbox_version, found.family) == ("", UNTYPED)
    assert any("no tools are declared" in note for note in notes)


def test_a_log_that_ends_within_a_call_is_truncated():
    notes = Notes()
    found = read([*ASKED, called("get_order", {"order_id": "A-7"})], notes=notes)
    assert (found.truncated, found.answer) == (True, None)
    assert notes["the last calls have no reply"] == 1


# -- what can not be read ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("text", "messages: not a list"),
        ([], "messages: no assistant message"),
        (ASKED, "messages: no assistant message"),
        ([*ASKED, "hello"], r"messages\.2\.role"),
        ([*ASKED, {"role": "robot"}], r"messages\.2\.role: none of system"),
        ([*ASKED, {"role": "assistant", "content": 5}], r"messages\.2\.content: neither"),
        ([*ASKED, {"role": "assistant", "content": [{}]}], r"messages\.2\.content\.0\.type"),
        ([*ASKED, {"role": "assistant", "tool_calls": 5}], r"messages\.2\.tool_calls: not a list"),
        ([*ASKED, {"role": "assistant", "tool_calls": [5]}], r"messages\.2\.tool_calls\.0\.function: missing"),
        ([*ASKED, called(5, {})], r"messages\.2\.tool_calls\.0\.function\.name"),  # type: ignore[arg-type]  # on purpose
        ([*ASKED, called("get_order", {}), ANSWERED], r"messages\.3: comes before the reply to call 'c1'"),
        ([*ASKED, result("{}")], r"messages\.2\.tool_call_id: 'c1' is no call"),
        (
            [*ASKED, called("f", {"a": "b" * 70_000})],
            r"messages\.2\.tool_calls\.0\.function: can not be kept.* characters",
        ),
        (
            [*ASKED, called("f", "b" * 70_000)],
            r"messages\.2\.tool_calls\.0\.function\.arguments: no JSON object, and too",
        ),
    ],
)
def test_a_conversation_that_can_not_be_read_names_field_and_rule(messages, problem):
    with pytest.raises(RecordError, match=f"^{problem}"):
        read(messages)


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ({}, "tools: not a list"),
        ([5], r"tools\.0: no function with a name"),
        ([spec("a", {}), spec("a", {})], r"tools\.1: a second tool named a"),
        ([spec("a", {"b": {"type": "strange"}})], r"tools\.0\.parameters: 'strange'"),
        ([{"name": "a", "parameters": []}], None),
        ([{"name": "a", "parameters": [1]}], r"tools\.0\.parameters: not a JSON Schema"),
    ],
)
def test_tools_that_are_none_are_named(tools, problem):
    if problem is None:
        assert logged_toolbox(tools).names == ("a",)
        return
    with pytest.raises(RecordError, match=f"^{problem}"):
        logged_toolbox(tools)


def test_a_schema_elsewhere_is_not_fetched():
    tools = logged_toolbox([spec("a", {"b": {"$ref": "http://127.0.0.1:9/schema.json"}})])
    with pytest.raises(RecordError, match=r"tools: a: parameters: .*schema\.json"):
        tools["a"].validate({"b": 1})
    with pytest.raises(RecordError, match=r"tools\.0\.parameters: '\(' is not a 'regex'"):
        logged_toolbox([spec("a", {"b": {"type": "string", "pattern": "("}})])


def test_a_logged_tool_validates_and_does_not_run():
    tools = logged_toolbox(TOOLS)
    with pytest.raises(InvalidArguments) as caught:
        tools["refund"].validate({"orderId": "A", "amount": "much"})
    assert caught.value.payload()["error"]["field"] == "amount"
    assert set(tools["refund"].identifiers) == {"orderId"}
    with pytest.raises(RecordError, match="can not be run"):
        tools["refund"](None, orderId="A", amount=1)


# -- files ---------------------------------------------------------------------------------------------


def lines(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else orjson.dumps(row)) + b"\n" for row in rows)


GOOD = {"messages": [*ASKED, *LOOKED, ANSWERED], "tools": TOOLS}


def test_a_bad_line_does_not_stop_the_rest(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(lines(GOOD, b"{nonsense", {"messages": []}, b"", {**GOOD, "tools": [5]}, GOOD) + b'{"messages": [')
    report = import_logs(log, LogFormat.OPENAI, tmp_path / "out")
    assert report.imported == 2
    told = [problem.removeprefix(f"{log}:") for problem in report.skipped]
    assert [problem.split(":")[0] for problem in told] == ["2", "3", "5", "7"]
    assert told[0].startswith("2: record: not JSON")
    assert told[1] == "3: messages: no assistant message, so there is no step"
    assert told[2] == "5: tools.0: no function with a name"
    assert told[3].endswith("(the last line is truncated)")
    kept = list(read_trajectories(tmp_path / "out"))
    assert len({trajectory.id for trajectory in kept}) == 2
    assert orjson.loads((tmp_path / "out" / "import.json").read_bytes())["skipped"] == report.skipped


def test_folders_lists_and_gzipped_files_are_read(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a.json").write_bytes(orjson.dumps(GOOD))
    (logs / "b.json").write_bytes(orjson.dumps([GOOD, 5]))
    (logs / "c.jsonl.gz").write_bytes(gzip.compress(lines(GOOD, GOOD)))
    (logs / "d.jsonl.gz").write_bytes(gzip.compress(lines(*[GOOD] * 50))[:-20])
    (logs / "notes.txt").write_text("not a log")
    report = import_logs(logs, LogFormat.OPENAI, tmp_path / "out")
    assert report.imported >= 4
    assert report.skipped[0] == f"{logs / 'b.json'}[1]: messages: not a list"
    assert "d.jsonl.gz" in report.skipped[-1]
    assert "truncated or damaged" in report.skipped[-1]


def test_the_same_task_again_is_another_trial(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(lines(*[{**GOOD, "id": "7"}] * 3))
    import_logs(log, LogFormat.OPENAI, tmp_path / "out")
    assert [t.trial for t in read_trajectories(tmp_path / "out")] == [0, 1, 2]


def test_tools_that_change_are_told(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(
        lines(GOOD, {**GOOD, "tools": [spec("get_order", {})]}, {**GOOD, "tools": orjson.dumps(TOOLS).decode()})
    )
    report = import_logs(log, LogFormat.OPENAI, tmp_path / "out")
    assert report.notes == {"tool get_order is declared in several ways: tools.json has the first": 1}


@pytest.mark.parametrize("content", [b"", b"\n\n", b"{}\n", b"nonsense"])
def test_nothing_to_import_is_an_error_and_leaves_nothing(tmp_path, content):
    log = tmp_path / "log.jsonl"
    log.write_bytes(content)
    with pytest.raises(RecordError, match="not one conversation could be read"):
        import_logs(log, LogFormat.OPENAI, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [log]
    with pytest.raises(RecordError, match="no such file"):
        import_logs(tmp_path / "none", LogFormat.OPENAI, tmp_path / "out")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    log, out = tmp_path / "log.jsonl", tmp_path / "out"
    log.write_bytes(lines(GOOD))
    import_logs(log, LogFormat.OPENAI, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DatasetMismatch, match="holds something already"):
        import_logs(log, LogFormat.OPENAI, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"reward": "high"}, "reward: not a number"),
        ({"tools": "[nonsense"}, "tools: a text that is not JSON"),
        ({"tools": [{"function": {"name": "a", "parameters": {"$ref": "#/nowhere"}}}]}, None),
    ],
)
def test_what_stands_beside_the_messages_is_checked(tmp_path, change, problem):
    log = tmp_path / "log.jsonl"
    log.write_bytes(lines({**GOOD, **change}, GOOD))
    report = import_logs(log, LogFormat.OPENAI, tmp_path / "out")
    assert report.skipped == ([] if problem is None else [f"{log}:1: {problem}"])


def test_a_damaged_json_file_is_told_and_the_next_one_read(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a.json").write_bytes(b"[{")
    (logs / "b.json").write_bytes(orjson.dumps(GOOD))
    report = import_logs(logs, LogFormat.OPENAI, tmp_path / "out")
    assert report.imported == 1
    assert report.skipped[0].startswith(f"{logs / 'a.json'}: record: not JSON")
    (found,) = read_trajectories(tmp_path / "out")
    assert found.task == f"{ELSEWHERE}/{UNTYPED}/b.json", "no folder of this machine"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda row: row["extra"].update(task="crm/no_family/1"), "task: 'crm/no_family/1': not a task of crm"),
        (lambda row: row["steps"].pop(), "step 2: the episode has not ended"),
        (
            lambda row: row["steps"].append({"source": "agent", "message": "So."}),
            "step 4: the episode has ended before",
        ),
        (lambda row: row["steps"][2]["observation"]["results"][0].update(content="{}"), "step 1: observation: other"),
    ],
)
def test_an_episode_that_comes_out_otherwise_stays_one_from_elsewhere(tmp_path, play, scenario, change, problem):
    (ours,) = (t for t in play("oracle", [3], family="invoice_payment") if len(t.steps) == 3)
    (row,) = export([ours], "atif", scenario.toolbox.to_openai())
    change(row)
    (tmp_path / "one.json").write_bytes(orjson.dumps(row))
    report = import_logs(tmp_path / "one.json", LogFormat.ATIF, tmp_path / "out", scenario=scenario)
    assert (report.imported, report.native) == (1, 0)
    assert any(problem in note for note in report.notes), report.notes
    (found,) = read_trajectories(tmp_path / "out")
    assert (found.scenario, found.scenario_version, found.seed) == (ELSEWHERE, "", 0)


ATIF = {
    "schema_version": "ATIF-v1.8",
    "agent": {"name": "my-agent", "version": "1", "model_name": "m", "tool_definitions": TOOLS},
    "steps": [
        {"step_id": 1, "source": "user", "message": [{"type": "text", "text": "Where is A-7?"}]},
        {
            "step_id": 2,
            "source": "agent",
            "message": "Let me check.",
            "tool_calls": [{"tool_call_id": "c", "function_name": "get_order", "arguments": {"order_id": "A-7"}}],
            "observation": {"results": [{"content": "{}"}]},
        },
        {"step_id": 3, "source": "agent", "message": "Lost.", "metrics": {"completion_tokens": 2}},
    ],
}


def test_an_atif_document_of_another_agent_is_read(tmp_path):
    (tmp_path / "one.json").write_bytes(orjson.dumps({**ATIF, "extra": {"outcome": "passed"}}))
    import_logs(tmp_path / "one.json", LogFormat.ATIF, tmp_path / "out")
    (found,) = read_trajectories(tmp_path / "out")
    assert (found.policy, found.instruction, found.answer, found.success) == ("m", "Where is A-7?", "Lost.", True)
    assert found.steps[0].action["reasoning"] == "Let me check."
    assert found.steps[0].observation == "{}"


def test_metrics_of_an_atif_document_are_read_and_what_is_not_is_named(tmp_path):
    asked, called_step, answered = ATIF["steps"]
    metrics = {"prompt_tokens": 90, "cached_tokens": 40, "completion_tokens": 12, "cost_usd": 0.003}
    delegated = {"content": "{}", "subagent_trajectory_ref": [{"trajectory_id": "sub"}]}
    document = {
        **ATIF,
        "subagent_trajectories": [{"schema_version": "ATIF-v1.8", "trajectory_id": "sub", "steps": []}],
        "final_metrics": {"total_cost_usd": 0.003, "total_steps": 3},
        "steps": [
            {**asked, "timestamp": "2026-01-01T00:00:00Z"},
            {
                **called_step,
                "timestamp": "2026-01-01T00:00:01Z",
                "metrics": {**metrics, "completion_token_ids": [1, 2], "logprobs": []},
                "observation": {"results": [delegated]},
            },
            answered,
        ],
    }
    (tmp_path / "one.json").write_bytes(orjson.dumps(document))
    report = import_logs(tmp_path / "one.json", LogFormat.ATIF, tmp_path / "out")
    assert report.notes == {
        "agent.version: not read": 1,
        "steps.metrics.completion_token_ids: not read": 1,
        "steps.observation.results.subagent_trajectory_ref: not read": 1,
        "steps.timestamp: not read": 2,
        "subagent_trajectories: not read": 1,
    }
    (found,) = read_trajectories(tmp_path / "out")
    assert found.usage == (Usage(90, 12, 40, 0.003, requests=1), Usage(0, 2, requests=1))
    (tmp_path / "again.json").write_bytes(orjson.dumps(to_atif(found, TOOLS)))
    import_logs(tmp_path / "again.json", LogFormat.ATIF, tmp_path / "again")
    assert next(read_trajectories(tmp_path / "again")).usage == found.usage
    # Without metrics of steps, those of the whole are what is lost.
    document["steps"] = [asked, called_step, {**answered, "metrics": None}]
    (tmp_path / "one.json").write_bytes(orjson.dumps(document))
    assert (
        "final_metrics.total_cost_usd: not read"
        in import_logs(tmp_path / "one.json", LogFormat.ATIF, tmp_path / "whole").notes
    )


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ({"steps": [{"source": "agent", "message": "", "metrics": {"cost_usd": -1}}]}, r"steps\.0\.metrics\.cost_usd"),
        (
            {"steps": [{"source": "agent", "message": "", "metrics": {"prompt_tokens": 1.5}}]},
            r"steps\.0\.metrics\.prom",
        ),
        ({"schema_version": "2"}, "schema_version: '2'; ATIF-v1"),
        ({"steps": {}}, "steps: not a list"),
        ({"agent": 5}, "agent: not an object"),
        ({"steps": [{"source": "robot"}]}, r"steps\.0\.source"),
        ({"steps": [{"source": "agent", "message": "", "tool_calls": [{}]}]}, r"steps\.0\.tool_calls\.0\.tool_call_id"),
        (
            {"steps": [{"source": "agent", "message": "", "observation": {"results": [5]}}]},
            r"steps\.0\.observation\.results\.0",
        ),
    ],
)
def test_a_damaged_atif_document_names_the_field(tmp_path, damage, problem):
    (tmp_path / "one.json").write_bytes(orjson.dumps({**ATIF, **damage}))
    with pytest.raises(RecordError, match=f"one.json: {problem}"):
        import_logs(tmp_path / "one.json", LogFormat.ATIF, tmp_path / "out")
