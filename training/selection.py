"""Tool selection: was the tool that was called one that the gold plan, or a route beside it, could have called next?

What this omits: whether a call that no plan foresees would have served as well. Only running it on a fork tells.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import orjson
from pydantic import ConfigDict

from toolenv.agents import walks
from toolenv.agents.intervals import Floats, Metric, bootstrap, proportion
from toolenv.agents.trajectory import Step
from toolenv.envs.actions import Action, Answer, Call
from toolenv.scenarios.sampler import Task
from toolenv.tools.calls import Json
from toolenv.tools.toolbox import Toolbox

Decisions = Mapping[tuple[str, str], int]

ANSWER, UNREADABLE, UNKNOWN = walks.ANSWER, "(unreadable)", "(unknown tool)"
"""What a decision is in the confusion matrix when it is no call of a tool of the toolbox."""


# -- one episode ---------------------------------------------------------------------------------------


def tool_selection(
    steps: Sequence[Step], actions: Sequence[Action], task: Task, toolbox: Toolbox
) -> dict[tuple[str, str], int]:
    """The episode's decisions as (due, chosen) -> count: one cell for each, in a confusion matrix.

    The gold plan and its routes are walked in step with the episode. The *acceptable set* at a state is what they
    could do next: of every route that fits what was done so far, the next step's call and its `or` alternatives, or
    the answer. A decision is right when its tool is in the set (its arguments do not matter), or when the call is,
    arguments included, that of a later step that can be written already: calls that commute may come in any order.

    - Right: (chosen, chosen), also where another acceptable tool is the preferred one.
    - Wrong, such as an extra call or a repetition: (preferred, chosen); it lowers the precision of the chosen tool
      and the recall of the preferred one. A text that can not be read and an unknown tool count likewise.
    - An answer while calls are due: (preferred, "(answer)") once for the next step and once for each that was put
      off; steps that would come later are not counted, as their conditions are not known.
    - A call when the answer is due: ("(answer)", chosen).
    - A step that is skipped by going on to a later one costs one wrong decision if the later call succeeds: the walk
      then goes on from there. Until then each decision is judged with the skipped step still due.

    An episode that is truncated has no further decisions. Where a step can be read in two ways (a right tool with
    other arguments than planned: was it the step or an extra call?) both readings are kept, and later decisions are
    judged by the more favourable one. Whether calls commute, and whether an unplanned call would do, is not checked.
    """
    following = walks.start(task)
    cells: Counter[tuple[str, str]] = Counter()
    earlier: list[tuple[str, Json]] = []
    for step, action in zip(steps, actions, strict=True):
        if isinstance(action, Answer):
            if any(ANSWER in walk.next_tools() for walk in following):
                cells[ANSWER, ANSWER] += 1
            else:
                cells.update((due, ANSWER) for due in following[0].overdue())
        elif not isinstance(action, Call):
            cells[following[0].preferred(), UNREADABLE] += 1
        elif action.name not in toolbox:
            cells[following[0].preferred(), UNKNOWN] += 1
        else:
            fresh = (action.name, action.arguments) not in earlier
            content = orjson.loads(step.observation) if step.observation else None
            due, following = walks.follow(
                following, action, toolbox[action.name], content, failed=step.error is not None, fresh=fresh
            )
            cells[due, action.name] += 1
            earlier.append((action.name, action.arguments))
    return dict(cells)


# -- many episodes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolScores:
    """How well one tool was chosen. `n` of precision: calls of it; of recall: times it was due; None where 0."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    precision: Metric | None
    recall: Metric | None
    f1: float


def added(selections: Iterable[Decisions]) -> Counter[tuple[str, str]]:
    """The decisions of several episodes together."""
    total: Counter[tuple[str, str]] = Counter()
    for selection in selections:
        total.update(selection)
    return total


def selection_scores(selections: Sequence[Decisions], seed: int) -> dict[str, Any]:
    """Precision, recall and F1 of every tool, their macro averages, and the confusion matrix.

    Args:
        selections: of each task, as `tool_selection` gives it.
    """
    total = added(selections)
    names = sorted({name for cell in total for name in cell} - {ANSWER, UNREADABLE, UNKNOWN})
    confusion: dict[str, dict[str, int]] = defaultdict(dict)
    for (due, chosen), count in sorted(total.items()):
        confusion[due][chosen] = count
    scores: dict[str, Any] = {"tool_precision": None, "tool_recall": None, "tool_f1": None, "tools": {}}
    scores["confusion"] = dict(confusion)
    if not names:
        return scores
    index = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(selections), 3, len(names)))  # right, chosen, due: of each task and tool
    for row, selection in enumerate(selections):
        for (due, chosen), count in selection.items():
            if chosen in index:
                table[row, 1, index[chosen]] += count
            if due in index:
                table[row, 2, index[due]] += count
                if due == chosen:
                    table[row, 0, index[due]] += count
    decisions = sum(total.values())
    macro = bootstrap(table.reshape(len(table), -1), lambda sums: _macro(sums, len(names)), seed=seed)
    for key, value, low, high in zip(("tool_precision", "tool_recall", "tool_f1"), *macro, strict=True):
        scores[key] = Metric(float(value), float(low), float(high), decisions)
    right, chosen_sum, due_sum = table.sum(axis=0)
    for name, i in index.items():
        precision, recall = proportion(table[:, 0, i], table[:, 1, i]), proportion(table[:, 0, i], table[:, 2, i])
        scores["tools"][name] = ToolScores(precision, recall, float(2 * right[i] / (chosen_sum[i] + due_sum[i])))
    return scores


def _macro(sums: Floats, tools: int) -> Floats:
    """(resamples, 3 x tools) sums of right, chosen and due -> (resamples, 3) macro precision, recall and F1.

    Each is averaged over the tools for which it is defined: called for precision, due for recall, either for F1.
    """
    right, chosen, due = sums.reshape(len(sums), 3, tools).transpose(1, 0, 2)
    parts = ((right, chosen), (right, due), (2 * right, chosen + due))
    return np.column_stack([_mean_share(top, bottom) for top, bottom in parts])


def _mean_share(top: Floats, bottom: Floats) -> Floats:
    """The mean of top / bottom over the columns where bottom is above 0; 0 where there is none."""
    return np.asarray((top / np.maximum(bottom, 1)).sum(axis=1) / np.maximum((bottom > 0).sum(axis=1), 1))
