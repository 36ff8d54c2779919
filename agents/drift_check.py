"""Drift in logs: what logged calls and results show that today's tools do otherwise, since when, and how sure.

Evidence, the surest first:

- declared: the specs that a log keeps (`tools.json`), or the versions of tools that its records name, beside today's.
- executed: an episode of the scenario's own tasks is carried out again on its seed, call by call in today's form
  (`Lens`), and each result is compared with the logged one. What has another name, format or wording is told so; what
  is left is other behaviour.
- calls: what accepted calls hold, beside today's schemas.
- results: of what can not be carried out, results by their shape (`ResultShapes`), with episodes of the scenario's
  oracle as the reference of today, if there is a scenario.

"Before" in a change is the logged form and "after" today's; of results that are only looked at in their order, without
a reference, the earlier and the later. A record has no clock, so "since" is the first record that shows a change.

What this omits: tools that no record calls and no spec declares; and, without a scenario, results that were other ones
from the first record on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final

import orjson

from toolenv.agents.dataset import TOOLS_FILE
from toolenv.agents.drift import behind_drift
from toolenv.agents.drift_execution import Execution
from toolenv.agents.lens import Lens
from toolenv.agents.logged_tools import logged_toolbox
from toolenv.agents.logged_use import ERROR_SAYS, LoggedUse, Seen, Sighted, content_of, error_of, use_changes
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.records import read_trajectories
from toolenv.agents.result_changes import as_change
from toolenv.agents.result_shapes import Cut, ResultShapes
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import ELSEWHERE, Trajectory
from toolenv.envs.actions import Call
from toolenv.scenarios.loading import Scenario
from toolenv.tools.drift import EVERY, Change, DriftedToolbox, Kind
from toolenv.tools.errors import RecordError
from toolenv.tools.spec_changes import SpecChange, spec_changes
from toolenv.tools.toolbox import Toolbox

SCHEMA_VERSION: Final = 1
REFERENCE: Final = 300
"""Episodes of the oracle that show what today's results look like."""
_LEAST_SURE: Final = 0.99
_ALL_RECORDS: Final = (Kind.ORDER, Kind.REMOVED_TOOL, Kind.ADDED_TOOL)


@dataclass(frozen=True, slots=True)
class Finding:
    """A change that a log shows.

    Attributes:
        evidence: "declared", "executed", "calls" or "results".
        sure: 0 to 1: 1 of what is declared or was carried out; of a pairing, its likeness; of results by their shape,
            1 less the chance that they lie so.
        tools: whose calls or results show it; names as of today where there is one.
        seen, of: in how many calls or results, of how many that could show it.
        since, until: the first and the last record, numbered from 1; None if no record shows it.
        record: the id of the first.
    """

    change: Change
    evidence: str
    sure: float
    tools: tuple[str, ...]
    seen: int
    of: int
    since: int | None
    until: int | None
    record: str | None


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What a log shows.

    Attributes:
        executed: of the records, how many were carried out again.
        today: version of today's toolbox.
        versions: version that records name -> the first record, the last, and how many; "" where none can be compared.
    """

    schema_version: int
    logs: str
    records: int
    executed: int
    today: str
    versions: dict[str, tuple[int, int, int]]
    findings: tuple[Finding, ...]

    @property
    def drifted(self) -> bool:
        return bool(self.findings)


def check_drift(
    logs: str | Path,
    today: Toolbox,
    *,
    scenario: Scenario | None = None,
    declared: Toolbox | None = None,
    progress: Callable[[int], None] | None = None,
    **env_options: Any,
) -> DriftReport:
    """Compare the episodes of a dataset's folder or file with today's tools.

    Args:
        today: the tools of today: the scenario's, a drifted toolbox of it, or `logged_toolbox` of their specs.
        scenario: whose tasks are carried out again.
        declared: the specs that were in force; those beside the records if left out, or none.
        progress: called with 1 after each episode.
        env_options: further arguments of `open_env`, such as `sandbox`.

    Raises:
        RecordError: the logs are missing, empty or damaged.
        SandboxLost: no world could be opened.
    """
    path = Path(logs)
    declared = declared_tools(path) if declared is None else declared
    check = _Check(today, scenario, declared)
    for trajectory in read_trajectories(path):
        check.read(trajectory)
    check.infer()
    if scenario is not None:
        check.execution = Execution(scenario, today, check.lens, **env_options)
    try:
        for number, trajectory in enumerate(read_trajectories(path), 1):
            check.compare(number, trajectory)
            if progress is not None:
                progress(1)
    finally:
        if check.execution is not None:
            check.execution.close()
    return DriftReport(
        schema_version=SCHEMA_VERSION,
        logs=str(logs),
        records=len(check.ids),
        executed=0 if check.execution is None else check.execution.executed,
        today=today.version,
        versions={version: (seen.first, seen.last, seen.count) for version, seen in check.versions.items()},
        findings=tuple(sorted(check.findings(), key=_order)),
    )


def declared_tools(logs: Path) -> Toolbox | None:
    """The tools that a dataset declares beside its records; None if it does not.

    Raises:
        RecordError: the file is damaged.
    """
    file = (logs.parent if logs.is_file() else logs) / TOOLS_FILE
    return read_tools(file) if file.is_file() else None


def read_tools(file: Path) -> Toolbox:
    """The toolbox of a file of specs in OpenAI's form.

    Raises:
        RecordError: missing or damaged; names file and rule.
    """
    try:
        return logged_toolbox(orjson.loads(file.read_bytes()))
    except FileNotFoundError:
        raise RecordError(f"{file}: no such file") from None
    except (orjson.JSONDecodeError, RecordError) as error:
        raise RecordError(f"{file}: {error}") from None


class _Check:
    """One check, step by step: read all, infer how calls are made today, compare results, tell."""

    def __init__(self, today: Toolbox, scenario: Scenario | None, declared: Toolbox | None) -> None:
        self.today, self.scenario, self.declared = today, scenario, declared
        self.ids: list[str] = []
        self.versions: dict[str, Seen] = {}
        self.use, self.lens = LoggedUse(), Lens(today)
        self.execution: Execution | None = None
        self._tool_versions: dict[tuple[str, str], Seen] = {}
        self._shapes = ResultShapes()
        self._declared: list[SpecChange] = []
        self._sighted: list[Sighted] = []
        self._reference: list[Trajectory] | None = None
        self._unexecuted = 0

    # -- reading -------------------------------------------------------------------------------------------

    def read(self, trajectory: Trajectory) -> None:
        self.ids.append(trajectory.id)
        number = len(self.ids)
        # Versions of tools that are known from a log alone are of another kind than those of tools that run.
        comparable = self.scenario is not None and trajectory.scenario != ELSEWHERE
        self.versions.setdefault(trajectory.toolbox_version if comparable else "", Seen()).add(number)
        for tool, version in trajectory.tool_versions.items() if comparable else ():
            self._tool_versions.setdefault((tool, version), Seen()).add(number)
        self.use.add(number, trajectory)

    def infer(self) -> None:
        """Find what specs and calls show, and with it how a logged call is made today."""
        if self.declared is not None:
            self._declared = spec_changes(self.declared.specs, self.today.specs)
        for found in self._declared:
            change = found.change
            if change.kind is Kind.RENAME_TOOL:
                self.lens.tools[change.tool] = change.after
            elif change.kind is Kind.RENAME_ARGUMENT:
                self.lens.arguments.setdefault(change.tool, {})[change.field] = change.after
        reference = LoggedUse()
        if any(self.lens.tool(name) not in self.today for name in self.use.tools):
            for number, trajectory in self._numbered_reference():
                reference.add(number, trajectory)
        self._sighted = list(use_changes(self.use, self.today, self.lens, reference))

    def compare(self, number: int, trajectory: Trajectory) -> None:
        """Carry an episode out, or look at the shape of its results."""
        if self.execution is not None and self.execution.run(number, trajectory):
            return
        if not self._unexecuted:
            for earlier, other in self._numbered_reference():
                self._look(earlier, other)
        self._unexecuted += 1
        self._look(number, trajectory)

    def _look(self, number: int, trajectory: Trajectory) -> None:
        for step in trajectory.steps:
            action = step.parsed
            if not isinstance(action, Call):
                continue
            content, tool = content_of(step), self.lens.tool(action.name)
            if (error := error_of(content)) is None:
                self._shapes.add(number, tool, content)
            elif isinstance(text := next((error[n] for n in error if n not in ERROR_SAYS), None), str):
                self._shapes.add_error(number, f"{error.get('type')} {error.get('rule', '')}", tool, text)

    def _numbered_reference(self) -> Iterator[tuple[int, Trajectory]]:
        """Episodes with today's tools, numbered up to 0; none without a scenario."""
        if self._reference is None:
            self._reference = []
            if self.scenario is not None:
                drift = self.today if isinstance(self.today, DriftedToolbox) else None
                policy = OraclePolicy() if drift is None else behind_drift(OraclePolicy())
                attempts = map(Attempt, range(REFERENCE))
                self._reference = list(rollout(self.scenario, policy, attempts, families="all", drift=drift))
        return iter(enumerate(self._reference, 1 - len(self._reference)))

    # -- telling -------------------------------------------------------------------------------------------

    def findings(self) -> Iterator[Finding]:
        """Each change once, by the surest evidence."""
        told: set[tuple[str, ...]] = set()
        for finding in (*self._of_specs(), *self._of_execution(), *self._of_calls(), *self._of_results()):
            change = finding.change
            key = (change.kind, change.tool, change.field)
            if key not in told and not (self._declared and self._covered(change)):
                told.add(key)
                yield finding
        yield from self._of_versions({tool for kind, tool, _ in told if kind is not Kind.BEHAVIOUR})

    def _covered(self, change: Change) -> bool:
        """Whether what calls show of an argument is part of what specs declare of it."""
        kinds = {Kind.REMOVED_ARGUMENT, Kind.REQUIRED_ARGUMENT, Kind.OPTIONAL_ARGUMENT, Kind.RENAME_ARGUMENT}
        same = [f.change for f in self._declared if change.kind in kinds and f.change.kind in kinds]
        return any(
            other.tool == change.tool and other != change and change.field in (other.field, other.after)
            for other in same
        )

    def _of_specs(self) -> Iterator[Finding]:
        whole = Seen()
        for number in range(1, len(self.ids) + 1):
            whole.add(number)
        for change, sure in ((found.change, found.sure) for found in self._declared):
            use = self.use.of(change.tool)
            seen = whole if change.tool == EVERY else use.accepted
            if change.kind in (Kind.RENAME_ARGUMENT, Kind.REMOVED_ARGUMENT):
                seen = use.passing(change.field)
            yield self._finding(change, "declared", self._confirmed(change, sure), seen, use.accepted.count)

    def _of_versions(self, told: set[str]) -> Iterator[Finding]:
        """Tools whose records name another version than today's, where nothing else tells what changed."""
        other = False
        for (tool, version), seen in self._tool_versions.items():
            name = self.lens.tool(tool)
            if name not in self.today or self.today[name].spec.version == version:
                continue
            other = True
            if tool not in told:
                change = Change(Kind.VERSION, tool, before=version, after=self.today[name].spec.version)
                yield self._finding(change, "declared", 1.0, seen, self.use.of(tool).accepted.count)
        for version, seen in self.versions.items():
            if version not in ("", self.today.version) and not other and not told:
                change = Change(Kind.VERSION, EVERY, before=version, after=self.today.version)
                yield self._finding(change, "declared", 1.0, seen, len(self.ids))

    def _of_execution(self) -> Iterator[Finding]:
        run = self.execution
        if run is None:
            return
        for found, shown in run.found.items():
            of = run.errors_compared if found[0] is Kind.ERROR_TEXT else sum(run.compared[t] for t in shown.tools)
            finding = self._finding(as_change(found), "executed", 1.0, shown.seen, max(of, shown.seen.count))
            yield replace(finding, tools=tuple(shown.tools))
        for tool, (found, seen) in run.behaviour.items():
            of = run.agreed[tool] + run.differed[tool]
            yield self._finding(as_change(found, tool), "executed", 1.0, seen, of)

    def _of_calls(self) -> Iterator[Finding]:
        for found in self._sighted:
            use = self.use.of(found.change.tool)
            sure = self._confirmed(found.change, found.sure)
            yield self._finding(found.change, "calls", sure, found.seen, max(use.accepted.count, found.seen.count))

    def _of_results(self) -> Iterator[Finding]:
        groups: dict[tuple[Any, ...], list[Cut]] = {}
        for cut in self._shapes.cuts():
            if cut.seen.first > 0:
                groups.setdefault(cut.found, []).append(cut)
        for (kind, field, before, after), cuts in groups.items():
            if (sure := 1 - prod(cut.chance for cut in cuts)) < _LEAST_SURE:
                continue
            if any(cut.was.first <= 0 for cut in cuts):  # the earlier form is the reference's, so today's
                before, after = after, before
                field = field if kind is not Kind.RESULT_FIELD else before
            seen = Seen()
            for cut in cuts:
                seen.join(cut.seen)
            of = seen.count + sum(cut.was.count for cut in cuts if cut.was.first > 0)
            finding = self._finding(as_change((kind, field, before, after)), "results", sure, seen, of)
            yield replace(finding, tools=tuple(dict.fromkeys(cut.tool for cut in cuts if cut.tool)))

    def _confirmed(self, change: Change, sure: float) -> float:
        """How sure a pairing is, after its calls were carried out so: the share that gave the logged result."""
        run = self.execution
        if sure == 1.0 or run is None or not (done := run.agreed[change.tool] + run.differed[change.tool]):
            return sure
        return run.agreed[change.tool] / done

    def _finding(self, change: Change, evidence: str, sure: float, seen: Seen, of: int) -> Finding:
        first = seen.first if seen.count else None
        return Finding(
            change=change,
            evidence=evidence,
            sure=round(sure, 6),
            tools=() if change.tool == EVERY else (self.lens.tool(change.tool),),
            seen=seen.count,
            of=max(of, seen.count),
            since=first,
            until=seen.last if seen.count else None,
            record=None if first is None else self.ids[first - 1],
        )


def _order(finding: Finding) -> tuple[Any, ...]:
    return tuple(Kind).index(finding.change.kind), -finding.sure, finding.change.tool, finding.change.field
