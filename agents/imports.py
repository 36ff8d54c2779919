"""Logs from elsewhere become a dataset: what an agent did in production is measured like an episode of ours.

An imported episode has no scenario to be replayed in: its scenario is `ELSEWHERE`, its task
`(elsewhere)/<task type>/<id>`, its versions are empty, and `grade` is empty unless the log tells the outcome. The one
exception: where a scenario is named and the log's task is one of its tasks, the actions are carried out again; if
everything comes out as it was logged the record is a native one, with grade, effects and versions.

    part-00000.jsonl   the episodes
    scenario.yaml      the scenario, if one was named
    tools.json         the tools that the logs declare, in OpenAI's form
    import.json        what was skipped, and why; what was read otherwise than it stands
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from toolenv.agents.atif import from_atif
from toolenv.agents.conversations import Notes, read_conversation
from toolenv.agents.dataset import TOOLS_FILE, DatasetMismatch, write_scenario
from toolenv.agents.formats import LogFormat
from toolenv.agents.logged_tools import logged_toolbox, merged_tools
from toolenv.agents.otel import parts_of_spans
from toolenv.agents.recordings import joined
from toolenv.agents.records import SHARD, read_trajectories, whole_folder
from toolenv.agents.trajectory import Step, Trajectory
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import Scenario
from toolenv.tools.calls import Json
from toolenv.tools.errors import RecordError, ScenarioError
from toolenv.tools.toolbox import Toolbox

REPORT_FILE = "import.json"
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json")


@dataclass(slots=True)
class ImportReport:
    """What became of the logs.

    Attributes:
        imported: episodes written; `native` of them are episodes of ours, carried out again.
        skipped: one line for each conversation that could not be read: `file:line: field: rule`.
        notes: what was read otherwise than it stands -> how often.
    """

    imported: int = 0
    native: int = 0
    skipped: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_INDENT_2)


def import_logs(
    logs: str | Path,
    form: LogFormat,
    out: str | Path,
    *,
    scenario: Scenario | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Write the dataset `out` of the conversations in a file, or in all files of a folder.

    A conversation that can not be read is skipped and told; the rest goes on. `out` appears when all is written.

    Args:
        logs: `.jsonl` (also gzipped) with a conversation a line, or a recorder's parts of them; or `.json` with one
            conversation, or a list of them.
        scenario: whose toolbox is used instead of the tools that the logs declare, and whose tasks are carried out.
        progress: called with 1 after each conversation.

    Raises:
        RecordError: there is no file, or not one conversation that can be read.
        DatasetMismatch: `out` holds something.
        DatasetBusy: another process is writing it.
    """
    logs, out = Path(logs), Path(out)
    files = _files(logs)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetMismatch(f"{out} holds something already. Choose another folder.")
    reading = _Reading(LogFormat(form), scenario)
    report = reading.report
    with whole_folder(out) as partial:
        with (partial / SHARD.format(0)).open("wb") as stream:
            for trajectory in reading.trajectories(files, progress):
                stream.write(trajectory.to_json() + b"\n")
                report.imported += 1
        if not report.imported:
            first = report.skipped[0] if report.skipped else f"{logs}: there is none"
            raise RecordError(f"not one conversation could be read, of {len(report.skipped)}; the first: {first}")
        toolboxes = reading.toolboxes.values() if scenario is None else [scenario.toolbox]
        tools, differing = merged_tools(toolboxes)
        for name in differing:
            reading.notes[f"tool {name} is declared in several ways: tools.json has the first"] += 1
        report.notes = dict(sorted(reading.notes.items()))
        if scenario is not None:
            write_scenario(partial, scenario)
        (partial / TOOLS_FILE).write_bytes(orjson.dumps(tools, option=orjson.OPT_INDENT_2) + b"\n")
        (partial / REPORT_FILE).write_bytes(report.to_json() + b"\n")
    return report


def read_logs(
    logs: str | Path, form: LogFormat | None = None, *, report: ImportReport | None = None
) -> Iterator[Trajectory]:
    """The episodes of a dataset or of logs from elsewhere, without writing anything.

    Args:
        form: of the logs; if left out, it is told from their first line.
        report: gets what was skipped and noted.

    Raises:
        RecordError: there is no file, or (of a dataset) it is damaged.
    """
    logs = Path(logs)
    if form is None and (form := _form_of(logs)) is None:
        yield from read_trajectories(logs)
        return
    reading = _Reading(form, None)
    reading.report = reading.report if report is None else report
    yield from reading.trajectories(_files(logs), None)
    reading.report.notes = dict(sorted(reading.notes.items()))


def _form_of(logs: Path) -> LogFormat | None:
    """The form of logs by their first line; None of a dataset."""
    if logs.suffix == ".parquet" or (logs.is_dir() and (logs / SHARD.format(0)).is_file()):
        return None
    first = next((row for file in _files(logs) for _, row in _rows(file)), None)
    if not isinstance(first, dict):
        return LogFormat.OPENAI
    if "resourceSpans" in first:
        return LogFormat.OTEL
    if isinstance(first.get("schema_version"), str):
        return LogFormat.ATIF
    return LogFormat.OPENAI if "messages" in first else None


def _files(logs: Path) -> list[Path]:
    if logs.is_file():
        return [logs]
    found = sorted(file for file in logs.glob("*") if file.is_file() and file.name.endswith(_SUFFIXES))
    if not found:
        raise RecordError(f"{logs}: no such file, or no file in it that ends in {', '.join(_SUFFIXES)}")
    return found


class _Reading:
    """The conversations of some files, as episodes."""

    def __init__(self, form: LogFormat, scenario: Scenario | None) -> None:
        self.form, self.scenario = form, scenario
        self.report, self.notes = ImportReport(), Notes()
        self.toolboxes: dict[bytes, Toolbox] = {}
        self._trials: Counter[tuple[str, str]] = Counter()
        self._env = None if scenario is None else ToolEnv(scenario, families="all")

    def trajectories(self, files: Iterable[Path], progress: Callable[[int], None] | None) -> Iterator[Trajectory]:
        rows = (row for file in files for row in _rows(file))
        for where, row in joined(parts_of_spans(rows) if self.form is LogFormat.OTEL else rows):
            notes = Notes()
            try:
                if isinstance(row, RecordError):
                    raise row
                found = self._trajectory(row, where, notes)
            except RecordError as problem:
                self.report.skipped.append(f"{where}: {problem}")
            else:
                self.notes += notes
                yield found
            if progress is not None:
                progress(1)
        if self._env is not None:
            self._env.close()

    def _trajectory(self, row: Json, where: str, notes: Notes) -> Trajectory:
        if self.form is LogFormat.ATIF:
            row = from_atif(row, notes)
        toolbox = self._toolbox(row)
        found = read_conversation(row, toolbox, Path(where).name, notes)
        own = found.task.split("/", 2)[2]
        if self._env is not None and own.startswith(f"{self._env.scenario.name}/"):
            try:
                found = carried_out(self._env, found, own)
                self.report.native += 1
            except RecordError as problem:
                notes[f"a task of {self._env.scenario.name} that comes out otherwise than logged"] += 1
                notes[f"{where}: {problem}"] += 1
        trial = self._trials[found.task, found.policy]
        self._trials[found.task, found.policy] += 1
        return replace(found, id=f"{found.task}/{found.policy}/{trial}", trial=trial)

    def _toolbox(self, row: Json) -> Toolbox | None:
        """The scenario's tools, or those that the conversation declares."""
        if self.scenario is not None:
            return self.scenario.toolbox
        declared = (row.get("tools") or row.get("functions")) if isinstance(row, dict) else None
        if isinstance(declared, str):  # as in TRL's form, where Arrow would merge the schemas of all rows
            try:
                declared = orjson.loads(declared)
            except orjson.JSONDecodeError:
                raise RecordError("tools: a text that is not JSON") from None
        if not declared:
            return None
        key = orjson.dumps(declared)
        if key not in self.toolboxes:
            self.toolboxes[key] = logged_toolbox(declared)
        return self.toolboxes[key]


def carried_out(env: ToolEnv, logged: Trajectory, task_id: str) -> Trajectory:
    """The episode of a log as `env` gives it.

    Raises:
        RecordError: there is no such task, or something comes out otherwise.
    """
    try:
        env.reset(options={"task": task_id})
    except ScenarioError as error:
        raise RecordError(f"task: {error}") from None
    task = env.task
    for name in ("system", "instruction"):
        if getattr(logged, name) != getattr(task, name):
            raise RecordError(f"{name}: not that of {task_id}")
    steps: list[Step] = []
    ended, info = False, dict[str, Any]()
    for number, step in enumerate(logged.steps, 1):
        if ended:
            raise RecordError(f"step {number}: the episode has ended before")
        _, reward, terminated, truncated, info = env.step(step.action)
        ended = terminated or truncated
        observation = info["messages"][-1]["content"] if len(info["messages"]) == 2 else ""
        if observation != step.observation:
            raise RecordError(f"step {number}: observation: other than logged")
        steps.append(replace(step, effect=info["effect"], error=info["error"], reward=reward))
    if not ended:
        raise RecordError(f"step {len(steps)}: the episode has not ended")
    called = {step.tool for step in steps}
    return replace(
        logged,
        scenario=env.scenario.name,
        scenario_version=env.scenario.version,
        toolbox_version=env.toolbox.version,
        tool_versions={n: env.toolbox[n].spec.version for n in env.toolbox.names if n in called},
        task=task.id,
        family=task.family_name,
        difficulty=task.family.difficulty,
        split=task.split.value,
        seed=task.seed,
        steps=tuple(steps),
        reward=sum(step.reward for step in steps),
        success=info["success"],
        truncated=truncated,
        grade=info["grade"],
        world_digest=env.session.digest(),
    )


def _rows(file: Path) -> Iterator[tuple[str, Json]]:
    """(file:line, conversation), or a RecordError in its place."""
    if file.name.endswith(".json"):
        try:
            read = orjson.loads(file.read_bytes())
        except orjson.JSONDecodeError as error:
            yield str(file), RecordError(f"record: not JSON: {error}")
            return
        if isinstance(read, list):
            yield from ((f"{file}[{place}]", row) for place, row in enumerate(read))
        else:
            yield str(file), read
        return
    number = 0
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"{file}:{number}", _row(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield f"{file}:{number + 1}", RecordError(f"record: truncated or damaged: {error}")


def _row(line: bytes) -> Json:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        cut = "" if line.endswith(b"\n") else " (the last line is truncated)"
        return RecordError(f"record: not JSON: {error}{cut}")
