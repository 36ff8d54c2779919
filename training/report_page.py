"""The page of a report: its tables and plots as the template wants them, and its episodes compressed."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from toolenv.agents.inert import visible
from toolenv.agents.intervals import Metric
from toolenv.training.metrics import TOKENS, Scores
from toolenv.training.report_numbers import ALL_FAMILIES, EXPOSURES, PolicyView
from toolenv.training.report_plots import SERIES, Line, Point, cost_plot, interval, line_plot
from toolenv.training.report_reading import Failures
from toolenv.training.run_files import RunFiles

TEMPLATES: Final = Path(__file__).with_name("templates")
_SHADES: Final = 6


@dataclass(slots=True)
class Report:
    """All that the page shows. `notes` are what the reader must know about what is missing."""

    title: str
    scenarios: list[str]
    policies: list[PolicyView]
    failures: dict[str, Failures]
    run: RunFiles
    cards: list[dict[str, Any]]
    systems: list[str]
    episodes: int
    families: dict[str, tuple[str, int | None]]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Column:
    """A metric of the summary table: what it is, and how it is written."""

    heading: str
    told: str
    of: Callable[[Scores], Metric | None]
    digits: int = 3


COLUMNS: Final = (
    Column("valid calls", "calls that parse and validate, of all calls", lambda s: s.schema_validity),
    Column("invented", "identifiers in calls that nothing had shown", lambda s: s.hallucination),
    Column("tool F1", "choice of tools, the mean over tools", lambda s: s.tool_f1),
    Column("right steps", "steps that were preferred or acceptable", lambda s: s.step_correctness),
    Column("routing", "preferred calls, where several tools would have done", lambda s: s.routing_precision),
    Column("steps", "an episode", lambda s: s.steps, 1),
    Column("tokens", "an episode; ≈ a quarter of the characters", lambda s: s.tokens, 0),
)


def render_report(report: Report) -> str:
    """The page's HTML."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters.update(interval=interval, number=_number, percent=_percent, shade=_shade)
    template = environment.get_template("report.html.jinja")
    return template.render(
        report=report,
        columns=COLUMNS,
        exposures=EXPOSURES,
        difficulties=_difficulty_tables(report.policies),
        confusions=_confusions(report.policies),
        costs=_cost_plots(report.policies),
        unsolved=_unsolved(report.policies),
        curves=_curve_plots(report),
        failures=_failure_tables(report.failures),
        judged={name: of for name, of in report.failures.items() if of.judged},
        approximate=any(s.token_unit != TOKENS for view in report.policies for s in view.by_exposure.values()),
        style=Markup(style),
        script=Markup(script),
        csp=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        data=_packed(report),
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _packed(report: Report) -> str:
    """The episodes for the script: JSON, deflated, in letters that no markup is made of."""
    series = {view.name: view.series % SERIES for view in report.policies}
    data = {"systems": report.systems, "series": series, "episodes": report.cards}
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(packer.compress(orjson.dumps(data)) + packer.flush()).decode()


def _number(value: float, digits: int = 3) -> str:
    return f"{value:,.{digits}f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "–"


def _shade(count: int, most: int) -> int:
    """0 for none, else 1 to 6 by the square root of the share."""
    return 0 if count == 0 else max(1, round(_SHADES * (count / most) ** 0.5))


def _difficulty_tables(views: Sequence[PolicyView]) -> dict[str, tuple[list[str], list[tuple[PolicyView, list[Any]]]]]:
    """Kind of family -> levels, and a row of metrics a policy."""
    tables = {}
    for scope in (*EXPOSURES.values(), ALL_FAMILIES):
        levels = sorted({level for view in views for kind, level in view.by_difficulty if kind == scope})
        if levels:
            rows = [(v, [v.by_difficulty.get((scope, level)) for level in levels]) for v in views]
            tables[scope] = (levels, [(view, cells) for view, cells in rows if any(cells)])
    return tables


def _confusions(views: Sequence[PolicyView]) -> list[dict[str, Any]]:
    """Of each policy: what was due (rows), what was chosen (columns), the counts, and the largest of a row."""
    found = []
    for view in views:
        due = sorted(view.confusion)
        chosen = sorted({name for row in view.confusion.values() for name in row} | set(due))
        if due:
            rows = [(name, [view.confusion[name][other] for other in chosen]) for name in due]
            right = sum(view.confusion[name][name] for name in due)
            total = sum(sum(row.values()) for row in view.confusion.values())
            found.append({"view": view, "chosen": chosen, "rows": rows, "right": right, "total": total})
    return found


def _cost_plots(views: Sequence[PolicyView]) -> list[tuple[str, Markup]]:
    plots = []
    for exposure, heading in EXPOSURES.items():
        scores = [(view, view.by_exposure[exposure]) for view in views if exposure in view.by_exposure]
        for unit, cost in (("tokens", "tokens_per_solved"), ("steps", "steps_per_solved"), ("USD", "usd_per_solved")):
            points = [
                Point(v.name, v.series, metric, s.success, unit == "tokens" and s.token_unit != TOKENS)
                for v, s in scores
                if (metric := getattr(s, cost)) is not None and s.success is not None
            ]
            if points:
                title = f"Success and {unit} a solved task, {heading}"
                plots.append((f"{unit}, {heading}", cost_plot(points, title, unit)))
    return plots


def _unsolved(views: Sequence[PolicyView]) -> list[str]:
    """Policies that solved nothing of some kind of family, so that there is no cost to show."""
    return [
        f"{view.name} ({EXPOSURES[exposure]})"
        for view in views
        for exposure, scores in view.by_exposure.items()
        if scores.steps_per_solved is None
    ]


def _curve_plots(report: Report) -> list[tuple[str, str, Markup]]:
    """Of each training log: its name, what it says in words, and its plot."""
    plots = []
    for curve in report.run.curves:
        if curve.points:
            first, last = curve.points[0][1], curve.points[-1][1]
            told = f"{curve.measure} {first:.3f} to {last:.3f} in {curve.points[-1][0]:,.0f} steps"
            line = Line(curve.name, 0 if curve.measure == "loss" else 2, curve.points)
            plots.append((curve.name, told, line_plot([line], f"{curve.name}: {told}", curve.measure)))
    return plots


def _failure_tables(failures: Mapping[str, Failures]) -> list[tuple[str, str, list[tuple[str, list[int]]], int]]:
    """Causes and errors: heading, what is counted, rows of counts a policy, and the largest count."""
    tables = []
    for heading, told, counts in (
        ("What the grader says", "episodes; several causes may hold", [of.causes for of in failures.values()]),
        ("Errors of calls", "calls", [of.errors for of in failures.values()]),
    ):
        total = sum(counts, Counter[str]())
        rows = [(name, [count[name] for count in counts]) for name, _ in total.most_common()]
        if rows:
            tables.append((heading, told, rows, max(max(row) for _, row in rows)))
    return tables
