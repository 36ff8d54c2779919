"""Exports: what stands in each format. (That each gives its messages back, test_records.py proves.)"""

from __future__ import annotations

import orjson
import pytest

from toolenv.agents.collect import collect
from toolenv.agents.exports import MESSAGE_FORMATS, export, export_dataset, import_messages
from toolenv.agents.records import read_trajectories
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.errors import RecordError

TOOLS = [{"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def episode(play) -> Trajectory:
    """One call that could not be read, the call, the answer."""
    for trajectory in play("faulty:malformed_call=1", range(40), family="order_status"):
        if trajectory.steps[0].error == "malformed_call":
            return trajectory
    raise AssertionError("no such episode")


def row_of(trajectory: Trajectory, format: str) -> dict:
    return next(iter(export([trajectory], format, TOOLS)))


def test_openai_is_the_wire_format(episode):
    row = row_of(episode, "openai")
    assert row["tools"] == TOOLS
    system, user, unread, complaint, call, reply, answer = row["messages"]
    assert (system["role"], user["role"], complaint["role"], reply["role"]) == ("system", "user", "user", "tool")
    assert unread == {"role": "assistant", "content": episode.steps[0].action}
    assert call["content"] is None
    assert call["reasoning_content"]
    function = call["tool_calls"][0]["function"]
    assert orjson.loads(function["arguments"]) == episode.steps[1].action["arguments"]
    assert reply == {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": reply["content"]}
    assert answer["content"] == episode.answer


def test_trl_has_arguments_as_mappings_and_tools_as_text(episode):
    row = row_of(episode, "trl")
    assert orjson.loads(row["tools"]) == TOOLS
    assert row["messages"] == episode.messages
    assert isinstance(row["messages"][4]["tool_calls"][0]["function"]["arguments"], dict)


def test_sharegpt_alternates_between_those_who_ask_and_those_who_act(episode):
    row = row_of(episode, "sharegpt")
    assert orjson.loads(row["tools"]) == TOOLS
    assert row["system"] == episode.system
    senders = [turn["from"] for turn in row["conversations"]]
    assert senders == ["human", "gpt", "human", "function_call", "observation", "gpt"]
    thought, _, call = row["conversations"][3]["value"].partition("</think>")
    assert thought.startswith("<think>")
    assert orjson.loads(call).keys() == {"name", "arguments"}


def test_real_episodes_give_their_messages_back(faulty):
    for format in MESSAGE_FORMATS:
        for trajectory, row in zip(faulty, export(faulty, format, TOOLS), strict=True):
            assert import_messages(row, format) == trajectory.messages


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="alpaca"):
        export([], "alpaca", [])
    with pytest.raises(ValueError, match="parquet keeps records, not messages; formats of messages are: openai, trl"):
        export([], "parquet", [])
    with pytest.raises(ValueError, match="parquet keeps records"):
        import_messages({}, "parquet")


@pytest.mark.parametrize("format", MESSAGE_FORMATS)
def test_a_dataset_is_exported_beside_its_shards(tmp_path, format):
    collect("crm", "faulty:0.8", n=30, out=tmp_path, shard_size=20)
    trajectories = list(read_trajectories(tmp_path))
    path = export_dataset(tmp_path, format)
    assert path == tmp_path / f"export-{format}.jsonl"
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [import_messages(row, format) for row in rows] == [trajectory.messages for trajectory in trajectories]
    export_dataset(tmp_path, format, successful_only=True)
    assert len(path.read_bytes().splitlines()) == sum(trajectory.success for trajectory in trajectories) < 30
    assert len(list(read_trajectories(tmp_path))) == 30, "the export is not taken for a shard"


def test_a_dataset_as_parquet_is_read_as_it_was(tmp_path):
    collect("crm", "faulty:0.8", n=30, out=tmp_path)
    path = export_dataset(tmp_path, "parquet")
    assert path == tmp_path / "trajectories.parquet"
    assert list(read_trajectories(path)) == list(read_trajectories(tmp_path))
    export_dataset(tmp_path, "parquet", successful_only=True)
    assert all(trajectory.success for trajectory in read_trajectories(path))
    with pytest.raises(RecordError, match="a file; name the folder"):
        export_dataset(path, "trl")


def test_a_dataset_without_tools_is_not_exported(tmp_path):
    with pytest.raises(RecordError, match=r"tools\.json"):
        export_dataset(tmp_path, "trl")
