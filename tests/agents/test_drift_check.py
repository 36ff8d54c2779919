"""Drift in logs: planted drift is found and named since when it shows, and clean logs raise no alarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolenv.agents.drift import behind_drift
from toolenv.agents.drift_check import DriftReport, Finding, check_drift, read_tools
from toolenv.agents.exports import export
from toolenv.agents.faulty import FaultyPolicy
from toolenv.agents.formats import LogFormat
from toolenv.agents.imports import import_logs
from toolenv.agents.records import write_jsonl
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.students import students_in, tools_of, touched_by
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import load_scenario
from toolenv.tools.drift import EVERY, Change, DriftedToolbox, Kind
from toolenv.tools.drifting import drifted
from toolenv.tools.errors import RecordError

CRM = load_scenario("crm")
Check = Callable[..., DriftReport]
STATUS = Change(Kind.RENAME_TOOL, "get_order_status", before="get_order_status", after="tell_order_status")


def play(drift: DriftedToolbox | None, seeds: range, *, faults: float = 0.3) -> list[Trajectory]:
    policy = FaultyPolicy(faults)
    acting = policy if drift is None else behind_drift(policy)
    done = rollout(CRM, acting, map(Attempt, seeds), families="all", drift=drift)
    return sorted(done, key=lambda trajectory: trajectory.seed)


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Check a log against today's tools, with the scenario if not told otherwise."""

    def run(log: list[Trajectory], today: DriftedToolbox | None = None, **options: object) -> DriftReport:
        write_jsonl(log, tmp_path / "log.jsonl")
        given = {"scenario": CRM} | options
        return check_drift(tmp_path / "log.jsonl", today or CRM.toolbox, **given)  # type: ignore[arg-type]  # as given

    return run


def named(report: DriftReport) -> dict[tuple[str, str, str], Finding]:
    return {(f.change.kind, f.change.tool, f.change.field): f for f in report.findings}


def test_clean_logs_of_many_seeds_raise_no_alarm(check: Check) -> None:
    for seed in range(0, 12_000, 1_000):
        report = check(play(None, range(seed, seed + 25)))
        assert (report.findings, report.executed) == ((), 25)


def calls_of(log: list[Trajectory], tool: str) -> list[int]:
    return [number for number, t in enumerate(log, 1) if any(s.tool == tool and s.error is None for s in t.steps)]


def test_a_renamed_tool_is_told_since_the_first_record_that_calls_it(check: Check) -> None:
    drift = DriftedToolbox(CRM.toolbox, [STATUS])
    log = play(None, range(30)) + play(drift, range(30, 90))
    (found,) = check(log).findings
    assert (found.change.before, found.change.after) == ("tell_order_status", "get_order_status")
    numbers = calls_of(log, "tell_order_status")
    assert (found.since, found.until) == (numbers[0], numbers[-1])
    assert found.record == log[numbers[0] - 1].id
    assert found.since > 30
    assert (found.evidence, found.sure, found.tools) == ("calls", 1.0, ("get_order_status",))


def test_old_logs_beside_new_tools_are_told_in_that_direction(check: Check) -> None:
    changes = [
        STATUS,
        Change(Kind.REQUIRED_ARGUMENT, "find_customer_by_email", "locale", None, {"type": "string", "enum": ["en"]}),
        Change(Kind.RESULT_FIELD, EVERY, "tier", "tier", "level"),
        Change(Kind.RESULT_FORMAT, EVERY, "date", "2026-01-05", "05 Jan 2026"),
        Change(Kind.ERROR_TEXT, EVERY, before="{}", after="Request failed: {}"),
    ]
    today = DriftedToolbox(CRM.toolbox, changes)
    report = check(play(None, range(80)), today)
    found = named(report)
    assert found.keys() == {(c.kind, c.tool, c.field) for c in changes}
    assert all((found[c.kind, c.tool, c.field].change.after) == c.after for c in changes)
    assert report.executed == 80


SEEN_IN_CALLS = (Kind.RENAME_TOOL, Kind.RENAME_ARGUMENT, Kind.RETYPE_ARGUMENT)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(SEEN_IN_CALLS), seed=st.integers(0, 10_000))
def test_what_calls_show_is_found_and_named(check: Check, kind: Kind, seed: int) -> None:
    drift = drifted(CRM.toolbox, [kind], seed=seed)
    log = play(None, range(seed, seed + 20)) + play(drift, range(seed + 20, seed + 50))
    found = check(log).findings
    names = {change.after if kind is Kind.RENAME_TOOL else change.field for change in drift.changes}
    told = {f.change.before if kind is Kind.RENAME_TOOL else str(f.change.after) for f in found}
    assert found
    assert {f.change.kind for f in found} <= {kind, Kind.REMOVED_ARGUMENT, Kind.VERSION}
    assert all(f.since is not None and f.since > 20 for f in found)
    if kind is Kind.RENAME_TOOL:
        assert told <= names
        assert all(f.change.after in CRM.toolbox for f in found)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [Kind.RESULT_FIELD, Kind.RESULT_FORMAT, Kind.ERROR_TEXT])
def test_what_results_show_is_found_by_execution(check: Check, kind: Kind, seed: int) -> None:
    drift = drifted(CRM.toolbox, [kind], severity=1.0, seed=seed)
    report = check(play(None, range(10)) + play(drift, range(10, 90)))
    planted = {(c.kind, c.before, c.after) for c in drift.changes}
    found = {(f.change.kind, f.change.after, f.change.before) for f in report.findings}
    assert found
    assert found <= planted
    assert kind is Kind.RESULT_FIELD or found == planted
    assert {f.evidence for f in report.findings} == {"executed"}


# -- logs of others ----------------------------------------------------------------------------------------------


def imported(log: list[Trajectory], tools: list[object], folder: Path) -> Path:
    """The log as another agent's in production: OpenAI's messages, in a dataset that `import` makes."""
    rows = [{**row, "id": t.id} for row, t in zip(export(log, "openai", tools), log, strict=True)]
    (folder / "logs.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    import_logs(folder / "logs.jsonl", LogFormat.OPENAI, folder / "imported")
    return folder / "imported"


def test_an_imported_log_beside_a_file_of_todays_tools(tmp_path: Path) -> None:
    today = drifted(CRM.toolbox, [Kind.RENAME_TOOL, Kind.DESCRIPTION, Kind.REMOVED_TOOL], severity=0.1, seed=4)
    (tmp_path / "today.json").write_bytes(orjson.dumps(today.to_openai()))
    logs = imported(play(None, range(60)), CRM.toolbox.to_openai(), tmp_path)
    tools = read_tools(tmp_path / "today.json")
    report = check_drift(logs, tools)
    assert named(report).keys() == {(c.kind, c.tool, c.field) for c in today.changes}
    assert {f.evidence for f in report.findings} == {"declared"}
    (tmp_path / "same.json").write_bytes(orjson.dumps(CRM.toolbox.to_openai()))
    assert check_drift(logs, read_tools(tmp_path / "same.json")).findings == ()


def test_results_that_change_within_an_imported_log_are_told_since_then(tmp_path: Path) -> None:
    changes = [
        Change(Kind.RESULT_FIELD, EVERY, "tier", "tier", "level"),
        Change(Kind.RESULT_FORMAT, EVERY, "money", 12.5, "12.50 EUR"),
    ]
    drift = DriftedToolbox(CRM.toolbox, changes)
    log = play(None, range(80)) + play(drift, range(80, 200))
    logs = imported(log, CRM.toolbox.to_openai(), tmp_path)
    report = check_drift(logs, CRM.toolbox)
    found = named(report)
    assert found.keys() == {(c.kind, c.tool, c.field) for c in changes}
    for finding in report.findings:
        assert finding.evidence == "results"
        assert finding.sure > 0.99
        assert finding.since is not None
        assert finding.since > 80
    first = next(n for n, t in enumerate(log, 1) if any('"level":' in step.observation for step in t.steps))
    assert found[Kind.RESULT_FIELD, EVERY, "tier"].since == first


def test_an_imported_log_has_the_scenarios_oracle_as_its_reference(tmp_path: Path) -> None:
    drift = DriftedToolbox(CRM.toolbox, [Change(Kind.RESULT_FIELD, EVERY, "status", "status", "state")])
    logs = imported(play(drift, range(60)), CRM.toolbox.to_openai(), tmp_path)
    (found,) = check_drift(logs, CRM.toolbox, scenario=CRM).findings
    assert (found.change.before, found.change.after, found.evidence) == ("state", "status", "results")
    assert found.seen == found.of


# -- other findings ----------------------------------------------------------------------------------------------


def test_another_result_for_the_same_call_is_other_behaviour(check: Check) -> None:
    log = play(None, range(40), faults=0.0)
    number, found = next((n, s) for n, t in enumerate(log) for s in t.steps if '"tier":"standard"' in s.observation)
    other = replace(found, observation=found.observation.replace('"tier":"standard"', '"tier":"silver"'))
    steps = tuple(other if step is found else step for step in log[number].steps)
    log[number] = replace(log[number], steps=steps)
    (told,) = check(log).findings
    assert (told.change.kind, told.change.field) == (Kind.BEHAVIOUR, "tier")
    assert (told.change.before, told.change.after) == ("silver", "standard")
    assert (told.since, told.seen) == (number + 1, 1)


def test_versions_tell_what_nothing_else_does(check: Check) -> None:
    drift = drifted(CRM.toolbox, [Kind.DESCRIPTION], severity=1.0, seed=0)
    report = check(play(None, range(10)) + play(drift, range(10, 30)))
    assert {f.change.kind for f in report.findings} == {Kind.VERSION}
    assert all(f.since is not None and f.since > 10 for f in report.findings)
    assert report.versions == {CRM.toolbox.version: (1, 10, 10), drift.version: (11, 30, 20)}
    (order,) = check(play(drifted(CRM.toolbox, [Kind.ORDER], seed=0), range(5))).findings
    assert (order.change.kind, order.change.tool) == (Kind.VERSION, EVERY)


def test_a_check_is_the_same_twice(check: Check) -> None:
    log = play(drifted(CRM.toolbox, [Kind.RENAME_ARGUMENT, Kind.RESULT_FIELD], seed=2), range(40))
    assert check(log) == check(log)


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]", '[{"name": "a", "parameters": {"type": 3}}]'])
def test_a_damaged_file_of_tools_is_told_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "tools.json").write_text(text)
    with pytest.raises(RecordError, match=r"tools\.json: "):
        read_tools(tmp_path / "tools.json")


# -- students ----------------------------------------------------------------------------------------------------


def student(folder: Path, training: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "toolenv.json").write_text("{}")
    (folder / "training.json").write_bytes(orjson.dumps(training))
    return folder


def test_the_students_that_a_change_touches(check: Check, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    student(runs / "orders", {"tools": {"get_order_status": "a", "search_orders": "b"}})
    student(runs / "tickets", {"tools": {"get_ticket_by_id": "c"}})
    student(runs / "old", {"steps": 3})
    report = check(play(DriftedToolbox(CRM.toolbox, [STATUS]), range(40)))
    touched = {Path(t.student).name: t.tools for t in touched_by(report.findings, students_in([runs]))}
    assert touched == {"orders": ("get_order_status",), "old": None}
    assert touched_by((), students_in([runs])) == []


def test_what_is_no_student_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no student there: no toolenv\.json"):
        students_in([tmp_path])
    broken = student(tmp_path / "broken", {"tools": ["a"]})
    with pytest.raises(RecordError, match=r"training\.json: tools: "):
        tools_of(broken)
