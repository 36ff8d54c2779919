"""The gate: whether a candidate may take the place of the current model.

Both act on the same validation tasks, other ones in every run, and are compared pair by pair (`comparison.py`). Two
rules must hold:

- Overall: the 95% interval of the difference in success lies above `-bound` (non-inferiority).
- Families: none is worse than its bound. Of a family there are few tasks among all, and of fifty families some look
  worse by chance. So a family whose net loss there is above `family_bound` is only suspected: both models act on
  `recheck` fresh tasks of it, and these alone decide. It is worse if its net loss is above `family_bound` again and the
  exact sign test over its discordant tasks says so at `alpha`. That the fresh tasks had no part in the suspicion keeps
  the test honest.

What this can not see: a family that gets worse by little. With 6 tasks of a family among all and a bound of 0.2, one
that loses half of its tasks is suspected with chance 0.89, one that loses a fifth with 0.34.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import orjson
from pydantic import BaseModel, ConfigDict, Field

from toolenv.agents.intervals import Metric
from toolenv.agents.policy import Policy
from toolenv.agents.records import whole_file
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED, FIRST_VALIDATION_SEED
from toolenv.tools.drift import DriftedToolbox
from toolenv.training.comparison import Comparison, Difference, compare
from toolenv.training.evaluate import Evaluation, evaluate
from toolenv.training.registry import read_record

VERDICT_FILE = "verdict.json"


class GateSettings(BaseModel):
    """What a candidate is measured on, and by which bounds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(300, ge=1, description="Validation tasks.")
    bound: float = Field(0.05, ge=0, le=1, description="By how much the candidate may be worse, at most, overall.")
    family_bound: float = Field(0.2, ge=0, le=1, description="The same of one family.")
    recheck: int = Field(24, ge=1, description="Fresh tasks of a family that looks worse than its bound.")
    alpha: float = Field(0.1, gt=0, lt=1, description="Of the two-sided exact test of a family; one-sided half of it.")
    max_new_tokens: int = Field(96, ge=1, description="Of one turn; a turn cut there can not be read.")
    batch: int = Field(100, ge=1, description="Episodes at once.")

    def first_seed(self, number: int) -> int:
        """Of a run's tasks: other ones than those of the runs around it."""
        block = self.n + self.recheck
        return FIRST_VALIDATION_SEED + number * block % (FIRST_TEST_SEED - FIRST_VALIDATION_SEED - block + 1)


@dataclass(frozen=True, slots=True)
class FamilyCheck:
    """A family that looked worse, on fresh tasks."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    family: str
    difference: Metric
    lost: int
    won: int
    p_value: float
    worse: bool

    def __str__(self) -> str:
        counts = f"{self.lost} lost and {self.won} won of {self.difference.n} fresh tasks, exact p {self.p_value:.3f}"
        return f"family {self.family}: {counts}: {'worse than its bound' if self.worse else 'not worse than its bound'}"


@dataclass(frozen=True, slots=True)
class GateReport:
    """Whether the candidate passes, and why.

    Attributes:
        success: of "candidate" and "current".
        reasons: one sentence a rule.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    passed: bool
    reasons: tuple[str, ...]
    success: dict[str, Metric]
    difference: Metric
    families: tuple[FamilyCheck, ...]

    def to_json(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_INDENT_2) + b"\n"

    @classmethod
    def read(cls, path: Path) -> GateReport:
        """What `to_json` wrote into a file. Raises RecordError."""
        report: GateReport = read_record(path, cls)
        return report


def run_gate(
    scenario: Scenario,
    policies: Mapping[str, Callable[[], Policy]],
    out: Path,
    settings: GateSettings,
    *,
    families: str | tuple[str, ...],
    number: int,
    drift: DriftedToolbox | None = None,
    notify: Callable[[str], None] = lambda stage: None,
) -> GateReport:
    """Compare the policies "candidate" and "current"; evaluations that lie in `out` are not made again.

    Args:
        policies: make them, when they are needed.
        families: what tasks are drawn from.
        number: of the run; decides its tasks.
        drift: the tools as they are today.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = {name: lru_cache(1)(make) for name, make in policies.items()}

    def evaluation(name: str, group: str, families: str | tuple[str, ...], seed_start: int, n: int) -> Evaluation:
        path = out / f"{group}-{name}.json"
        if not path.is_file():
            notify(f"gate: {name} on {group}")
            run = evaluate(
                scenario,
                made[name](),
                seed_start=seed_start,
                n=n,
                families=families,
                batch=settings.batch,
                judge_steps=False,
                drift=drift,
            )
            with whole_file(path) as stream:
                stream.write(run.to_json())
        return Evaluation.from_json(path.read_bytes(), str(path))

    def compared(
        group: str, families: str | tuple[str, ...], seed_start: int, n: int
    ) -> tuple[Comparison, dict[str, Metric]]:
        both = {name: evaluation(name, group, families, seed_start, n) for name in ("candidate", "current")}
        success = {name: each.success for name, each in both.items()}
        return compare(both["candidate"], both["current"]), success

    first = settings.first_seed(number)
    comparison, success = compared("all", families, first, settings.n)
    checks = [
        checked(family, compared(family, (family,), first + settings.n, settings.recheck)[0].overall, settings)
        for family in suspects(comparison, settings)
    ]
    report = judged(comparison.overall.success, success, checks, settings)
    with whole_file(out / VERDICT_FILE) as stream:
        stream.write(report.to_json())
    return report


def suspects(comparison: Comparison, settings: GateSettings) -> list[str]:
    """The families that look worse than their bound."""
    return [name for name, found in comparison.by_family.items() if found.success.value < -settings.family_bound]


def checked(family: str, found: Difference, settings: GateSettings) -> FamilyCheck:
    """The verdict on a family from fresh tasks: worse than its bound, and not by chance."""
    worse = found.success.value < -settings.family_bound and found.p_value < settings.alpha
    return FamilyCheck(family, found.success, found.second_only, found.first_only, found.p_value, worse)


def judged(
    difference: Metric, success: dict[str, Metric], checks: list[FamilyCheck], settings: GateSettings
) -> GateReport:
    """The verdict, from the difference candidate minus current and the families that were looked at again."""
    sound = difference.low >= -settings.bound
    interval = f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] on {difference.n} tasks"
    reasons = [
        f"success {success['candidate'].value:.3f}, the current model's {success['current'].value:.3f}: difference"
        f" {interval}, {'above' if sound else 'not all above'} {-settings.bound:+.3f}",
        *map(str, checks),
    ]
    if not checks:
        reasons.append(f"no family looks worse by more than {settings.family_bound:g}")
    return GateReport(
        sound and not any(check.worse for check in checks), tuple(reasons), success, difference, tuple(checks)
    )
