"""Two policies on the same tasks: by how much the one is better, whether that may be chance, and where it is.

Both are paired by task and trial, so what makes a task hard for both falls out. Differences are first minus second.

What this omits: metrics other than success, since an evaluation keeps no others by task; and a correction for
comparing many policies. Whoever picks the best of ten should keep seeds apart for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from rich.console import Console
from rich.text import Text

from toolenv.agents.intervals import Z_95, Metric
from toolenv.training.evaluate import Evaluation
from toolenv.training.evaluation_tables import compact_table


@dataclass(frozen=True, slots=True)
class Difference:
    """How two policies differ on a group of tasks.

    Attributes:
        success: difference of success, -1 to 1; `n` is tasks.
        p_value: of the hypothesis that the two are exchangeable on every task.
        p_adjusted: Holm's correction of it for the groups beside it; the same as `p_value` where there are none.
        first_only, second_only: episodes that only one of them solved.
    """

    success: Metric
    p_value: float
    p_adjusted: float
    first_only: int
    second_only: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two policies on the same tasks.

    Attributes:
        first, second: their names.
        by_difficulty: "1" to "5"; empty if neither evaluation tells the difficulties.
        unpaired: tasks that only one of the two was tried on, or where no pair of trials kept its sandbox; left out.
        notes: what differs between the two evaluations besides the policy, one sentence each.
    """

    first: str
    second: str
    overall: Difference
    by_difficulty: dict[str, Difference]
    by_family: dict[str, Difference]
    unpaired: int
    notes: tuple[str, ...]

    def to_json(self) -> bytes:
        return orjson.dumps(self)


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare the success of two policies, paired by task and trial; pairs that lost a sandbox are left out.

    The p-value is that of the exact two-sided sign-flip test on the tasks' differences; with one trial a task this
    is McNemar's exact test. The interval is Bonett and Price's (2012) for paired proportions: Wald's with one
    imagined task for either side, which keeps its width where the two never differ. Among the difficulties, and among
    the families, p-values are corrected by Holm's method (1979); their intervals are not.

    Raises:
        ValueError: other versions of the scenario, or no task in common.
    """
    a, b = first.config, second.config
    if (a.scenario, a.scenario_version) != (b.scenario, b.scenario_version):
        raise ValueError(
            f"not the same tasks: {a.scenario} at version {a.scenario_version} and "
            f"{b.scenario} at version {b.scenario_version}"
        )
    paired: dict[str, list[str]] = {}
    for task in sorted(first.outcomes.keys() & second.outcomes.keys()):
        pairs = [x + y for x, y in zip(first.outcomes[task], second.outcomes[task], strict=False) if "-" not in x + y]
        if pairs:
            paired[task] = pairs
    if not paired:
        raise ValueError(f"{a.policy} and {b.policy} were not evaluated on any task in common")
    difficulties = first.difficulties | second.difficulties
    by_difficulty = _grouped(paired, lambda task: str(difficulties.get(_family(task), "?"))) if difficulties else {}
    return Comparison(
        first=a.policy,
        second=b.policy,
        overall=_compared(paired.values()),
        by_difficulty=by_difficulty,
        by_family=_grouped(paired, _family),
        unpaired=len(first.outcomes.keys() | second.outcomes.keys()) - len(paired),
        notes=tuple(_notes(first, second)),
    )


def _family(task: str) -> str:
    """The family in `scenario/family/seed`."""
    return task.partition("/")[2].rpartition("/")[0]


def _notes(first: Evaluation, second: Evaluation) -> Iterable[str]:
    a, b = first.config, second.config
    for field in ("toolbox_version", "toolenv_version", "trials"):
        if (one := getattr(a, field)) != (other := getattr(b, field)):
            yield f"{field}: {one} and {other}"
    if a.user != b.user:
        yield f"user: {a.user or 'the script'} and {b.user or 'the script'}"
    if outside := sum(count for split, count in a.splits.items() if split != "test"):
        yield f"{outside} of {a.n} seeds are none of the test split"


def _compared(tasks: Iterable[Sequence[str]]) -> Difference:
    """The difference over tasks, each with its pairs of outcomes such as "10"."""
    groups = list(tasks)
    only = Counter(pair for pairs in groups for pair in pairs)
    units = [pairs.count("10") - pairs.count("01") for pairs in groups]
    shares = np.array([unit / len(pairs) for unit, pairs in zip(units, groups, strict=True)])
    p_value = _sign_flip(units)
    return Difference(_difference(shares), p_value, p_value, only["10"], only["01"])


def _grouped(paired: Mapping[str, Sequence[str]], key: Callable[[str], str]) -> dict[str, Difference]:
    groups: dict[str, list[Sequence[str]]] = defaultdict(list)
    for task, pairs in paired.items():
        groups[key(task)].append(pairs)
    plain = {name: _compared(groups[name]) for name in sorted(groups)}
    adjusted = holm([difference.p_value for difference in plain.values()])
    return {
        name: Difference(d.success, d.p_value, p, d.first_only, d.second_only)
        for (name, d), p in zip(plain.items(), adjusted, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction: whoever calls those below α real errs at all with a chance of at most α."""
    adjusted, least = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def _difference(differences: np.ndarray[Any, np.dtype[np.float64]]) -> Metric:
    """Bonett and Price's interval of the mean of differences within -1 to 1."""
    value = float(differences.mean())
    padded = np.append(differences, (1.0, -1.0))
    half = Z_95 * float(padded.std()) / len(padded) ** 0.5
    centre = float(padded.mean())
    low, high = max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half))
    return Metric(value, low, high, len(differences))


def _sign_flip(units: Sequence[int]) -> float:
    """P(|S| >= |observed|) for S the sum of the numbers with signs drawn at random: exact, by convolution."""
    sizes = [abs(unit) for unit in units if unit]
    observed, most = abs(sum(units)), sum(sizes)
    chances = np.zeros(2 * most + 1)
    chances[most] = 1.0
    for size in sizes:
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    sums = np.abs(np.arange(-most, most + 1))
    return min(1.0, float(chances[sums >= observed].sum()))


# -- showing -------------------------------------------------------------------------------------------

_COLUMNS = ("difference [95% CI]", "won", "lost", "p", "Holm", "n")


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print the difference: of all tasks, by difficulty and by family."""
    groups = [
        {"all": comparison.overall},
        {f"difficulty {level}": d for level, d in comparison.by_difficulty.items()},
        comparison.by_family,
    ]
    sections = [[_row(name, d, alone=not index) for name, d in group.items()] for index, group in enumerate(groups)]
    console.print(Text(f"{comparison.first} minus {comparison.second}"))
    console.print(compact_table(("success", *_COLUMNS), [section for section in sections if section], console.width))
    legend = ["won, lost: episodes that only one of the two solved; p: exact sign-flip test; n: tasks"]
    legend.append("Holm: p corrected for the groups of its section; intervals are not corrected")
    if comparison.unpaired:
        legend.append(f"left out: {comparison.unpaired} tasks that the two do not have in common")
    legend += comparison.notes
    for line in legend:
        console.print(Text(line, style="dim"))


def _row(name: str, difference: Difference, *, alone: bool) -> tuple[str, ...]:
    success = difference.success
    return (
        name,
        f"{success.value:+.3f} [{success.low:+.3f}, {success.high:+.3f}]",
        str(difference.first_only),
        str(difference.second_only),
        _p(difference.p_value),
        "" if alone else _p(difference.p_adjusted),
        str(success.n),
    )


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<.001"
