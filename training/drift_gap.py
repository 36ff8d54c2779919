"""The perturbation gap: by how much a policy does worse where tools have drifted, on the same tasks, kind by kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson
from rich.console import Console
from rich.text import Text

from toolenv.agents.drift import lost_families
from toolenv.agents.intervals import Metric
from toolenv.scenarios.loading import Scenario
from toolenv.tools.drift import PLANTED, Change, DriftedToolbox, Kind
from toolenv.tools.drifting import DEFAULT_SEVERITY, drifted, kind_named
from toolenv.tools.toolbox import Toolbox
from toolenv.training.comparison import Difference, compare, holm
from toolenv.training.evaluate import Evaluation
from toolenv.training.evaluation_tables import compact_table

ALL: Final = "all"
_COLUMNS: Final = ("changes", "success", "minus plain [95% CI]", "Holm", "valid", "n")


@dataclass(frozen=True, slots=True)
class DriftSpec:
    """A drift that is asked for, as `KIND` or `KIND:SEVERITY`."""

    kind: Kind
    severity: float = DEFAULT_SEVERITY

    @classmethod
    def parse(cls, texts: Sequence[str]) -> list[DriftSpec]:
        """The drifts of some texts, each kind once; "all" stands for every kind.

        Raises:
            ValueError: a text names no kind or no severity above 0 to 1, or a kind is named twice.
        """
        found: dict[Kind, DriftSpec] = {}
        for text in texts:
            name, colon, number = text.partition(":")
            try:
                severity = float(number) if colon else DEFAULT_SEVERITY
            except ValueError:
                severity = 0.0
            if not 0 < severity <= 1:
                raise ValueError(f"{text}: a severity is a number above 0 and at most 1, as in {name}:0.3")
            for kind in PLANTED if name == ALL else [kind_named(name)]:
                if kind in found:
                    raise ValueError(f"{text}: the drift {kind} is named twice")
                found[kind] = cls(kind, severity)
        return list(found.values())

    def of(self, toolbox: Toolbox, seed: int) -> DriftedToolbox:
        """The toolbox under this drift."""
        return drifted(toolbox, [self.kind], severity=self.severity, seed=seed)

    def __str__(self) -> str:
        return f"{self.kind}:{self.severity:g}"


@dataclass(frozen=True, slots=True)
class DriftGap:
    """What one kind of drift does to a policy.

    Attributes:
        changes: of the toolbox.
        success: under the drift.
        valid: calls under it that parse and validate.
        difference: under the drift minus without, paired by task and trial; `p_adjusted` by Holm over the kinds.
        lost: families that no route solves any more -> whether all of their tasks are lost, or only some may be.
    """

    kind: Kind
    severity: float
    seed: int
    toolbox_version: str
    changes: tuple[Change, ...]
    success: Metric
    valid: Metric | None
    difference: Difference
    lost: dict[str, bool]


def drift_gaps(
    plain: Evaluation,
    scenario: Scenario,
    drifts: Sequence[DriftSpec],
    seed: int,
    run: Callable[[DriftSpec, DriftedToolbox], Evaluation],
) -> list[DriftGap]:
    """Measure a policy under each drift, beside what it does without.

    Args:
        plain: the policy without drift.
        seed: of the drifts.
        run: evaluates the same policy on the same tasks behind drifted tools.
    """
    gaps = []
    for spec in drifts:
        drift = spec.of(scenario.toolbox, seed)
        under = run(spec, drift)
        gaps.append(
            DriftGap(
                kind=spec.kind,
                severity=spec.severity,
                seed=seed,
                toolbox_version=drift.version,
                changes=drift.changes,
                success=under.success,
                valid=under.overall.schema_validity,
                difference=compare(under, plain).overall,
                lost=lost_families(scenario, drift),
            )
        )
    adjusted = holm([gap.difference.p_value for gap in gaps])
    return [
        replace(gap, difference=replace(gap.difference, p_adjusted=p)) for gap, p in zip(gaps, adjusted, strict=True)
    ]


def gaps_json(plain: Evaluation, gaps: Sequence[DriftGap]) -> bytes:
    """The evaluation without drift, and the gaps, as one JSON object."""
    return orjson.dumps({"plain": orjson.Fragment(plain.to_json()), "drift": gaps})


def render_gaps(gaps: Sequence[DriftGap], console: Console) -> None:
    """Print the gap of each kind of drift."""
    rows = []
    for gap in gaps:
        success = gap.difference.success
        p = gap.difference.p_adjusted
        rows.append(
            (
                f"{gap.kind}:{gap.severity:g}",
                str(len(gap.changes)),
                f"{gap.success.value:.3f}",
                f"{success.value:+.3f} [{success.low:+.3f}, {success.high:+.3f}]",
                f"{p:.3f}" if p >= 0.001 else "<.001",
                "–" if gap.valid is None else f"{gap.valid.value:.3f}",
                str(success.n),
            )
        )
    console.print(compact_table(("drift", *_COLUMNS), [rows], console.width))
    console.print(Text("Holm: p of the exact sign-flip test, corrected for the kinds; valid: calls; n: tasks", "dim"))
    for gap in gaps:
        if gap.lost:
            named = ", ".join(name if every else f"{name} (some)" for name, every in gap.lost.items())
            console.print(Text(f"{gap.kind}: no longer solvable by any route: {named}", "dim"))
