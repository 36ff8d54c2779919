"""How well drift is found in logs: precision and recall over planted drifts, false alarms on clean logs, and speed.

    python benchmarks/drift_detection.py --drifts 20 --clean 100 --trajectories 10000

For each kind and seed a log is played, by an oracle that errs in some episodes, with `crm`'s own tools up to a third of
the log and with drifted ones from there on. It is then checked against the tools as they are, in three ways: with the
scenario, so that records are carried out again ("executed"); as a log from elsewhere beside today's schemas alone
("schemas"); and the same with the drifted specs declared ("declared").

A planted change counts where the log can show it: a name, argument or type where an accepted call uses it, a field,
format or wording where a result has it. A finding is right if it names a planted change: kind, tool and field, from the
side of the log. (A new required argument of the log is one that today has not any more.) "Since" is right if it is the
first record that shows the change. Found are also the changes that another finding implies, such as the version of a
tool: they count as right if the tool drifted, and never as found.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from toolenv.agents.drift import behind_drift
from toolenv.agents.drift_check import DriftReport, check_drift
from toolenv.agents.faulty import FaultyPolicy
from toolenv.agents.intervals import proportion
from toolenv.agents.records import write_jsonl
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import ELSEWHERE, Trajectory
from toolenv.envs.actions import Call
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.tools.drift import EVERY, PLANTED, Change, DriftedToolbox, Kind
from toolenv.tools.drifting import drifted
from toolenv.tools.errors import INVALID_CALLS
from toolenv.tools.toolbox import Toolbox

Key = tuple[str, str, str]
WAYS = ("executed", "schemas", "declared")
_INVERSE = {Kind.REQUIRED_ARGUMENT: Kind.REMOVED_ARGUMENT, Kind.REMOVED_TOOL: Kind.ADDED_TOOL}
_SPEC_ONLY = (Kind.DESCRIPTION, Kind.ORDER, Kind.REMOVED_TOOL)
_RESULTS = (Kind.RESULT_FIELD, Kind.RESULT_FORMAT, Kind.ERROR_TEXT)


def played(scenario: Scenario, drift: DriftedToolbox | None, seeds: range, faults: float) -> list[Trajectory]:
    """Episodes in the order of their seeds."""
    policy = FaultyPolicy(faults)
    acting = policy if drift is None else behind_drift(policy)
    done = rollout(scenario, acting, map(Attempt, seeds), families="all", drift=drift)
    return sorted(done, key=lambda trajectory: trajectory.seed)


def elsewhere(trajectory: Trajectory) -> Trajectory:
    """The episode as a log from elsewhere that names no task of ours."""
    task = f"{ELSEWHERE}/{trajectory.family}/{trajectory.seed}"
    return replace(
        trajectory, scenario=ELSEWHERE, scenario_version="", toolbox_version="", tool_versions={}, task=task, grade={}
    )


def key_of(change: Change, drift: DriftedToolbox) -> Key:
    """A planted change as a check of the drifted log against the original tools names it."""
    kind = _INVERSE.get(change.kind, change.kind)
    tool = change.tool
    if tool != EVERY and kind is not Kind.ADDED_TOOL:
        tool = drift._new_names[tool]
    field = change.field
    if kind is Kind.RENAME_ARGUMENT:
        field = change.after
    elif kind is Kind.RETYPE_ARGUMENT:
        field = next(
            (
                c.after
                for c in drift.changes
                if c.kind is Kind.RENAME_ARGUMENT and c.tool == change.tool and c.field == change.field
            ),
            field,
        )
    elif kind is Kind.RESULT_FIELD:
        field = change.after
    return kind, tool, field


def shown_first(log: list[Trajectory], begins: int, key: Key, declared: bool) -> int | None:
    """The first record in which a planted change can be seen; None if there is none."""
    kind, tool, field = key
    if kind in (Kind.DESCRIPTION, Kind.ORDER, Kind.ADDED_TOOL):
        return begins if declared else None
    for number in range(begins, len(log) + 1):
        for step in log[number - 1].steps:
            action = step.parsed
            if not isinstance(action, Call):
                continue
            if kind is Kind.ERROR_TEXT:
                if step.error is not None and step.error not in ("unknown_tool",):
                    return number
            elif kind is Kind.RESULT_FIELD:
                if f'"{field}":' in step.observation:
                    return number
            elif kind is Kind.RESULT_FORMAT:
                marks = {"money": ' EUR"', "date": "20"}
                if step.error is None and marks[field] in step.observation and _formatted(step.observation, field):
                    return number
            elif action.name != tool or step.error in INVALID_CALLS:
                continue
            elif (
                kind is Kind.RENAME_TOOL
                or action.arguments.get(field) is not None
                or (kind is Kind.RENAME_ARGUMENT and field in action.arguments)
            ):
                return number
    return None


def _formatted(observation: str, field: str) -> bool:
    from toolenv.agents.result_changes import date_format

    return field == "money" or date_format(observation) not in (None, "2026-01-05")


def scored(
    report: DriftReport, planted: dict[Key, int | None], drift: DriftedToolbox | None, score: Counter[str]
) -> list[str]:
    """Count what was found, missed and invented; the lines of what was not right."""
    wrong = []
    found = {(f.change.kind, f.change.tool, f.change.field): f for f in report.findings}
    for key, first in planted.items():
        if first is None:
            continue
        score["planted"] += 1
        if key in found:
            score["found"] += 1
            if found[key].evidence != "declared":
                score["dated"] += 1
                score["since right"] += found[key].since == first
        else:
            wrong.append(f"missed {key}")
    touched = set() if drift is None else {*drift.names, *drift.original.names, EVERY}
    for key, finding in found.items():
        implied = key[0] is Kind.VERSION and drift is not None and key[1] in touched
        if key in planted:
            score["right"] += 1
        elif not implied:
            score["invented"] += 1
            wrong.append(f"invented {finding.change} ({finding.evidence}, {finding.sure:.3f})")
    return wrong


def trials(
    scenario: Scenario, drifts: int, records: int, faults: float
) -> Iterator[tuple[Kind, DriftedToolbox, list[Trajectory], int]]:
    third = records // 3
    for kind in PLANTED:
        for seed in range(drifts):
            severity = 0.1 if kind is Kind.REMOVED_TOOL else 0.3
            drift = drifted(scenario.toolbox, [kind], severity=severity, seed=seed)
            first = 1_000 * seed
            before = played(scenario, None, range(first, first + third), faults)
            after = played(scenario, drift, range(first + third, first + records), faults)
            yield kind, drift, before + after, third + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drifts", type=int, default=12, help="seeds a kind")
    parser.add_argument("--clean", type=int, default=100, help="clean logs")
    parser.add_argument("--records", type=int, default=150, help="a log")
    parser.add_argument("--faults", type=float, default=0.3, help="share of episodes with a fault")
    parser.add_argument("--trajectories", type=int, default=0, help="of the log that is timed")
    given = parser.parse_args()
    scenario = load_scenario("crm")
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(scenario, Path(folder))
        if given.drifts:
            planted(checks, given.drifts, given.records, given.faults)
        if given.clean:
            clean(checks, given.clean, given.records, given.faults)
        if given.trajectories:
            timed(checks, given.trajectories, given.faults)


class Checks:
    """The three ways to check a log."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.ours, self.theirs = folder / "ours.jsonl", folder / "theirs.jsonl"

    def write(self, log: list[Trajectory]) -> None:
        write_jsonl(log, self.ours)
        write_jsonl(map(elsewhere, log), self.theirs)

    def run(self, way: str, declared: Toolbox) -> DriftReport:
        today = self.scenario.toolbox
        if way == "schemas":
            return check_drift(self.theirs, today)
        specs = declared if way == "declared" else None
        return check_drift(self.ours, today, scenario=self.scenario, declared=specs)


def planted(checks: Checks, drifts: int, records: int, faults: float) -> None:
    """Logs in which tools drift."""
    scores: dict[tuple[str, str], list[Counter[str]]] = defaultdict(list)
    for kind, drift, log, begins in trials(checks.scenario, drifts, records, faults):
        checks.write(log)
        for way in WAYS:
            first = {
                key: shown_first(log, begins, key, way == "declared")
                for key in (key_of(change, drift) for change in drift.changes)
            }
            if way == "declared" and kind not in _RESULTS:
                first = {key: number or begins for key, number in first.items()}
            if way == "schemas" and kind in _RESULTS:
                first = {_earlier(change): first[key_of(change, drift)] for change in drift.changes}
            score: Counter[str] = Counter()
            for line in scored(checks.run(way, drift), first, drift, score):
                print(f"{way} {kind} seed {log[0].seed // 1000}: {line}", flush=True)
            scores[way, kind].append(score)
    print("| way | kind | logs | planted, visible | recall | precision | since right |")
    for way in WAYS:
        rows = {kind: scores[way, kind] for kind in PLANTED}
        for kind, logs in {**rows, "all": [log for row in rows.values() for log in row]}.items():
            total = sum(logs, Counter())
            told = [[log["right"], log["right"] + log["invented"]] for log in logs]
            recall = shown([log["found"] for log in logs], [log["planted"] for log in logs])
            precision = shown(*zip(*told, strict=True))
            since = f"{total['since right']} of {total['dated']}"
            print(f"| {way} | {kind} | {len(logs)} | {total['planted']} | {recall} | {precision} | {since} |")


def shown(hits: Sequence[int], of: Sequence[int]) -> str:
    """A share with its interval, over logs as clusters."""
    share = proportion(hits, of)
    return "–" if share is None else f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"


def clean(checks: Checks, logs: int, records: int, faults: float) -> None:
    """Logs in which nothing drifts."""
    alarms = Counter(dict.fromkeys(WAYS, 0))
    for seed in range(logs):
        first = 500_000 + 1_000 * seed
        checks.write(played(checks.scenario, None, range(first, first + records), faults))
        for way in WAYS:
            report = checks.run(way, checks.scenario.toolbox)
            alarms[way] += report.drifted
            for finding in report.findings:
                print(f"clean {way} seed {seed}: invented {finding.change} {finding.sure}", flush=True)
    print(f"clean logs with an alarm, of {logs}: {dict(alarms)}")


def timed(checks: Checks, records: int, faults: float) -> None:
    """How long a large log takes."""
    checks.write(played(checks.scenario, None, range(records), faults))
    for way in WAYS[:2]:
        began, cpu = time.perf_counter(), time.process_time()
        report = checks.run(way, checks.scenario.toolbox)
        seconds, own = time.perf_counter() - began, time.process_time() - cpu
        told = f"{report.records} records, {report.executed} executed, drift {report.drifted}"
        print(f"{way}: {seconds:.1f} s, {own:.1f} s of one core; {told}")


def _earlier(change: Change) -> Key:
    """A change of results as it is told where only their order is seen: it is named by its earlier form."""
    return change.kind, EVERY, change.field


if __name__ == "__main__":
    main()
