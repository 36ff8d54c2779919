"""Recorded episodes measured: of ours everything, of logs from elsewhere what they show, and no more than that."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from toolenv.agents.collect import collect
from toolenv.agents.exports import export_dataset
from toolenv.agents.formats import LogFormat
from toolenv.agents.imports import import_logs
from toolenv.agents.intervals import Metric
from toolenv.agents.records import read_trajectories, write_jsonl, write_parquet
from toolenv.agents.usage import Usage
from toolenv.cli import app
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.tools.errors import RecordError
from toolenv.training.evaluate import Evaluation, evaluate
from toolenv.training.evaluation_tables import render_evaluation, render_measured, render_metrics, render_tools
from toolenv.training.logs import Measured, measure_dataset
from toolenv.training.metrics import measure, summarize

N = 120


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario("crm")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "crm"
    collect("crm", "faulty:0.8", n=N, out=folder, seed=900_000)
    return folder


@pytest.fixture(scope="module")
def evaluated() -> Evaluation:
    return evaluate("crm", "faulty:0.8", n=N)


def imported(data: Path, out: Path, form: LogFormat, scenario: Scenario | None = None) -> Path:
    import_logs(export_dataset(data, form), form, out, scenario=scenario)
    return out


def test_a_dataset_measures_as_the_evaluation_that_ran_it(data: Path, evaluated: Evaluation) -> None:
    measured = measure_dataset(data)
    assert measured.overall == evaluated.overall
    assert measured.by_type == {name: evaluated.by_family[name] for name in sorted(evaluated.by_family)}
    assert (measured.elsewhere, measured.graded) == (0, N)


def test_so_does_its_log_where_the_tasks_are_known(
    data: Path, evaluated: Evaluation, scenario: Scenario, tmp_path: Path
) -> None:
    measured = measure_dataset(imported(data, tmp_path / "in", LogFormat.ATIF, scenario))
    assert replace(measured.overall, policy_s=None) == replace(evaluated.overall, policy_s=None)


def test_of_a_log_from_elsewhere_only_what_it_shows_is_told(data: Path, evaluated: Evaluation, tmp_path: Path) -> None:
    measured = measure_dataset(imported(data, tmp_path / "in", LogFormat.OPENAI))
    ours, theirs = evaluated.overall, measured.overall
    for name in ("schema_validity", "hallucination", "repeated", "errors", "steps", "tokens", "tool_errors"):
        same = getattr(ours, name), getattr(theirs, name)
        values = [m.value if isinstance(m, Metric) else {k: v.value for k, v in m.items()} for m in same]
        assert values[0] == pytest.approx(values[1]), name
    assert (theirs.success, theirs.pass_k, theirs.steps_per_solved) == (None, (), None)
    assert (theirs.tool_f1, theirs.step_correctness, theirs.tools, theirs.confusion) == (None, None, {}, {})
    assert (measured.elsewhere, measured.graded) == (N, 0)


def log_of(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    import_logs(log, LogFormat.OPENAI, tmp_path / "in")
    return tmp_path / "in"


def conversation(*calls: tuple[str, dict[str, Any], str], **about: Any) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Order A-1, please."}]
    for number, (name, arguments, content) in enumerate(calls):
        function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
        messages.append({"role": "assistant", "tool_calls": [{"id": f"{number}", "function": function}]})
        messages.append({"role": "tool", "tool_call_id": f"{number}", "content": content})
    messages.append({"role": "assistant", "content": "Done."})
    parameters = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
    return {"messages": messages, "tools": [{"name": "look", "parameters": parameters}], **about}


def test_a_production_log_has_the_numbers_that_were_put_in(tmp_path: Path) -> None:
    known, unseen = {"order_id": "A-1"}, {"order_id": "B-2"}
    folder = log_of(
        tmp_path,
        conversation(("look", known, "{}"), ("look", known, "{}"), task_type="status", success=True, model="one"),
        conversation(("look", unseen, "Error: gone"), task_type="status", success=False, model="one"),
        conversation(("look", {}, "{}"), ("see", known, "{}"), task_type="refund", model="two"),
    )
    measured = measure_dataset(folder)
    scores = measured.overall
    assert scores.success is not None
    assert (scores.success.value, scores.success.n, measured.graded) == (0.5, 2, 2)
    assert scores.schema_validity is not None
    assert (scores.schema_validity.value, scores.schema_validity.n) == (3 / 5, 5)
    assert scores.hallucination is not None
    assert (scores.hallucination.value, scores.hallucination.n) == (1 / 3, 3)
    assert scores.repeated is not None
    assert scores.repeated.value == 1 / 5
    assert {kind: m.value for kind, m in scores.errors.items()} == {
        "invalid_arguments": 0.2,
        "tool_error": 0.2,
        "unknown_tool": 0.2,
    }
    assert {name: (m.value, m.n) for name, m in scores.tool_errors.items()} == {"look": (0.5, 4)}
    assert scores.steps_per_solved is not None
    assert scores.steps_per_solved.value == 5, "the steps of both whose outcome is known, over the one that is solved"
    assert measured.by_type["refund"].success is None
    assert [name for name, _ in measured.groups()] == ["all", "one", "two", "refund", "status"]


# -- cost ----------------------------------------------------------------------------------------------


def test_money_counts_failed_episodes_too(data: Path, scenario: Scenario) -> None:
    records = list(read_trajectories(data))[:40]
    quarter = Usage(usd=0.25)
    paid = [replace(trajectory, usage=(quarter, None, Usage(), quarter)) for trajectory in records]
    scores = summarize(measure(t, scenario.toolbox) for t in paid)
    solved = sum(t.success for t in records)
    assert scores.usd is not None
    assert scores.usd_per_solved is not None
    assert (scores.usd.value, scores.usd.n) == (0.5, 40)
    assert scores.usd_per_solved.value == pytest.approx(40 * 0.5 / solved)
    assert summarize(measure(t, scenario.toolbox) for t in records).usd is None


# -- bad input -----------------------------------------------------------------------------------------


def test_what_can_not_be_measured_is_named(data: Path, tmp_path: Path) -> None:
    records = list(read_trajectories(data))
    with pytest.raises(RecordError, match="no such file"):
        measure_dataset(tmp_path / "none")
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"")
    with pytest.raises(RecordError, match="the file is empty"):
        measure_dataset(empty)
    cut = tmp_path / "cut.jsonl"
    write_jsonl(records[:3], cut)
    cut.write_bytes(cut.read_bytes()[:-50])
    with pytest.raises(RecordError, match=r"cut\.jsonl:3: .*the last line is truncated"):
        measure_dataset(cut)
    other = tmp_path / "other.jsonl"
    write_jsonl([records[0], replace(records[1], scenario_version="other")], other)
    with pytest.raises(RecordError, match="of crm at version other; here is crm at version"):
        measure_dataset(other)
    lost = tmp_path / "lost.jsonl"
    write_jsonl([replace(records[0], steps=(), success=False, truncated=True, sandbox_lost=True, grade={})], lost)
    with pytest.raises(ValueError, match="1 lost their sandbox"):
        measure_dataset(lost)


def test_parquet_of_another_version_is_named(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.parquet"
    write_parquet(read_trajectories(data), path)
    table = pq.read_table(path).replace_schema_metadata({b"toolenv.schema_version": b"0"})
    pq.write_table(table, path)
    with pytest.raises(RecordError, match=r"old\.parquet: toolenv\.schema_version: this is version 0"):
        measure_dataset(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(RecordError, match="was not written by toolenv"):
        measure_dataset(path)


def test_a_log_without_its_tools_needs_a_scenario(data: Path, tmp_path: Path, scenario: Scenario) -> None:
    folder = imported(data, tmp_path / "in", LogFormat.OPENAI)
    (folder / "tools.json").write_bytes(b"[")
    with pytest.raises(RecordError, match=r"tools\.json"):
        measure_dataset(folder)
    (folder / "tools.json").unlink()
    with pytest.raises(RecordError, match="the tools are not known; name a scenario"):
        measure_dataset(folder)
    assert measure_dataset(folder, scenario=scenario).overall.hallucination is not None


# -- showing -------------------------------------------------------------------------------------------


def shown(render: Any, what: Any) -> str:
    stream = io.StringIO()
    render(what, Console(file=stream, width=80))
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    return stream.getvalue()


def test_every_metric_is_shown_with_its_interval(evaluated: Evaluation) -> None:
    text = shown(render_metrics, evaluated.overall)
    success = evaluated.success
    assert f"{success.value:.3f} [{success.low:.3f}, {success.high:.3f}]" in text
    for name in ("steps that are right", "regret", "preferred", "invented", "per solved", "F1", "repeat"):
        assert name in text
    assert all(f"error {kind}" in text for kind in evaluated.overall.errors)


def test_every_tool_and_the_mistakes_are_shown(evaluated: Evaluation) -> None:
    text = shown(render_tools, evaluated.overall)
    assert all(name in text for name in evaluated.overall.tools if not name.startswith("("))
    wrong = {(d, c): n for d, row in evaluated.overall.confusion.items() for c, n in row.items() if d != c}
    (due, chosen), count = max(wrong.items(), key=lambda cell: cell[1])
    assert any(f"{due} → {chosen}" in line and line.rstrip().endswith(str(count)) for line in text.splitlines())
    assert f"{len(wrong) - 15} rarer kinds" in text


def test_an_unknown_outcome_is_said_to_be_unknown(data: Path, tmp_path: Path) -> None:
    measured = measure_dataset(imported(data, tmp_path / "in", LogFormat.OPENAI))
    text = shown(render_measured, measured)
    assert "unknown" in text
    assert f"outcome known of 0 of {N}; {N} are logs from elsewhere" in text
    assert "→" not in shown(render_tools, measured.overall)


def test_the_commands_work_on_a_log(data: Path, tmp_path: Path) -> None:
    log = export_dataset(data, "openai")
    run = CliRunner()
    told = run.invoke(app, ["import", str(log), "-o", str(tmp_path / "in"), "-q"], catch_exceptions=False)
    assert (told.exit_code, f"{N} imported, 0 skipped" in told.output) == (0, True)
    kept = tmp_path / "kept" / "measured.json"
    arguments = ["measure", str(tmp_path / "in"), "--json", "-o", str(kept)]
    printed = run.invoke(app, arguments, catch_exceptions=False).output
    assert orjson.loads(printed) == orjson.loads(kept.read_bytes())
    assert orjson.loads(printed)["overall"]["episodes"] == N
    assert "look" not in run.invoke(app, ["measure", str(tmp_path / "in"), "--tools"], catch_exceptions=False).output
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(log.read_bytes() + b"{")
    told = run.invoke(app, ["import", str(damaged), "-o", str(tmp_path / "two")], catch_exceptions=False)
    assert told.exit_code == 1
    assert "damaged.jsonl:121: record: not JSON" in told.output.replace("\n", "")
    told = run.invoke(app, ["import", str(damaged), "-o", str(tmp_path / "three"), "--json"], catch_exceptions=False)
    assert orjson.loads(told.output)["imported"] == N


def test_evaluate_shows_tools_and_judges_only_if_asked() -> None:
    run = CliRunner()
    told = run.invoke(app, ["evaluate", "crm", "-n", "6", "--tools", "-q"], catch_exceptions=False).output
    assert "steps that are right" in told
    assert "precision" in told
    told = run.invoke(app, ["evaluate", "crm", "-n", "6", "--no-judge-steps", "-q"], catch_exceptions=False).output
    assert "steps that are right" not in told


def test_an_older_kept_evaluation_is_still_read(evaluated: Evaluation) -> None:
    """Of before there were difficulties, repeated calls, money and errors by tool."""
    kept = orjson.loads(evaluated.to_json())
    del kept["difficulties"]
    for scores in [kept["overall"], *kept["by_family"].values()]:
        for name in ("repeated", "usd", "usd_per_solved", "policy_s_per_solved", "tool_errors"):
            del scores[name]
    back = Evaluation.from_json(orjson.dumps(kept))
    assert back.overall.success == evaluated.overall.success
    assert shown(render_evaluation, back) == shown(render_evaluation, evaluated)


def test_measured_is_json(data: Path) -> None:
    measured = measure_dataset(data, judge_steps=False)
    assert isinstance(measured, Measured)
    assert measured.overall.step_correctness is None
    assert orjson.loads(measured.to_json())["schema_version"] == 1
