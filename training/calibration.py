"""How good a judge of steps is: its verdicts beside the exact labels, over recorded episodes.

A step is bad if it is wasteful or wrong (`agents.equivalence`). Left out are steps at states from which the task can
not be solved any more: there nothing is right, and no judge that sees only the conversation could know. Agreement,
kappa and bias are over the steps on which the judge did not abstain; recall counts an abstention as a bad step that was
missed.

What this omits: a judge's reasons, which nothing here is compared with.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import orjson
from rich.console import Console

from toolenv.agents.equivalence import Guide, Judgement, Label
from toolenv.agents.intervals import Floats, Metric, bootstrap, proportion, ratio
from toolenv.agents.judge import StepJudge, Verdict, verdict_of
from toolenv.agents.recorded_user import begin_again
from toolenv.agents.trajectory import Step, Trajectory
from toolenv.agents.walks import ANSWER
from toolenv.envs.actions import Answer, Call
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import Scenario
from toolenv.tools.errors import RecordError
from toolenv.training.evaluation_tables import compact_table
from toolenv.training.selection import UNKNOWN, UNREADABLE

SCHEMA_VERSION: Final = 1
_LAST_POSITION = 5
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class JudgedStep:
    """A step, the exact label, and what the judge said.

    Attributes:
        position: in the episode, from 1.
        length: characters of the step's text.
        tool: that was called; or "(answer)" and the like.
    """

    task: str
    position: int
    length: int
    tool: str
    label: Label
    verdict: Verdict

    @property
    def bad(self) -> bool:
        return verdict_of(self.label) is Verdict.BAD


@dataclass(frozen=True, slots=True)
class Stratum:
    """The judge on a part of the steps.

    Attributes:
        agreement: share of right verdicts; `n` is steps on which the judge did not abstain. None if there are none.
        bias: share of steps that it calls bad less the share that is bad, -1 to 1; above 0 it is too strict.
    """

    steps: int
    agreement: Metric | None
    bias: Metric | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """A judge, measured.

    Attributes:
        unsolvable: steps that were left out; see the module.
        confusion: exact label -> verdict -> steps.
        kappa: Cohen's (1960): agreement beyond chance, at most 1; None where truth and verdicts do not vary.
        bad_precision: of the steps called bad, those that are.
        bad_recall: of the bad steps, those called bad.
        abstained: share of steps.
        by_position: "1" to "5+", in the episode; by_length: quarters by the characters of the step's text.
    """

    schema_version: int
    judge: str
    scenario: str
    scenario_version: str
    episodes: int
    steps: int
    unsolvable: int
    confusion: dict[str, dict[str, int]]
    agreement: Metric | None
    kappa: Metric | None
    bad_precision: Metric | None
    bad_recall: Metric | None
    abstained: Metric
    by_position: dict[str, Stratum]
    by_length: dict[str, Stratum]
    by_tool: dict[str, Stratum]

    def to_json(self) -> bytes:
        return orjson.dumps(self)


# -- measuring -----------------------------------------------------------------------------------------


def calibrate(
    scenario: Scenario,
    trajectories: Iterable[Trajectory],
    judge: StepJudge,
    *,
    concurrency: int = 1,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
) -> Calibration:
    """Have a judge judge every step of recorded episodes, and compare it with what is exact.

    Args:
        concurrency: steps that it is asked about at once, in threads; for a judge that waits for an endpoint.
        progress: called with 1 after each episode.
        seed: of the bootstrap.

    Raises:
        RecordError: an episode is of another version of the scenario.
        ValueError: there is no step to judge.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    judged: list[JudgedStep] = []
    episodes = unsolvable = 0
    env = ToolEnv(scenario, families="all")
    waiting = iter(trajectories)
    with ThreadPoolExecutor(concurrency) as pool:
        while batch := list(islice(waiting, _AHEAD * concurrency if concurrency > 1 else 1)):
            states = [state for trajectory in batch for state in _states(env, trajectory)]
            solvable = [state for state in states if state.judgement.solvable]
            ask = pool.map if concurrency > 1 else map
            judged += ask(lambda state: state.judged(judge), solvable)
            for state in states:
                state.env.close()
            unsolvable += len(states) - len(solvable)
            episodes += len(batch)
            if progress is not None:
                progress(len(batch))
    env.close()
    if not judged:
        raise ValueError(f"no step to judge: {episodes} episodes, {unsolvable} steps after which nothing can be solved")
    return _calibration(scenario, judge.name, judged, episodes, unsolvable, seed)


@dataclass(frozen=True, slots=True)
class _State:
    """A state of a recorded episode, on a fork of its own, the step that was taken and what that is worth."""

    env: ToolEnv
    guide: Guide
    step: Step
    position: int
    judgement: Judgement

    def judged(self, judge: StepJudge) -> JudgedStep:
        action = self.step.parsed
        known = isinstance(action, Call) and action.name in self.env.toolbox
        tool = ANSWER if isinstance(action, Answer) else UNKNOWN if isinstance(action, Call) else UNREADABLE
        return JudgedStep(
            task=self.env.task.id,
            position=self.position,
            length=len(self.step.text),
            tool=action.name if known and isinstance(action, Call) else tool,
            label=self.judgement.label,
            verdict=judge.judge(self.env, self.guide, self.step.action).verdict,
        )


def _states(env: ToolEnv, trajectory: Trajectory) -> Iterator[_State]:
    if (trajectory.scenario, trajectory.scenario_version) != (env.scenario.name, env.scenario.version):
        raise RecordError(
            f"{trajectory.id}: of {trajectory.scenario} at version {trajectory.scenario_version or '(none)'}; "
            f"here is {env.scenario.name} at version {env.scenario.version}"
        )
    if trajectory.sandbox_lost:
        return
    begin_again(env, trajectory)
    guide = Guide.start(env)
    for position, step in enumerate(trajectory.steps, 1):
        judgement = guide.judge(env, step.action)
        yield _State(env.fork(), guide, step, position, judgement)
        guide = judgement.after
        env.step(step.action)


def _calibration(
    scenario: Scenario, name: str, judged: Sequence[JudgedStep], episodes: int, unsolvable: int, seed: int
) -> Calibration:
    tasks = _tasks(judged)
    decided = [[step for step in steps if step.verdict is not Verdict.ABSTAIN] for steps in tasks]
    counts = Counter((step.label, step.verdict) for step in judged)
    said = [[step for step in steps if step.verdict is Verdict.BAD] for steps in tasks]
    bad = [[step for step in steps if step.bad] for steps in tasks]
    caught = [[step for step in steps if step.bad] for steps in said]
    abstained = proportion([len(s) - len(d) for s, d in zip(tasks, decided, strict=True)], _sizes(tasks))
    assert abstained is not None, "there is a step"
    return Calibration(
        schema_version=SCHEMA_VERSION,
        judge=name,
        scenario=scenario.name,
        scenario_version=scenario.version,
        episodes=episodes,
        steps=len(judged),
        unsolvable=unsolvable,
        confusion={label.value: {verdict.value: counts[label, verdict] for verdict in Verdict} for label in Label},
        agreement=_agreement(decided),
        kappa=_kappa(decided, seed),
        bad_precision=proportion(_sizes(caught), _sizes(said)),
        bad_recall=proportion(_sizes(caught), _sizes(bad)),
        abstained=abstained,
        by_position=_strata(judged, _position, seed),
        by_length=_by_length(judged, seed),
        by_tool=_strata(judged, lambda step: step.tool, seed),
    )


def _tasks(judged: Iterable[JudgedStep]) -> list[list[JudgedStep]]:
    """The steps by task: those of one resemble each other."""
    tasks: dict[str, list[JudgedStep]] = defaultdict(list)
    for step in judged:
        tasks[step.task].append(step)
    return list(tasks.values())


def _sizes(groups: Iterable[Sequence[JudgedStep]]) -> list[int]:
    return [len(group) for group in groups]


def _agreement(decided: Sequence[Sequence[JudgedStep]]) -> Metric | None:
    right = [sum(step.bad == (step.verdict is Verdict.BAD) for step in steps) for steps in decided]
    return proportion(right, _sizes(decided))


def _kappa(decided: Sequence[Sequence[JudgedStep]], seed: int) -> Metric | None:
    cells = [(True, Verdict.BAD), (True, Verdict.GOOD), (False, Verdict.BAD), (False, Verdict.GOOD)]
    table = np.array(
        [[sum((step.bad, step.verdict) == cell for step in steps) for cell in cells] for steps in decided],
        dtype=np.float64,
    )
    n = round(float(table.sum()))
    if n == 0 or _chance(table.sum(axis=0, keepdims=True))[0] >= 1:
        return None
    value, low, high = bootstrap(table, lambda sums: _kappa_of(sums)[:, None], seed=seed)
    return Metric(float(value[0]), float(low[0]), float(high[0]), n)


def _chance(sums: Floats) -> Floats:
    """(resamples, 4) counts of bad called bad, bad as good, good as bad, good as good -> agreement by chance."""
    share = sums / np.maximum(sums.sum(axis=1, keepdims=True), 1)
    bad, called = share[:, 0] + share[:, 1], share[:, 0] + share[:, 2]
    return np.asarray(bad * called + (1 - bad) * (1 - called))


def _kappa_of(sums: Floats) -> Floats:
    """Kappa of each resample; 0 where truth and verdicts do not vary, as nothing beyond chance is shown."""
    observed = (sums[:, 0] + sums[:, 3]) / np.maximum(sums.sum(axis=1), 1)
    chance = _chance(sums)
    return np.where(chance < 1, (observed - chance) / np.where(chance < 1, 1 - chance, 1), 0.0)


def _strata(judged: Iterable[JudgedStep], key: Callable[[JudgedStep], str], seed: int) -> dict[str, Stratum]:
    groups: dict[str, list[JudgedStep]] = defaultdict(list)
    for step in judged:
        groups[key(step)].append(step)
    return {name: _stratum(groups[name], seed) for name in sorted(groups)}


def _stratum(judged: Sequence[JudgedStep], seed: int) -> Stratum:
    decided = _tasks(step for step in judged if step.verdict is not Verdict.ABSTAIN)
    excess = [sum((step.verdict is Verdict.BAD) - step.bad for step in steps) for steps in decided]
    bias = ratio(excess, _sizes(decided), seed=seed) if decided else None
    return Stratum(len(judged), _agreement(decided), bias)


def _position(step: JudgedStep) -> str:
    return str(step.position) if step.position < _LAST_POSITION else f"{_LAST_POSITION}+"


def _by_length(judged: Sequence[JudgedStep], seed: int) -> dict[str, Stratum]:
    """In quarters; fewer where many steps are of one length."""
    ends = sorted(
        {int(end) for end in np.quantile([step.length for step in judged], (0.25, 0.5, 0.75, 1), method="lower")}
    )
    groups: dict[int, list[JudgedStep]] = defaultdict(list)
    for step in judged:
        groups[next(end for end in ends if step.length <= end)].append(step)
    return {f"up to {end} characters": _stratum(groups[end], seed) for end in ends if end in groups}


# -- showing -------------------------------------------------------------------------------------------


def render_calibration(calibration: Calibration, console: Console) -> None:
    """Print the report."""
    console.print(
        f"{calibration.judge}: {calibration.steps} steps of {calibration.episodes} episodes of {calibration.scenario};"
        f" {calibration.unsolvable} more left out, where nothing could be solved any more",
        markup=False,
        highlight=False,
    )
    metrics = {
        "agreement": calibration.agreement,
        "Cohen's kappa": calibration.kappa,
        "precision of BAD": calibration.bad_precision,
        "recall of BAD": calibration.bad_recall,
        "abstained": calibration.abstained,
    }
    rows = [(name, *_interval(metric), "" if metric is None else str(metric.n)) for name, metric in metrics.items()]
    console.print(compact_table(("metric", "value [95% CI]", "n"), [rows], console.width))
    verdicts = [verdict.value for verdict in Verdict]
    cells = [(label, *(str(row[verdict]) for verdict in verdicts)) for label, row in calibration.confusion.items()]
    console.print(compact_table(("exact label", *verdicts), [cells], console.width))
    strata = [
        [(f"step {name}", *_stratum_cells(s)) for name, s in calibration.by_position.items()],
        [(name, *_stratum_cells(s)) for name, s in calibration.by_length.items()],
        [(name, *_stratum_cells(s)) for name, s in calibration.by_tool.items()],
    ]
    console.print(compact_table(("steps", "agreement [95% CI]", "bias [95% CI]", "n"), strata, console.width))
    console.print("bias: share called bad less the share that is; above 0 too strict", style="dim", highlight=False)


def _stratum_cells(stratum: Stratum) -> tuple[str, ...]:
    return *_interval(stratum.agreement), *_interval(stratum.bias, sign="+"), str(stratum.steps)


def _interval(metric: Metric | None, sign: str = "") -> tuple[str]:
    if metric is None:
        return ("–",)
    return (f"{metric.value:{sign}.2f} [{metric.low:{sign}.2f}, {metric.high:{sign}.2f}]",)
