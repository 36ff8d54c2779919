"""Metrics of recorded episodes, each with its 95% interval and the number of observations behind it.

`measure` turns one trajectory into counts, `summarize` a group of such counts into `Scores`. Both are pure: they
run no tool and open no world. Episodes whose sandbox was lost say nothing about the policy and are left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from pydantic import ConfigDict

from toolenv.agents.dialects import SpanKind
from toolenv.agents.equivalence import Label
from toolenv.agents.grounding import identifier_uses
from toolenv.agents.intervals import Floats, Metric, pass_hat_k, proportion, ratio
from toolenv.agents.trajectory import Trajectory
from toolenv.agents.usage import total
from toolenv.envs.actions import Action, Answer, Call
from toolenv.scenarios.sampler import Task
from toolenv.tools.errors import INVALID_CALLS
from toolenv.tools.toolbox import Toolbox
from toolenv.training.selection import ToolScores, added, selection_scores, tool_selection

TOKENS, APPROXIMATE_TOKENS = "tokens", "characters/4"
"""How tokens were counted: the policy's own where every step recorded them, else a quarter of the characters."""


# -- one episode ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EpisodeMeasure:
    """What is counted in one episode.

    Attributes:
        calls: calls attempted: every step but the answer, so unreadable texts and unknown tools too.
        valid: calls that parse and validate. `not_found` and `rule_violation` are answers to valid calls.
        identifiers, invented: identifier-typed argument values, and those of them never seen (`identifier_uses`).
        errors: error type -> calls.
        selection: (due, chosen) -> decisions; see `tool_selection`.
        judged, right: steps that were judged on a fork, and those of them that were preferred or acceptable.
        overlaps, preferred: right calls where several tools would have done, and those of them that were preferred.
        regret: steps beyond the shortest way, of all that were not wrong.
        tokens: of the policy's own text; `counted` if they were recorded, else a quarter of its characters.
        reasoning: characters before the control token, of all steps.
        policy_s: seconds the policy took, if that was recorded.
        graded: whether `success` is known; of logs from elsewhere it is only if they tell.
        repeated: calls that are, arguments included, an earlier one of the episode again.
        usd: what the policy's endpoint was paid, if that was recorded.
        called, failed: tool of the toolbox -> its calls, and those of them that came to an error.
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
    judged: int
    right: int
    overlaps: int
    preferred: int
    regret: int
    tokens: float
    counted: bool
    reasoning: int
    policy_s: float | None
    graded: bool = True
    repeated: int = 0
    usd: float | None = None
    called: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)


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
    uses = list(identifier_uses(trajectory, toolbox))
    failed = [step for step in steps if step.error is not None]
    counted = bool(steps) and all(step.token_ids is not None for step in steps)
    labels = [step.labels for step in steps if "label" in step.labels]
    right = [label for label in labels if Label(label["label"]).right]
    overlaps = [label for label in right if label.get("overlap")]
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
        valid=sum(step.error not in INVALID_CALLS for step in attempted),
        identifiers=len(uses),
        invented=sum(not use.seen for use in uses),
        errors=Counter(step.error for step in attempted if step.error is not None),
        selection={} if task is None else tool_selection(steps, actions, task, toolbox),
        judged=len(labels),
        right=len(right),
        overlaps=len(overlaps),
        preferred=sum(label["label"] == Label.PREFERRED for label in overlaps),
        regret=sum(label.get("regret", 0) for label in labels),
        tokens=sum(len(step.token_ids or ()) if counted else len(step.text) / 4 for step in steps),
        counted=counted,
        reasoning=sum(s.end - s.start for step in steps for s in step.spans if s.kind is SpanKind.REASON),
        policy_s=None if trajectory.timing is None else trajectory.timing.policy_s,
        graded=trajectory.graded,
        repeated=_repeated(actions),
        usd=_usd(trajectory),
        called=Counter(tool for step in steps if (tool := step.tool) is not None and tool in toolbox),
        failed=Counter(tool for step in failed if (tool := step.tool) is not None and tool in toolbox),
    )


def _repeated(actions: Sequence[Action]) -> int:
    calls = [(action.name, action.arguments) for action in actions if isinstance(action, Call)]
    return sum(call in calls[:place] for place, call in enumerate(calls))


def _usd(trajectory: Trajectory) -> float | None:
    """What the steps cost together, if that is known."""
    return total(trajectory.usage or ()).usd


# -- many episodes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scores:
    """The metrics of a group of episodes. A metric without anything to measure is None.

    Attributes:
        episodes, tasks: that were measured; `lost` are those left out since their sandbox was lost.
        success: share of episodes that the grader accepts; `n` is those whose outcome is known. None if of none.
        pass_k: pass^1, pass^2, ... up to the trials a task.
        schema_validity: calls that parse and validate / calls attempted.
        hallucination: identifier-typed argument values never seen / such values; see `identifier_uses`.
        tool_precision, tool_recall, tool_f1: macro averages over the tools that were due or called; `n` is decisions.
        confusion: due -> chosen -> decisions; see `tool_selection`.
        step_correctness: steps that are preferred or acceptable / steps judged; see `agents.equivalence`.
        routing_precision: preferred calls / right calls, where several tools would have done.
        regret: steps an episode beyond the shortest way; wrong ones are not counted.
        steps, tokens: an episode. `token_unit` tells how tokens were counted.
        steps_per_solved, tokens_per_solved: of all episodes, failed ones too, over the number solved.
        reasoning: characters of reasoning a step.
        errors: error type -> share of calls attempted.
        policy_s, policy_s_per_solved: seconds of the policy an episode, and of all over the number solved; not
            compared, since they do not replay.
        repeated: calls that repeat an earlier one of their episode, arguments included / calls attempted.
        tool_errors: tool -> share of its calls that came to an error.
        usd, usd_per_solved: dollars an episode, and of all over the number solved, where records tell.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    episodes: int
    tasks: int
    lost: int
    success: Metric | None
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
    step_correctness: Metric | None = None
    routing_precision: Metric | None = None
    regret: Metric | None = None
    policy_s: Metric | None = field(default=None, compare=False)
    policy_s_per_solved: Metric | None = field(default=None, compare=False)
    repeated: Metric | None = None
    usd: Metric | None = None
    usd_per_solved: Metric | None = None
    tool_errors: dict[str, Metric] = field(default_factory=dict)


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

    def per_solved(count: Callable[[EpisodeMeasure], float | None]) -> Metric | None:
        """Of the episodes whose outcome is known and that tell the number; the failed ones are paid for, too."""
        told = sums(lambda m: (count(m) or 0) * m.graded)
        return ratio(told, sums(lambda m: m.success and m.graded and count(m) is not None), seed=seed)

    ones, graded, calls = sums(lambda m: 1), sums(lambda m: m.graded), sums(lambda m: m.calls)
    solved = sums(lambda m: m.success and m.graded)
    counted = all(m.counted for m in kept)
    steps, tokens = sums(lambda m: m.steps), sums(lambda m: m.tokens)
    timed, judged = sums(lambda m: m.policy_s is not None), sums(lambda m: m.judged)
    wins, trials = [int(c) for c in solved], [int(n) for n in graded]
    errors = {kind: [_of_kind(group, kind) for group in groups] for kind in sorted({k for m in kept for k in m.errors})}
    return Scores(
        episodes=len(kept),
        tasks=len(groups),
        lost=len(given) - len(kept),
        success=proportion(solved, graded),
        pass_k=tuple(_defined(pass_hat_k(wins, trials, k)) for k in range(1, max(trials) + 1)),
        schema_validity=proportion(sums(lambda m: m.valid), calls),
        hallucination=proportion(sums(lambda m: m.invented), sums(lambda m: m.identifiers)),
        **selection_scores([added(m.selection for m in group) for group in groups], seed),
        steps=_defined(ratio(steps, ones, seed=seed)),
        steps_per_solved=per_solved(lambda m: m.steps),
        tokens=_defined(ratio(tokens, ones, seed=seed)),
        tokens_per_solved=per_solved(lambda m: m.tokens),
        token_unit=TOKENS if counted else APPROXIMATE_TOKENS,
        reasoning=_defined(ratio(sums(lambda m: m.reasoning), np.maximum(steps, 1), seed=seed)),
        errors={kind: _defined(proportion(counts, calls)) for kind, counts in errors.items()},
        step_correctness=proportion(sums(lambda m: m.right), judged),
        routing_precision=proportion(sums(lambda m: m.preferred), sums(lambda m: m.overlaps)),
        regret=ratio(sums(lambda m: m.regret), sums(lambda m: m.judged > 0), seed=seed),
        policy_s=ratio(sums(lambda m: m.policy_s or 0), timed, seed=seed),
        policy_s_per_solved=per_solved(lambda m: m.policy_s),
        repeated=proportion(sums(lambda m: m.repeated), calls),
        usd=ratio(sums(lambda m: m.usd or 0), sums(lambda m: m.usd is not None), seed=seed),
        usd_per_solved=per_solved(lambda m: m.usd),
        tool_errors={
            name: _defined(proportion(*(_sums(groups, name, which) for which in ("failed", "called"))))
            for name in sorted({name for m in kept for name in m.called})
        },
    )


def _sums(groups: Sequence[Sequence[EpisodeMeasure]], name: str, which: Literal["called", "failed"]) -> list[int]:
    return [sum(getattr(m, which).get(name, 0) for m in group) for group in groups]


def _of_kind(group: Iterable[EpisodeMeasure], kind: str) -> int:
    return sum(m.errors.get(kind, 0) for m in group)


def _defined(metric: Metric | None) -> Metric:
    assert metric is not None, "there is at least one episode, and at least one call where there is an error"
    return metric
