"""How right the filters are: their verdicts beside ground truth.

The truth of a filter is what the faulty policy recorded about its own faults (`step.labels`), or what a gold plan
gives that is carried out anew; never what the filter looks at. Each truth stands in the docstring of its function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product

from rich.table import Table

from toolenv.agents.filters import FILTERS
from toolenv.agents.intervals import wilson
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.actions import Call
from toolenv.scenarios.sampler import Sampler, Task
from toolenv.tools.calls import Json, json_text
from toolenv.tools.sandbox.contract import ToolSession
from toolenv.tools.sandbox.embedded import EmbeddedSandbox


def _truth_hallucinated(trajectory: Trajectory, sampler: Sampler) -> bool:
    """An identifier was invented on purpose, or is known from a call only that was skipped on purpose."""
    return "invented_argument" in trajectory.faults or any("ungrounded" in step.labels for step in trajectory.steps)


def _truth_skipped(trajectory: Trajectory, sampler: Sampler) -> bool:
    """A step was skipped on purpose, the answer came early, a call was done wrongly and never repeated rightly, or the
    plan was given up. (A wrong call that takes the state away from under the plan makes it give up.)"""
    return any(
        step.labels.get("fault") in ("skipped_step", "early_stop")
        or step.labels.get("repeated") is False
        or step.labels.get("gave_up") is True
        for step in trajectory.steps
    )


def _truth_wrong_state(trajectory: Trajectory, sampler: Sampler) -> bool:
    """The digest of the final world is that of no plan of the task, carried out anew in every combination of its
    alternative calls. So this truth is independent of the goal's rules. It is exact for policies that write the plan's
    own texts; a right state with other words in a free text has another digest, too. Where code is run, which stands in
    the digest, the calls are carried out anew as well, and the changes compared in place of digests."""
    if sampler.scenario.toolbox.runs_python:
        return not _changes_as_planned(sampler.task_by_id(trajectory.task), trajectory)
    return trajectory.world_digest not in _gold_digests(sampler, trajectory.task)


def _truth_malformed(trajectory: Trajectory, sampler: Sampler) -> bool:
    """A call was malformed on purpose."""
    return "malformed_call" in trajectory.faults


TRUTHS: Mapping[str, Callable[[Trajectory, Sampler], bool]] = {
    "hallucinated_arguments": _truth_hallucinated,
    "skipped_steps": _truth_skipped,
    "wrong_state": _truth_wrong_state,
    "malformed_calls": _truth_malformed,
}


@dataclass(slots=True)
class FilterScore:
    """How often a filter was right. Dropping what the truth says is bad is a true positive.

    Attributes:
        mistakes: ids of false positives and false negatives, at most 20 of each.
    """

    name: str
    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    true_negatives: int = 0
    mistakes: dict[str, list[str]] = field(default_factory=lambda: {"false_positives": [], "false_negatives": []})

    @property
    def n(self) -> int:
        return self.true_positives + self.false_positives + self.false_negatives + self.true_negatives

    @property
    def precision(self) -> float | None:
        """Of what was dropped, the share that was bad; None if nothing was."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """Of what was bad, the share that was dropped; None if nothing was."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    def to_json(self) -> dict[str, Json]:
        return {
            "filter": self.name,
            "n": self.n,
            "true_positives": self.true_positives,
            "false_positives": self.false_positives,
            "false_negatives": self.false_negatives,
            "true_negatives": self.true_negatives,
            "precision": self.precision,
            "precision_interval": _interval(self.true_positives, self.true_positives + self.false_positives),
            "recall": self.recall,
            "recall_interval": _interval(self.true_positives, self.true_positives + self.false_negatives),
            "f1": self.f1,
            "mistakes": dict(self.mistakes),
        }


def is_labelled(trajectory: Trajectory) -> bool:
    """Whether every fault of the trajectory's policy is recorded."""
    return trajectory.policy.partition(":")[0] in ("oracle", "faulty")


def score_filters(trajectories: Iterable[Trajectory], sampler: Sampler) -> list[FilterScore]:
    """Compare each filter with its truth, on the trajectories of the oracle and the faulty policy: of others (a model,
    random calls) nobody recorded what is wrong with them, so they are not counted."""
    scores = [FilterScore(name) for name in FILTERS]
    for trajectory in trajectories:
        if not is_labelled(trajectory):
            continue
        for score in scores:
            dropped = not FILTERS[score.name](trajectory, sampler).keep
            bad = TRUTHS[score.name](trajectory, sampler)
            score.true_positives += dropped and bad
            score.true_negatives += not dropped and not bad
            score.false_positives += dropped and not bad
            score.false_negatives += bad and not dropped
            if dropped != bad:
                kept = score.mistakes["false_positives" if dropped else "false_negatives"]
                kept += [trajectory.id] * (len(kept) < 20)
    return scores


def score_table(scores: Iterable[FilterScore]) -> Table:
    """The scores for people: precision and recall with their 95% intervals, and what they are counted from."""
    table = Table("filter", "precision [95% CI]", "recall [95% CI]", "dropped", "bad", "n")
    for score in scores:
        dropped, bad = score.true_positives + score.false_positives, score.true_positives + score.false_negatives
        precision, recall = _cell(score.true_positives, dropped), _cell(score.true_positives, bad)
        table.add_row(score.name, precision, recall, str(dropped), str(bad), str(score.n))
    return table


def _cell(part: int, whole: int) -> str:
    interval = _interval(part, whole)
    return "–" if interval is None else f"{part / whole:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _interval(part: int, whole: int) -> tuple[float, float] | None:
    return wilson(part, whole) if whole else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _gold_digests(sampler: Sampler, task_id: str) -> Iterator[str]:
    """The digests of the worlds in which the plans of a task end, with every choice among calls that write."""
    task = sampler.task_by_id(task_id)
    toolbox = task.scenario.toolbox
    for route, plan in enumerate(task.compiled.plans):
        choices = [
            range(len(step.calls)) if any(toolbox[call.name].writes for call in step.calls) else (0,)
            for step in plan.steps
        ]
        for choice in product(*(options or (0,) for options in choices)):
            yield _digest_after(task, route, choice)


def _digest_after(task: Task, route: int, choice: Sequence[int]) -> str:
    """Carry out a plan in a fresh world; at step `i` the call `choice[i]`."""
    session, run = task.open(_sandbox()), task.compiled.plans[route].guided(task.variables)
    try:
        while options := run.options():
            option = choice[run.position]
            call = options[option]
            run.feed(session.call(call.name, call.arguments).content, option)
        return session.digest()
    finally:
        session.close()


def _changes_as_planned(task: Task, trajectory: Trajectory) -> bool:
    """Whether the calls change what a plan of the task changes; further new files are the agent's own."""
    session = task.open(_sandbox())
    for step in trajectory.steps:
        if isinstance(call := step.parsed, Call):
            session.call(call.name, call.arguments)
    made, new_files = _changes(session)
    for plan in task.compiled.plans:
        session, run = task.open(_sandbox()), plan.guided(task.variables)
        while options := run.options():
            run.feed(session.call(options[0].name, options[0].arguments).content)
        wanted, wanted_files = _changes(session)
        if made == wanted and wanted_files <= new_files:
            return True
    return False


def _changes(session: ToolSession) -> tuple[set[str], set[str]]:
    """What has changed apart from the cells that were run, and which files are new; ends the session."""
    changes, new_files = set[str](), set[str]()
    for row in session.diff():
        if row.table != "_cells":
            kind = new_files if (row.table, row.op) == ("_files", "insert") else changes
            kind.add(json_text([row.table, row.op, row.key, row.after]))
    session.close()
    return changes, new_files


@cache
def _sandbox() -> EmbeddedSandbox:
    return EmbeddedSandbox()
