"""Tool selection: was the tool that was called one that the gold plan, or a route beside it, could have called next?

What this omits: whether a call that no plan foresees would have served as well. Only running it on a fork tells.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import orjson
from pydantic import ConfigDict

from toolenv.agents.intervals import Floats, Metric, bootstrap, proportion
from toolenv.agents.trajectory import Step
from toolenv.envs.actions import Action, Answer, Call
from toolenv.scenarios.plan import CompiledCall, CompiledStep
from toolenv.scenarios.sampler import Task
from toolenv.scenarios.templates import TemplateError
from toolenv.tools.calls import Json
from toolenv.tools.declaration import Tool
from toolenv.tools.errors import InvalidArguments
from toolenv.tools.toolbox import Toolbox

Decisions = Mapping[tuple[str, str], int]

ANSWER, UNREADABLE, UNKNOWN = "(answer)", "(unreadable)", "(unknown tool)"
"""What a decision is in the confusion matrix when it is no call of a tool of the toolbox."""

_MAX_WALKS: Final = 16


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
    walks = [_Walk(plan.steps, dict(task.variables)) for plan in task.compiled.plans]
    cells: Counter[tuple[str, str]] = Counter()
    earlier: list[tuple[str, Json]] = []
    for step, action in zip(steps, actions, strict=True):
        if isinstance(action, Answer):
            if any(ANSWER in walk.next_tools() for walk in walks):
                cells[ANSWER, ANSWER] += 1
            else:
                cells.update((due, ANSWER) for due in walks[0].overdue())
        elif not isinstance(action, Call):
            cells[walks[0].preferred(), UNREADABLE] += 1
        elif action.name not in toolbox:
            cells[walks[0].preferred(), UNKNOWN] += 1
        else:
            fresh = (action.name, action.arguments) not in earlier
            due, walks = _follow(walks, action, step, toolbox[action.name], fresh=fresh)
            cells[due, action.name] += 1
            earlier.append((action.name, action.arguments))
    return dict(cells)


def _follow(walks: list[_Walk], call: Call, step: Step, tool: Tool, *, fresh: bool) -> tuple[str, list[_Walk]]:
    """What was due, the call itself if it is right; and the walks that fit the episode with this call."""
    arguments = _validated(tool, call.arguments)
    content = orjson.loads(step.observation) if step.observation else None
    exact = [
        (walk, index, option)
        for walk in walks
        for index in walk.reachable()
        for option in walk.steps[index].calls
        if option.name == call.name and arguments is not None and walk.writes(index, option, tool) == arguments
    ]
    if exact:
        return call.name, _advance(exact, content) or walks
    near = [(walk, i, option) for walk in walks for i in walk.next() for option in walk.calls(i, call.name)]
    due = call.name if near else walks[0].preferred()
    if step.error is not None or not fresh:
        return due, walks
    later = near or [(w, i, option) for w in walks for i in w.reachable() for option in w.calls(i, call.name)]
    return due, _distinct([*_advance(later, content, skipping=not near), *walks])


def _advance(
    matches: Iterable[tuple[_Walk, int, CompiledCall]], content: Json, *, skipping: bool = False
) -> list[_Walk]:
    moved = (walk.advance(index, option, content, skipping=skipping) for walk, index, option in matches)
    return _distinct([walk for walk in moved if walk is not None])


def _distinct(walks: list[_Walk]) -> list[_Walk]:
    first: dict[Any, _Walk] = {}
    for walk in walks:
        first.setdefault((id(walk.steps), walk.made, walk.missed), walk)
    return list(first.values())[:_MAX_WALKS]


def _validated(tool: Tool, arguments: Json) -> dict[str, Json] | None:
    try:
        return tool.validate(arguments)
    except InvalidArguments:
        return None


@dataclass(frozen=True, slots=True)
class _Walk:
    """How far one route has come, with its steps made in any order. (`GuidedRun` makes them in order.)

    Attributes:
        steps: the compiled steps of the route.
        context: the task's variables and the results that the route remembers.
        made, missed: positions of steps that were made, and that were skipped by a decision counted as wrong.
    """

    steps: Sequence[CompiledStep]
    context: dict[str, Any]
    made: frozenset[int] = frozenset()
    missed: frozenset[int] = frozenset()

    def next(self) -> list[int]:
        """Positions of the steps that may come now: the first whose turn it surely is, and before it those that were
        missed or whose condition can not be told."""
        found = []
        for index, holds in self._open():
            found.append(index)
            if holds and index not in self.missed:
                break
        return found

    def reachable(self) -> list[int]:
        """Positions of all calls up to the first answer that is not ruled out."""
        found = []
        for index, _ in self._open():
            if self.steps[index].answers:
                break
            found.append(index)
        return found

    def _open(self) -> Iterator[tuple[int, bool]]:
        """Steps not made whose condition holds (True) or can not be told yet (False)."""
        for index, step in enumerate(self.steps):
            if index in self.made:
                continue
            try:
                if step.applies(self.context):
                    yield index, True
            except TemplateError:
                yield index, False

    def next_tools(self) -> set[str]:
        return {name for index in self.next() for name in self._names(index)}

    def preferred(self) -> str:
        return next((self._names(i)[0] for i in self.next() if i not in self.missed), ANSWER)

    def overdue(self) -> list[str]:
        """The preferred tools of the next step and of those that were put off."""
        last = max((self.next()[-1], *self.made))
        return [self._names(i)[0] for i, holds in self._open() if i <= last and holds and i not in self.missed]

    def calls(self, index: int, name: str) -> list[CompiledCall]:
        return [option for option in self.steps[index].calls if option.name == name][:1]

    def writes(self, index: int, option: CompiledCall, tool: Tool) -> dict[str, Json] | None:
        """The arguments that the route gives the call now; None if it lacks a result for that."""
        try:
            return _validated(tool, option.arguments(self.context))
        except TemplateError:
            return None

    def advance(self, index: int, option: CompiledCall, content: Json, *, skipping: bool) -> _Walk | None:
        """The walk after a step; None if the route can not take what it needs from the result."""
        try:
            context = self.steps[index].remember(self.context, option, content)
        except TemplateError:
            return None
        skipped = {i for i, _ in self._open() if i < index} if skipping else set()
        return _Walk(self.steps, context, self.made | {index}, (self.missed | skipped) - {index})

    def _names(self, index: int) -> list[str]:
        step = self.steps[index]
        return [ANSWER] if step.answers else [option.name for option in step.calls]


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
