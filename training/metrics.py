"""Metrics of recorded episodes, each with its 95% interval and the number of observations behind it.

`measure` turns one trajectory into counts, `summarize` a group of such counts into `Scores`. Both are pure: they
run no tool and open no world. Episodes whose sandbox was lost say nothing about the policy and are left out.

Observations of one task (its calls, its repeated trials) resemble each other, so intervals are those of clustered
samples: a proportion has Wilson's interval at its effective sample size, a mean, a ratio or an F1 a bootstrap over
tasks.

What this omits: whether a call that no plan foresees would have served as well. Only running it on a fork tells.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
import orjson
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict

from toolenv.agents.dialects import SpanKind
from toolenv.agents.trajectory import Step, Trajectory
from toolenv.envs.actions import Action, Answer, Call
from toolenv.scenarios.sampler import Task
from toolenv.scenarios.templates import TemplateError
from toolenv.tools.calls import Json
from toolenv.tools.declaration import Tool
from toolenv.tools.errors import InvalidArguments, MalformedCall, UnknownTool
from toolenv.tools.toolbox import Toolbox

Floats = NDArray[np.float64]

Z_95: Final = 1.959963984540054
RESAMPLES: Final = 1_000
_BLOCK_CELLS: Final = 2_000_000

ANSWER, UNREADABLE, UNKNOWN = "(answer)", "(unreadable)", "(unknown tool)"
"""What a decision is in the confusion matrix when it is no call of a tool of the toolbox."""

TOKENS, APPROXIMATE_TOKENS = "tokens", "characters/4"
"""How tokens were counted: the policy's own where every step recorded them, else a quarter of the characters."""

_NOT_VALID: Final = frozenset((MalformedCall.type, UnknownTool.type, InvalidArguments.type))
_STRICT = ConfigDict(extra="forbid", strict=True)


# -- intervals -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Metric:
    """A value with its 95% interval and the number of observations behind it (at least 1)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    value: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); neither number need be whole.

    Raises:
        ValueError: `n` is not above 0, or `successes` not within 0 to `n`.
    """
    if not n > 0 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs n above 0 and successes within 0 to n; got {successes} of {n}")
    share, square = successes / n, z * z
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def proportion(hits: ArrayLike, trials: ArrayLike) -> Metric | None:
    """The share of hits among trials that come in clusters; None without a trial.

    Args:
        hits, trials: (clusters,); of each cluster.

    The interval is Wilson's at the effective sample size `trials / design effect` (Korn and Graubard 1998), where
    the design effect is the variance of the ratio over clusters beside that of independent trials, and at least 1.
    One cluster alone counts as one trial, since nothing shows how clusters differ.
    """
    hit, tried = np.asarray(hits, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    hit, tried = hit[tried > 0], tried[tried > 0]
    total, clusters = float(tried.sum()), len(tried)
    if clusters == 0:
        return None
    share = min(1.0, float(hit.sum()) / total)
    effect = 1.0 if clusters > 1 else total
    if clusters > 1 and 0 < share < 1:
        variance = clusters / (clusters - 1) * float(((hit - share * tried) ** 2).sum()) / total**2
        independent = share * (1 - share) / (total - 1)
        effect = max(1.0, round(variance / independent, 9))
    effective = total / effect
    return Metric(share, *wilson(share * effective, effective), round(total))


def bootstrap(
    table: Floats, statistic: Callable[[Floats], Floats], *, seed: int, resamples: int = RESAMPLES
) -> tuple[Floats, Floats, Floats]:
    """Statistics of column sums, and the ends of their 95% percentile intervals over resampled rows.

    Args:
        table: (rows, columns); one row a cluster.
        statistic: from (resamples, columns) sums to (resamples, statistics).
        seed: of the resampling.

    Returns:
        value, low, high: (statistics,) each. An interval is widened to its value where resampling missed it.
    """
    rows = len(table)
    rng = np.random.default_rng(seed)
    drawn: list[Floats] = []
    while (left := resamples - sum(map(len, drawn))) > 0:
        block = min(left, max(1, _BLOCK_CELLS // rows))
        picks = rng.integers(rows, size=(block, rows)) + np.arange(block)[:, None] * rows
        weights = np.bincount(picks.ravel(), minlength=block * rows).reshape(block, rows)
        drawn.append(statistic(weights.astype(np.float64) @ table))
    value = statistic(table.sum(axis=0, keepdims=True))[0]
    low, high = np.percentile(np.concatenate(drawn), (2.5, 97.5), axis=0)
    return value, np.minimum(low, value), np.maximum(high, value)


def ratio(numerators: ArrayLike, denominators: ArrayLike, *, seed: int) -> Metric | None:
    """Sum over sum, such as steps an episode, with a bootstrap over clusters; None if the denominators are all 0.

    Args:
        numerators, denominators: (clusters,); denominators are whole numbers. Resamples that sum up to 0 count as 1.
    """
    table = np.column_stack((np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)))
    n = round(float(table[:, 1].sum()))
    if n == 0:
        return None
    value, low, high = bootstrap(table, lambda sums: sums[:, :1] / np.maximum(sums[:, 1:], 1), seed=seed)
    return Metric(float(value[0]), float(low[0]), float(high[0]), n)


def pass_hat_k(successes: Sequence[int], trials: Sequence[int], k: int) -> Metric | None:
    """pass^k: the chance that k trials at a task all succeed, averaged over tasks (Yao et al. 2024, tau-bench).

    Per task C(c, k) / C(n, k) of c successes in n trials. Tasks with fewer than k trials are left out; None if all
    are.
    """
    shares = [math.comb(c, k) / math.comb(n, k) for c, n in zip(successes, trials, strict=True) if n >= k]
    return proportion(shares, np.ones(len(shares)))


# -- one episode ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EpisodeMeasure:
    """What is counted in one episode.

    Attributes:
        calls: calls attempted: every step but the answer, so unreadable texts and unknown tools too.
        valid: calls that parse and validate. `not_found` and `rule_violation` are answers to valid calls.
        identifiers, invented: identifier-typed argument values, and those of them that were never seen.
        errors: error type -> calls.
        selection: (due, chosen) -> decisions; see `tool_selection`.
        tokens: of the policy's own text; `counted` if they were recorded, else a quarter of its characters.
        reasoning: characters before the control token, of all steps.
        policy_s: seconds the policy took, if that was recorded.
    """

    task: str
    family: str
    difficulty: int
    seed: int
    policy: str
    trial: int
    success: bool
    lost: bool
    steps: int
    calls: int
    valid: int
    identifiers: int
    invented: int
    errors: dict[str, int]
    selection: dict[tuple[str, str], int]
    tokens: float
    counted: bool
    reasoning: int
    policy_s: float | None


def measure(trajectory: Trajectory, toolbox: Toolbox, task: Task | None = None) -> EpisodeMeasure:
    """Count what one episode tells.

    Args:
        task: the episode's task; without it, as in logs from elsewhere, tool selection is not judged.

    Raises:
        ValueError: `task` is another task than the episode's, or of another version of the scenario.
    """
    if task is not None and (task.id, task.scenario.version) != (trajectory.task, trajectory.scenario_version):
        raise ValueError(
            f"the episode is of {trajectory.task} at version {trajectory.scenario_version}, "
            f"the task is {task.id} at version {task.scenario.version}"
        )
    steps, actions = trajectory.steps, [step.parsed for step in trajectory.steps]
    attempted = [step for step, action in zip(steps, actions, strict=True) if not isinstance(action, Answer)]
    identifiers, invented = argument_hallucination(trajectory, toolbox, actions)
    counted = bool(steps) and all(step.token_ids is not None for step in steps)
    return EpisodeMeasure(
        task=trajectory.task,
        family=trajectory.family,
        difficulty=trajectory.difficulty,
        seed=trajectory.seed,
        policy=trajectory.policy,
        trial=trajectory.trial,
        success=trajectory.success,
        lost=trajectory.sandbox_lost,
        steps=len(steps),
        calls=len(attempted),
        valid=sum(step.error not in _NOT_VALID for step in attempted),
        identifiers=identifiers,
        invented=invented,
        errors=Counter(step.error for step in attempted if step.error is not None),
        selection={} if task is None else tool_selection(steps, actions, task, toolbox),
        tokens=sum(len(step.token_ids or ()) if counted else len(step.text) / 4 for step in steps),
        counted=counted,
        reasoning=sum(s.end - s.start for step in steps for s in step.spans if s.kind is SpanKind.REASON),
        policy_s=None if trajectory.timing is None else trajectory.timing.policy_s,
    )


def argument_hallucination(
    trajectory: Trajectory, toolbox: Toolbox, actions: Sequence[Action] | None = None
) -> tuple[int, int]:
    """Identifier-typed argument values of the calls of known tools, and how many of them were never seen.

    Seen is a value that stands, as a whole word, in the system text, the instruction or an earlier observation, or
    that the argument's schema enumerates. An error that only repeats what the agent had made up is no source: the
    value counts again each time until a successful result holds it. Examples in tool descriptions are no source
    either. Null and values that are not text are not counted; schema validity counts those.
    """
    actions = [step.parsed for step in trajectory.steps] if actions is None else actions
    seen = [trajectory.system, trajectory.instruction]
    made_up: set[str] = set()
    total = invented = 0
    for step, action in zip(trajectory.steps, actions, strict=True):
        if isinstance(action, Call) and action.name in toolbox:
            tool = toolbox[action.name]
            for name in tool.identifiers:
                if not isinstance(value := action.arguments.get(name), str):
                    continue
                total += 1
                if value in made_up or not (_stands_in(value, seen) or value in _enumerated(tool, name)):
                    made_up.add(value)
                    invented += 1
        if step.error is None and made_up:
            made_up = {value for value in made_up if not _stands_in(value, [step.observation])}
        seen.append(step.observation)
    return total, invented


# Boundaries of ASCII letters, since in Japanese text an identifier touches letters on both sides.
_WORD_BEFORE = re.compile(r"(?:[A-Za-z0-9_+-]|[A-Za-z0-9]\.)$")
_WORD_AFTER = re.compile(r"[A-Za-z0-9_]|[.-][A-Za-z0-9]")


def _stands_in(value: str, texts: Iterable[str]) -> bool:
    """Whether a value occurs as a whole word: ORD-00042 does not occur in ORD-000421, nor a@b.co in a@b.co.uk."""
    return bool(value) and any(_is_whole(text, at, at + len(value)) for text in texts for at in _places(value, text))


def _places(value: str, text: str) -> Iterator[int]:
    at = text.find(value)
    while at >= 0:
        yield at
        at = text.find(value, at + 1)


def _is_whole(text: str, start: int, end: int) -> bool:
    before = text[max(0, start - 2) : start]
    return _WORD_BEFORE.search(before) is None and _WORD_AFTER.match(text, end) is None


def _enumerated(tool: Tool, argument: str) -> list[Json]:
    schema = tool.spec.parameters["properties"][argument]
    parts = [schema, *schema.get("anyOf", ())]
    return [value for part in parts for value in (*part.get("enum", ()), *([part["const"]] if "const" in part else ()))]


# -- tool selection ------------------------------------------------------------------------------------


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


_MAX_WALKS = 16


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
        return call.name, _advance(exact, content, step.error) or walks
    near = [(walk, i, option) for walk in walks for i in walk.next() for option in walk.calls(i, call.name)]
    due = call.name if near else walks[0].preferred()
    if step.error is not None or not fresh:
        return due, walks
    later = near or [(w, i, option) for w in walks for i in w.reachable() for option in w.calls(i, call.name)]
    return due, _distinct([*_advance(later, content, None, skipping=not near), *walks])


def _advance(
    matches: Iterable[tuple[_Walk, int, Any]], content: Json, error: str | None, *, skipping: bool = False
) -> list[_Walk]:
    moved = (walk.advance(index, option, content, error, skipping=skipping) for walk, index, option in matches)
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
    """How far one route has come.

    Attributes:
        steps: the compiled steps of the route.
        context: the task's variables and the results that the route remembers.
        made, missed: positions of steps that were made, and that were skipped by a decision counted as wrong.
    """

    steps: list[Any]
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

    def _open(self) -> Iterable[tuple[int, bool]]:
        """Steps not made whose condition holds (True) or can not be told yet (False)."""
        for index, step in enumerate(self.steps):
            if index in self.made:
                continue
            holds = True
            if step.when is not None:
                try:
                    if not step.when(self.context):
                        continue
                except TemplateError:
                    holds = False
            yield index, holds

    def next_tools(self) -> set[str]:
        return {name for index in self.next() for name in self._names(index)}

    def preferred(self) -> str:
        return next((self._names(i)[0] for i in self.next() if i not in self.missed), ANSWER)

    def overdue(self) -> list[str]:
        """The preferred tools of the next step and of those that were put off."""
        last = max((self.next()[-1], *self.made))
        return [self._names(i)[0] for i, holds in self._open() if i <= last and holds and i not in self.missed]

    def calls(self, index: int, name: str) -> list[Any]:
        return [option for option in self.steps[index].calls if option.name == name][:1]

    def writes(self, index: int, option: Any, tool: Tool) -> dict[str, Json] | None:
        """The arguments that the route gives the call now; None if it lacks a result for that."""
        try:
            return _validated(tool, option.arguments(self.context))
        except TemplateError:
            return None

    def advance(self, index: int, option: Any, content: Json, error: str | None, *, skipping: bool) -> _Walk | None:
        """The walk after a step; None if the route can not take what it needs from the result."""
        context, step = self.context, self.steps[index]
        if step.name is not None:
            value = content
            if option.take is not None and error is None:
                try:
                    value = option.take({**context, "result": content})
                except TemplateError:
                    return None
            context = {**context, step.name: value}
        skipped = {i for i, _ in self._open() if i < index} if skipping else set()
        return _Walk(self.steps, context, self.made | {index}, (self.missed | skipped) - {index})

    def _names(self, index: int) -> list[str]:
        step = self.steps[index]
        return [ANSWER] if step.answers else [option.name for option in step.calls]


# -- many episodes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolScores:
    """How well one tool was chosen. `n` of precision: calls of it; of recall: times it was due; None where 0."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    precision: Metric | None
    recall: Metric | None
    f1: float


@dataclass(frozen=True, slots=True)
class Scores:
    """The metrics of a group of episodes. A metric without anything to measure is None.

    Attributes:
        episodes, tasks: that were measured; `lost` are those left out since their sandbox was lost.
        success: share of episodes that the grader accepts.
        pass_k: pass^1, pass^2, ... up to the trials a task.
        schema_validity: calls that parse and validate / calls attempted.
        hallucination: identifier-typed argument values never seen / such values; see `argument_hallucination`.
        tool_precision, tool_recall, tool_f1: macro averages over the tools that were due or called; `n` is decisions.
        confusion: due -> chosen -> decisions; see `tool_selection`.
        steps, tokens: an episode. `token_unit` tells how tokens were counted.
        steps_per_solved, tokens_per_solved: of all episodes, failed ones too, over the number solved.
        reasoning: characters of reasoning a step.
        errors: error type -> share of calls attempted.
        policy_s: seconds of the policy an episode; not compared, since it does not replay.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    episodes: int
    tasks: int
    lost: int
    success: Metric
    pass_k: tuple[Metric, ...]
    schema_validity: Metric | None
    hallucination: Metric | None
    tool_precision: Metric | None
    tool_recall: Metric | None
    tool_f1: Metric | None
    tools: dict[str, ToolScores]
    confusion: dict[str, dict[str, int]]
    steps: Metric
    steps_per_solved: Metric | None
    tokens: Metric
    tokens_per_solved: Metric | None
    token_unit: str
    reasoning: Metric
    errors: dict[str, Metric]
    policy_s: Metric | None = field(default=None, compare=False)


def summarize(measures: Iterable[EpisodeMeasure], *, seed: int = 0) -> Scores:
    """The metrics of a group of episodes; their order does not matter.

    Args:
        seed: of the bootstrap.

    Raises:
        ValueError: there is no episode to measure.
    """
    given = sorted(measures, key=lambda m: (m.task, m.trial))
    kept = [m for m in given if not m.lost]
    if not kept:
        raise ValueError(f"no episode to measure: of {len(given)} given, {len(given)} lost their sandbox")
    by_task: dict[str, list[EpisodeMeasure]] = defaultdict(list)
    for m in kept:
        by_task[m.task].append(m)
    groups = list(by_task.values())

    def sums(count: Callable[[EpisodeMeasure], float]) -> Floats:
        return np.array([sum(count(m) for m in group) for group in groups], dtype=np.float64)

    ones, solved, calls = sums(lambda m: 1), sums(lambda m: m.success), sums(lambda m: m.calls)
    counted = all(m.counted for m in kept)
    steps, tokens = sums(lambda m: m.steps), sums(lambda m: m.tokens)
    timed = sums(lambda m: m.policy_s is not None)
    wins, trials = [int(c) for c in solved], [int(n) for n in ones]
    errors = {kind: [_of_kind(group, kind) for group in groups] for kind in sorted({k for m in kept for k in m.errors})}
    return Scores(
        episodes=len(kept),
        tasks=len(groups),
        lost=len(given) - len(kept),
        success=_defined(proportion(solved, ones)),
        pass_k=tuple(_defined(pass_hat_k(wins, trials, k)) for k in range(1, max(trials) + 1)),
        schema_validity=proportion(sums(lambda m: m.valid), calls),
        hallucination=proportion(sums(lambda m: m.invented), sums(lambda m: m.identifiers)),
        **_selection_scores([_added(m.selection for m in group) for group in groups], seed),
        steps=_defined(ratio(steps, ones, seed=seed)),
        steps_per_solved=ratio(steps, solved, seed=seed),
        tokens=_defined(ratio(tokens, ones, seed=seed)),
        tokens_per_solved=ratio(tokens, solved, seed=seed),
        token_unit=TOKENS if counted else APPROXIMATE_TOKENS,
        reasoning=_defined(ratio(sums(lambda m: m.reasoning), np.maximum(steps, 1), seed=seed)),
        errors={kind: _defined(proportion(counts, calls)) for kind, counts in errors.items()},
        policy_s=ratio(sums(lambda m: m.policy_s or 0), timed, seed=seed),
    )


def _of_kind(group: Iterable[EpisodeMeasure], kind: str) -> int:
    return sum(m.errors.get(kind, 0) for m in group)


def _defined(metric: Metric | None) -> Metric:
    assert metric is not None, "there is at least one episode, and at least one call where there is an error"
    return metric


def _added(selections: Iterable[Mapping[tuple[str, str], int]]) -> Counter[tuple[str, str]]:
    total: Counter[tuple[str, str]] = Counter()
    for selection in selections:
        total.update(selection)
    return total


def _selection_scores(selections: Sequence[Mapping[tuple[str, str], int]], seed: int) -> dict[str, Any]:
    """Precision, recall and F1 of every tool, their macro averages, and the confusion matrix.

    Args:
        selections: of each task, as `tool_selection` gives it.
    """
    total = _added(selections)
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
