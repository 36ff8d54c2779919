"""Filters: which trajectories are fit to learn from.

A filter looks at what an agent did, never at labels. How right it is, `filter_scores.py` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

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
from toolenv.agents.grounding import identifier_uses
from toolenv.agents.records import SHARD, read_trajectories, whole_folder
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.actions import Call
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.sampler import Sampler, Task
from toolenv.scenarios.templates import TemplateError
from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import INVALID_CALLS
from toolenv.tools.toolbox import Toolbox


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
    """Drop it if an identifier was used that nothing had shown before; see `grounding.py`."""
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
        if step.error in INVALID_CALLS:
            return _drop(f"step {number}: {step.error}")
    return _KEEP


FILTERS: Mapping[str, Filter] = {
    "hallucinated_arguments": hallucinated_arguments,
    "skipped_steps": skipped_steps,
    "wrong_state": wrong_state,
    "malformed_calls": malformed_calls,
}


_COMPLETE, _UNKNOWN = "", "?"


def _follow(task: Task, route: int, trajectory: Trajectory) -> str:
    """The first call of a plan that the trajectory does not make; _COMPLETE if it makes all, _UNKNOWN if the plan can
    not be followed with the facts that the agent found."""
    toolbox = task.scenario.toolbox
    made = [
        (step.tool, _identifiers(step.parsed, toolbox), step)
        for step in trajectory.steps
        if step.tool in toolbox and step.error not in INVALID_CALLS
    ]
    planned = {call.name for step in task.compiled.plans[route].steps for call in step.calls}
    run = task.compiled.plans[route].guided(task.variables)
    try:
        while options := run.options():
            wanted = [(call.name, _values(call.name, call.arguments, toolbox)) for call in options]
            found = next((at for at, (tool, values, _) in enumerate(made) if (tool, values) in wanted), None)
            if found is None:
                reads = [values for name, values in wanted if not toolbox[name].writes and values]
                instead = ((tool not in planned and step.effect == "read", values) for tool, values, step in made)
                found = next((at for at, (free, values) in enumerate(instead) if free and values in reads), None)
            if found is None:
                return f"{options[0].name} {json_text(options[0].arguments)}"
            tool, values, step = made.pop(found)
            option = next((at for at, call in enumerate(wanted) if call == (tool, values)), 0)
            run.feed(orjson.loads(step.observation), option)
    except TemplateError:
        return _UNKNOWN
    return _COMPLETE


def _identifiers(action: object, toolbox: Toolbox) -> frozenset[str]:
    return _values(action.name, action.arguments, toolbox) if isinstance(action, Call) else frozenset()


def _values(tool: str, arguments: Mapping[str, Json], toolbox: Toolbox) -> frozenset[str]:
    """The identifiers among a call's arguments."""
    given = (arguments.get(name) for name in toolbox[tool].identifiers)
    return frozenset(str(value).lower() for value in given if value is not None)


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


def filter_dataset(
    path: str | Path,
    filters: Iterable[str],
    out: str | Path,
    *,
    scenario: Scenario | None = None,
    progress: Callable[[int], None] | None = None,
) -> FilterReport:
    """Split a dataset into two, `out/kept` and `out/rejected`; the reasons stand in `out/rejected/reasons.jsonl`.

    `out` appears when all is written.

    Args:
        path: a dataset's folder, or a file of trajectories.
        scenario: where `scenario_of` does not find it.
        progress: called with 1 after each trajectory.

    Raises:
        ValueError: there is no filter of a name.
        RecordError: the dataset is damaged or incomplete.
        DatasetMismatch: `out` holds something.
        DatasetBusy: another process is writing it.
    """
    names = list(dict.fromkeys(filters))
    if unknown := [name for name in names if name not in FILTERS]:
        raise ValueError(f"there is no filter {unknown[0]!r}; there is: {', '.join(FILTERS)}")
    path, out = Path(path), Path(out)
    scenario = scenario_of(path) if scenario is None else scenario
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
                if progress is not None:
                    progress(1)
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
