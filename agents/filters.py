"""Filters: which trajectories are fit to learn from.

A filter looks at what an agent did, never at labels. How right it is, `filter_scores.py` measures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import orjson

from toolenv.agents.card import Counts
from toolenv.agents.dataset import (
    DatasetManifest,
    DatasetMismatch,
    read_manifest,
    scenario_of,
    write_card,
    write_context,
)
from toolenv.agents.records import SHARD, read_trajectories, whole_folder
from toolenv.agents.trajectory import Step, Trajectory
from toolenv.envs.actions import Call
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.sampler import Sampler, Task
from toolenv.scenarios.templates import TemplateError
from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import InvalidArguments, MalformedCall, UnknownTool
from toolenv.tools.toolbox import Toolbox

_UNUSABLE = frozenset({MalformedCall.type, InvalidArguments.type, UnknownTool.type})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to keep a trajectory, and if not, why."""

    keep: bool
    reason: str = ""


Filter = Callable[[Trajectory, Sampler], Verdict]
_KEEP = Verdict(True)


def _drop(reason: str) -> Verdict:
    return Verdict(False, reason)


# -- the filters ---------------------------------------------------------------------------------------


def hallucinated_arguments(trajectory: Trajectory, sampler: Sampler) -> Verdict:
    """Drop it if an identifier was used that nothing had shown before: neither the policy nor the request, nor an
    earlier reply, nor the tool's schema."""
    for use in identifier_uses(trajectory, sampler.scenario.toolbox):
        if not use.seen:
            return _drop(f"step {use.step}: {use.argument} {use.value!r} was never seen")
    return _KEEP


def skipped_steps(trajectory: Trajectory, sampler: Sampler) -> Verdict:
    """Drop it if a required step was left out: the agent did not answer, or of every plan of the task some call is
    missing.

    A call of a plan counts as made if one of the step's tools was called with the same identifiers, or, for a look-up,
    if another reading tool was that the plan has no use for. Texts, amounts and other arguments may differ: whether the
    state came out right is `wrong_state`'s to say. Where no plan was completed and one can not be followed to its end,
    because the agent took its facts from elsewhere, the facts decide that the goal wants looked up.
    """
    if trajectory.answer is None:
        return _drop("no answer was given")
    task = sampler.task_by_id(trajectory.task)
    followed = [_follow(task, route, trajectory) for route in range(len(task.compiled.plans))]
    if _COMPLETE in followed:
        return _KEEP
    if _UNKNOWN in followed:
        seen = trajectory.grade.get("seen", False)
        return _KEEP if seen else _drop("a fact was not looked up that the goal wants looked up")
    return _drop(f"step left out: {followed[0]}")


def wrong_state(trajectory: Trajectory, sampler: Sampler) -> Verdict:
    """Drop it if the final world is not what the goal wants: a change is missing, or something else was changed."""
    return _KEEP if trajectory.grade.get("state", False) else _drop("the final world is not what the goal wants")


def malformed_calls(trajectory: Trajectory, sampler: Sampler) -> Verdict:
    """Drop it if an action could not be read, named no tool, or broke the tool's schema."""
    for number, step in enumerate(trajectory.steps, 1):
        if step.error in _UNUSABLE:
            return _drop(f"step {number}: {step.error}")
    return _KEEP


FILTERS: Mapping[str, Filter] = {
    "hallucinated_arguments": hallucinated_arguments,
    "skipped_steps": skipped_steps,
    "wrong_state": wrong_state,
    "malformed_calls": malformed_calls,
}


@dataclass(frozen=True, slots=True)
class IdentifierUse:
    """An identifier that a call passed.

    Attributes:
        step: its number, from 1.
        seen: whether the value stood in the policy, the request, an earlier reply or the tool's schema.
    """

    step: int
    argument: str
    value: str
    seen: bool


def identifier_uses(trajectory: Trajectory, toolbox: Toolbox) -> Iterator[IdentifierUse]:
    """Every identifier that the calls of a trajectory pass. The share that is not seen is argument hallucination."""
    texts = [trajectory.system, trajectory.instruction]
    for number, step in enumerate(trajectory.steps, 1):
        for argument, value in _identifier_arguments(step, toolbox):
            seen = any(_occurs(value, text) for text in texts) or value in _enumerated(toolbox, step.tool)
            yield IdentifierUse(number, argument, value, seen)
        texts.append(step.observation)


def _identifier_arguments(step: Step, toolbox: Toolbox) -> Iterator[tuple[str, str]]:
    """(argument, value) for every identifier that a call passes; of a list, each item."""
    action = step.parsed
    if not isinstance(action, Call) or action.name not in toolbox:
        return
    for argument in toolbox[action.name].identifiers:
        value = action.arguments.get(argument)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str | int | float) and not isinstance(item, bool) and item != "":
                yield argument, str(item)


def _occurs(value: str, text: str) -> bool:
    """Whether an identifier stands in a text as a whole word, in whatever case."""
    at, text, value = 0, text.lower(), value.lower()
    while (at := text.find(value, at)) >= 0:
        end = at + len(value)
        if not (_JOINS_BEFORE.search(text, 0, at) or _JOINS_AFTER.match(text, end)):
            return True
        at += 1
    return False


_JOINS_BEFORE = re.compile(r"[\w.+@-]\Z")
_JOINS_AFTER = re.compile(r"[\w@-]|\.\w")


@lru_cache(1_024)
def _enumerated(toolbox: Toolbox, tool: str | None) -> frozenset[str]:
    """The values that a tool's schema itself names."""
    return frozenset(_enum_values(toolbox[tool].spec.parameters)) if tool in toolbox and tool else frozenset()


def _enum_values(schema: Json) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (str(value) for value in schema.get("enum", ()) if isinstance(schema.get("enum"), list))
        for item in schema.values():
            yield from _enum_values(item)
    elif isinstance(schema, list):
        for item in schema:
            yield from _enum_values(item)


_COMPLETE, _UNKNOWN = "", "?"


def _follow(task: Task, route: int, trajectory: Trajectory) -> str:
    """The first call of a plan that the trajectory does not make; _COMPLETE if it makes all, _UNKNOWN if the plan can
    not be followed with the facts that the agent found."""
    toolbox = task.scenario.toolbox
    made = [
        (step.tool, _identifiers(step.parsed, toolbox), step)
        for step in trajectory.steps
        if step.tool in toolbox and step.error not in _UNUSABLE
    ]
    planned = {call.name for step in task.compiled.plans[route].steps for call in step.calls}
    run = GuidedRun(task, route)
    try:
        while options := run.options():
            wanted = [(name, _values(name, arguments, toolbox)) for name, arguments in options]
            found = next((at for at, (tool, values, _) in enumerate(made) if (tool, values) in wanted), None)
            if found is None:
                reads = [values for name, values in wanted if not toolbox[name].writes and values]
                instead = ((tool not in planned and step.effect == "read", values) for tool, values, step in made)
                found = next((at for at, (free, values) in enumerate(instead) if free and values in reads), None)
            if found is None:
                name, arguments = options[0]
                return f"{name} {json_text(arguments)}"
            tool, _, step = made.pop(found)
            run.feed(tool, orjson.loads(step.observation))
    except TemplateError:
        return _UNKNOWN
    return _COMPLETE


def _identifiers(action: object, toolbox: Toolbox) -> frozenset[str]:
    return _values(action.name, action.arguments, toolbox) if isinstance(action, Call) else frozenset()


def _values(tool: str, arguments: Mapping[str, Json], toolbox: Toolbox) -> frozenset[str]:
    """The identifiers among a call's arguments."""
    given = (arguments.get(name) for name in toolbox[tool].identifiers)
    return frozenset(str(value).lower() for value in given if value is not None)


class GuidedRun:
    """A plan whose calls are chosen from outside: at each step one says which of its calls was made."""

    def __init__(self, task: Task, route: int) -> None:
        self._steps = task.compiled.plans[route].steps
        self._context: dict[str, Any] = dict(task.variables)
        self.position = -1

    def options(self) -> list[tuple[str, dict[str, Json]]]:
        """The calls that serve the next step, the preferred one first; none before the answer."""
        for position in range(self.position + 1, len(self._steps)):
            step, self.position = self._steps[position], position
            if step.when is None or step.when(self._context):
                return [(call.name, call.arguments(self._context)) for call in step.calls]
        return []

    def feed(self, tool: str | None, content: Json) -> None:
        """Take in the reply to the call that was made."""
        step = self._steps[self.position]
        if step.name is None:
            return
        call = next((call for call in step.calls if call.name == tool), step.calls[0])
        if call.take is not None and not (isinstance(content, dict) and "error" in content):
            content = call.take({**self._context, "result": content})
        self._context[step.name] = content


# -- datasets ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class FilterReport:
    """What filtering a dataset did.

    Attributes:
        rejected_by: filter -> how many it rejected; one trajectory may be rejected by several.
    """

    kept: int = 0
    rejected: int = 0
    rejected_by: dict[str, int] = field(default_factory=dict)


def filter_dataset(path: str | Path, filters: Iterable[str], out: str | Path) -> FilterReport:
    """Split a dataset into two, `out/kept` and `out/rejected`; the reasons stand in `out/rejected/reasons.jsonl`.

    `out` appears when all is written.

    Args:
        path: a dataset's folder, or a file of trajectories with the scenario's file beside it.

    Raises:
        ValueError: there is no filter of a name.
        RecordError: the dataset is damaged or incomplete.
        DatasetMismatch: `out` holds something.
    """
    names = list(dict.fromkeys(filters))
    if unknown := [name for name in names if name not in FILTERS]:
        raise ValueError(f"there is no filter {unknown[0]!r}; there is: {', '.join(FILTERS)}")
    path, out = Path(path), Path(out)
    scenario = scenario_of(path)
    manifest = read_manifest(path) if path.is_dir() else _manifest_of_file(path)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetMismatch(f"{out} holds something already. Choose another folder.")
    sampler = Sampler(scenario, "all")
    report = FilterReport(rejected_by=dict.fromkeys(names, 0))
    with whole_folder(out) as partial:
        kept, rejected = (_Part(partial / name, manifest, scenario) for name in ("kept", "rejected"))
        with closing(kept), closing(rejected), (partial / "rejected" / "reasons.jsonl").open("wb") as reasons:
            for trajectory in read_trajectories(path):
                verdicts = {name: FILTERS[name](trajectory, sampler) for name in names}
                against = {name: verdict.reason for name, verdict in verdicts.items() if not verdict.keep}
                (rejected if against else kept).add(trajectory)
                for name in against:
                    report.rejected_by[name] += 1
                if against:
                    reasons.write(orjson.dumps({"id": trajectory.id, "reasons": against}) + b"\n")
        kept.describe(names)
        rejected.describe(names)
    report.kept, report.rejected = kept.counts.trajectories, rejected.counts.trajectories
    return report


def _manifest_of_file(path: Path) -> DatasetManifest:
    """What can be said of a file of trajectories whose folder is no dataset."""
    first = next(read_trajectories(path))
    seeds, trials, families = set(), 0, set()
    for trajectory in read_trajectories(path):
        seeds.add(trajectory.seed)
        trials = max(trials, trajectory.trial + 1)
        families.add(trajectory.family)
    return DatasetManifest(
        schema_version=first.schema_version,
        scenario=first.scenario,
        scenario_version=first.scenario_version,
        toolbox_version=first.toolbox_version,
        policy=first.policy,
        families=tuple(sorted(families)),
        seed=min(seeds),
        n=max(seeds) - min(seeds) + 1,
        trials=trials,
        shard_size=500,
        shards=0,
    )


class _Part:
    """A dataset's folder that is written from front to back."""

    def __init__(self, folder: Path, manifest: DatasetManifest, scenario: Scenario) -> None:
        folder.mkdir()
        self.folder, self.manifest, self.scenario = folder, manifest, scenario
        self.counts = Counts()
        self._size = manifest.shard_size * manifest.trials
        self._stream: IO[bytes] | None = None

    def add(self, trajectory: Trajectory) -> None:
        shard, row = divmod(self.counts.trajectories, self._size)
        if row == 0:
            self.close()
            self._stream = (self.folder / SHARD.format(shard)).open("wb")
        assert self._stream is not None
        self._stream.write(trajectory.to_json() + b"\n")
        self.counts.add(trajectory)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def describe(self, filters: list[str]) -> None:
        """Write what stands beside the shards."""
        shards = -(-self.counts.trajectories // self._size)
        write_context(self.folder, replace(self.manifest, shards=shards), self.scenario)
        write_card(self.folder, self.manifest, self.counts, filters=filters)
