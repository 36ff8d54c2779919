"""Records on disk: what is written comes back byte for byte, and what is damaged is named."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolenv.agents import records
from toolenv.agents.exports import MESSAGE_FORMATS, export, import_messages
from toolenv.agents.records import (
    DatasetBusy,
    read_trajectories,
    require_writable,
    whole_file,
    whole_folder,
    write_jsonl,
    write_parquet,
)
from toolenv.agents.trajectory import Step, Timing, Trajectory, recordable
from toolenv.envs.actions import parse_action
from toolenv.tools.errors import RecordError

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
MARKS = st.sampled_from(["<think>", "</think>", "<\\think>", "<\\/think>", "<tool_call>", "\\", "\n"])
HARD_TEXT = st.lists(TEXT | MARKS, max_size=4).map("".join)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
CALLS = st.builds(
    lambda name, arguments, reasoning: {"name": name, "arguments": arguments, "reasoning": reasoning},
    TEXT,
    st.dictionaries(TEXT, JSON, max_size=5),
    HARD_TEXT,
)
ANSWERS = st.builds(lambda answer, reasoning: {"answer": answer, "reasoning": reasoning}, HARD_TEXT, HARD_TEXT)


@st.composite
def steps(draw: st.DrawFn, actions: st.SearchStrategy[Any]) -> Step:
    action = parse_action(draw(actions))
    return Step(
        action=recordable(action),
        observation=draw(HARD_TEXT),
        effect=draw(st.sampled_from(["read", "write", None])),
        error=draw(st.sampled_from(["not_found", None])),
        reward=draw(st.floats(allow_nan=False, allow_infinity=False)),
        text=draw(TEXT),
        spans=(),
        token_ids=draw(st.none() | st.lists(st.integers(0, 10**6), max_size=3).map(tuple)),
        logprobs=draw(st.none() | st.lists(st.floats(-50, 0), max_size=3).map(tuple)),
        labels=draw(st.dictionaries(TEXT.map("x{}".format), JSON, max_size=2)),
    )


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    before = draw(st.lists(steps(CALLS | HARD_TEXT), max_size=4))
    last = draw(st.lists(steps(ANSWERS), max_size=1))
    return Trajectory(
        schema_version=1,
        id=draw(TEXT),
        scenario="crm",
        scenario_version="0" * 12,
        toolbox_version="1" * 12,
        tool_versions=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
        toolenv_version="0.1.0",
        task="crm/order_status/7",
        family="order_status",
        difficulty=1,
        split="train",
        seed=draw(st.integers(0, 2**63 - 1)),
        policy=draw(TEXT),
        trial=0,
        system=draw(HARD_TEXT),
        instruction=draw(HARD_TEXT),
        steps=(*before, *last),
        reward=draw(st.floats(allow_nan=False, allow_infinity=False)),
        success=draw(st.booleans()),
        truncated=draw(st.booleans()),
        sandbox_lost=False,
        grade=draw(st.dictionaries(TEXT, JSON, max_size=2)),
        world_digest="2" * 32,
        timing=draw(st.none() | st.just(Timing(0.1, 1e-06))),
    )


same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@pytest.mark.parametrize("name", ["records.jsonl", "records.jsonl.gz", "records.parquet"])
@same_folder
@given(batch=st.lists(trajectories(), min_size=1, max_size=4))
def test_what_is_written_comes_back_byte_for_byte(tmp_path_factory, name, batch):
    path = tmp_path_factory.getbasetemp() / name
    write = write_parquet if name.endswith("parquet") else write_jsonl
    assert write(batch, path) == len(batch)
    assert [t.to_json() for t in read_trajectories(path)] == [t.to_json() for t in batch]
    first = path.read_bytes()
    write(read_trajectories(path), path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("format", MESSAGE_FORMATS)
@settings(deadline=None)
@given(trajectory=trajectories())
def test_an_export_gives_the_messages_back(format, trajectory):
    (row,) = export([trajectory], format, [])
    row = orjson.loads(orjson.dumps(row))
    assert orjson.dumps(import_messages(row, format), option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        trajectory.messages, option=orjson.OPT_SORT_KEYS
    )


# -- parquet's columns ---------------------------------------------------------------------------------


def test_parquet_has_columns_to_filter_by(tmp_path, faulty):
    path = tmp_path / "records.parquet"
    write_parquet(faulty, path)
    wrong = pq.read_table(
        path, filters=[("success", "==", False)], columns=["id", "tool_sequence", "faults", "messages"]
    )
    failed = [trajectory for trajectory in faulty if not trajectory.success]
    assert wrong["id"].to_pylist() == [trajectory.id for trajectory in failed]
    assert wrong["tool_sequence"].to_pylist() == [list(trajectory.tool_sequence) for trajectory in failed]
    assert wrong["faults"].to_pylist() == [list(trajectory.faults) for trajectory in failed]
    assert [orjson.loads(text) for text in wrong["messages"].to_pylist()] == [t.messages for t in failed]


# -- damage --------------------------------------------------------------------------------------------


@pytest.fixture
def lines(faulty: list[Trajectory]) -> list[bytes]:
    return [trajectory.to_json() for trajectory in faulty[:3]]


def problem(path: Path) -> str:
    with pytest.raises(RecordError) as raised:
        list(read_trajectories(path))
    return str(raised.value).replace(str(path), "FILE")


def test_a_missing_file(tmp_path):
    assert problem(tmp_path / "none.jsonl") == "FILE: no such file"
    assert problem(tmp_path / "none.parquet") == "FILE: no such file"


def test_an_empty_file(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.touch()
    assert problem(path) == "FILE: the file is empty"
    path = tmp_path / "empty.parquet"
    path.touch()
    assert problem(path).startswith("FILE: row 1: not parquet")


def test_a_folder_that_is_no_dataset(tmp_path):
    assert problem(tmp_path) == "FILE: no dataset: neither manifest.json nor part-00000.jsonl"


def test_a_truncated_last_line(tmp_path, lines):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"\n".join(lines)[:-40])
    assert problem(path).startswith("FILE:3: record: Invalid JSON: EOF while parsing")
    assert problem(path).endswith("(the last line is truncated)")


def test_a_last_line_that_lacks_only_its_newline_is_whole(tmp_path, lines):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert [trajectory.to_json() for trajectory in read_trajectories(path)] == lines


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda record: record | {"seed": "7"}, "FILE:2: seed: Input should be a valid integer"),
        (lambda record: record | {"surprise": 1}, "FILE:2: surprise: Unexpected keyword argument"),
        (lambda record: {k: v for k, v in record.items() if k != "family"}, "FILE:2: family: "),
        (lambda record: record | {"schema_version": 9}, "FILE:2: schema_version: this is version 9"),
        (lambda record: {"schema_version": 9}, "FILE:2: schema_version: this is version 9; version 1 is read here"),
        (lambda record: record | {"steps": [{}]}, "FILE:2: steps.0.action: "),
        (lambda record: [record], "FILE:2: record: "),
        (lambda record: None, "FILE:2: record: "),
    ],
)
def test_a_bad_line_in_the_middle(tmp_path, lines, change, told):
    path = tmp_path / "records.jsonl"
    bad = orjson.dumps(change(orjson.loads(lines[1])))
    path.write_bytes(b"\n".join([lines[0], bad, lines[2]]) + b"\n")
    assert problem(path).startswith(told)


@pytest.mark.parametrize("garbage", [b"", b"not JSON", b"\xff\xfe", b"{" * 1_000])
def test_a_line_that_is_not_json(tmp_path, lines, garbage):
    path = tmp_path / "records.jsonl"
    path.write_bytes(lines[0] + b"\n" + garbage + b"\n" + lines[2] + b"\n")
    assert problem(path).startswith("FILE:2: record: Invalid JSON")


def test_what_came_before_the_damage_is_read(tmp_path, lines):
    path = tmp_path / "records.jsonl"
    path.write_bytes(lines[0] + b"\nbad\n")
    assert next(read_trajectories(path)).to_json() == lines[0]


def test_a_truncated_gzip(tmp_path, faulty):
    path = tmp_path / "records.jsonl.gz"
    write_jsonl(faulty[:20], path)
    path.write_bytes(path.read_bytes()[:-200])
    assert "truncated or damaged" in problem(path)
    path.write_bytes(b"plain")
    assert "truncated or damaged" in problem(path)


def test_gzip_is_gzip(tmp_path, lines, faulty):
    path = tmp_path / "records.jsonl.gz"
    write_jsonl(faulty[:3], path)
    assert gzip.decompress(path.read_bytes()).splitlines() == lines


def test_a_parquet_of_another_version(tmp_path, faulty, monkeypatch):
    path = tmp_path / "records.parquet"
    other = records._SCHEMA.with_metadata({b"toolenv.schema_version": b"7"})
    monkeypatch.setattr(records, "_SCHEMA", other)
    write_parquet(faulty[:2], path)
    assert problem(path) == "FILE: toolenv.schema_version: this is version 7; version 1 is read here"


def test_a_parquet_of_someone_else(tmp_path):
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"record": ["{}"]}), path)
    assert problem(path).startswith("FILE: toolenv.schema_version: missing")


def test_a_bad_row(tmp_path, lines):
    path = tmp_path / "records.parquet"
    rows = [lines[0].decode(), "{}", None]
    schema = pa.schema([("record", pa.string())], metadata={b"toolenv.schema_version": b"1"})
    pq.write_table(pa.table({"record": rows}, schema), path)
    assert problem(path).startswith("FILE: row 2: ")
    pq.write_table(pa.table({"record": rows[::2]}, schema), path)
    assert problem(path) == "FILE: row 2: record: missing"
    pq.write_table(pa.table({"record": []}, schema), path)
    assert problem(path) == "FILE: the file has no rows"


def test_a_truncated_parquet(tmp_path, faulty):
    path = tmp_path / "records.parquet"
    write_parquet(faulty[:20], path)
    path.write_bytes(path.read_bytes()[:-100])
    assert problem(path).startswith("FILE: row 1: not parquet, or damaged")


# -- whole or not at all -------------------------------------------------------------------------------


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as stream:
        stream.write(b"half" * (1 // 0))
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    (tmp_path / ".made.partial" / "left over").mkdir(parents=True)
    (tmp_path / ".made.partial" / "left over, too").touch()
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "made") as partial:
        (partial / "missing" / "file").touch()
    assert not list(tmp_path.iterdir())
    with whole_folder(tmp_path / "made") as partial:
        (partial / "file").touch()
        assert not (tmp_path / "made").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "file"]


def test_two_do_not_make_one_folder_at_once(tmp_path):
    code = (
        "from pathlib import Path; from toolenv.agents.records import whole_folder\n"
        f"with whole_folder(Path({str(tmp_path / 'made')!r})): raise SystemExit('let in')"
    )
    with whole_folder(tmp_path / "made") as partial:
        (partial / "file").touch()
        with pytest.raises(DatasetBusy, match="another process is writing"), whole_folder(tmp_path / "made"):
            pass
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "DatasetBusy" in other.stderr
    assert (tmp_path / "made" / "file").exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_what_can_not_be_written_is_known_before(tmp_path):
    (tmp_path / "file").touch()
    require_writable(tmp_path / "file")
    require_writable(tmp_path / "not" / "yet" / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(IsADirectoryError):
        require_writable(tmp_path)
    with pytest.raises(NotADirectoryError, match="file"):
        require_writable(tmp_path / "file" / "below" / "it")


def test_a_folder_without_the_right_to_write_is_known_before(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # whoever runs the tests may be root
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path))):
        require_writable(tmp_path / "file")
