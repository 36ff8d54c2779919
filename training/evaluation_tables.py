"""Evaluations as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Final

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from toolenv.agents.intervals import Metric
from toolenv.training.evaluate import EXPOSURES, Evaluation
from toolenv.training.logs import Measured
from toolenv.training.metrics import TOKENS, Scores

# Short, so that a row fits a terminal of 80 columns.
COLUMNS: Final = ("success [95% CI]", "valid", "invented", "F1", "steps", "tokens", "n")
MISTAKES_SHOWN: Final = 15
_LEGEND: Final = "valid: calls; invented: identifiers nothing had shown; F1: choice of tools"


def render_table(evaluations: Mapping[str, Evaluation], console: Console) -> None:
    """Print policies side by side, for each kind of family that they were evaluated on.

    Args:
        evaluations: the name to show -> its evaluation.
    """
    sections = [
        [(heading,), *((f"  {name}", *_cells(e.by_exposure[exposure])) for name, e in shown.items())]
        for exposure, heading in EXPOSURES.items()
        if (shown := {name: e for name, e in evaluations.items() if exposure in e.by_exposure})
    ]
    _print(("policy", *COLUMNS), sections, console)


def render_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print one evaluation: overall, by exposure, by difficulty and by family."""
    _print((evaluation.config.policy, *COLUMNS), [rows_of(evaluation)], console)


def render_measured(measured: Measured, console: Console) -> None:
    """Print what was measured of recorded episodes: overall, by policy and by task type."""
    _print(("episodes", *COLUMNS), [rows_of(measured)], console)
    known = f"outcome known of {measured.graded} of {measured.overall.episodes}"
    console.print(f"{known}; {measured.elsewhere} are logs from elsewhere", style="dim", highlight=False)


def render_metrics(scores: Scores, console: Console) -> None:
    """Print every metric of a group that is defined, with its interval and what it is measured on."""
    named = {
        "success": scores.success,
        **({f"pass^{k}": metric for k, metric in enumerate(scores.pass_k, 1)} if len(scores.pass_k) > 1 else {}),
        "steps that are right": scores.step_correctness,
        "right calls that are preferred": scores.routing_precision,
        "regret, steps an episode": scores.regret,
        "calls that are valid": scores.schema_validity,
        "calls that repeat another": scores.repeated,
        "identifiers invented": scores.hallucination,
        "tool precision, macro": scores.tool_precision,
        "tool recall, macro": scores.tool_recall,
        "tool F1, macro": scores.tool_f1,
        **{f"error {kind}": metric for kind, metric in scores.errors.items()},
        "steps": scores.steps,
        "steps per solved": scores.steps_per_solved,
        f"{scores.token_unit}": scores.tokens,
        f"{scores.token_unit} per solved": scores.tokens_per_solved,
        "reasoning, characters a step": scores.reasoning,
        "policy seconds": scores.policy_s,
        "policy seconds per solved": scores.policy_s_per_solved,
        "US dollars": scores.usd,
        "US dollars per solved": scores.usd_per_solved,
    }
    rows = [(name, *_interval(metric)) for name, metric in named.items() if metric is not None]
    console.print(compact_table(("metric", "value [95% CI]", "n"), [rows], console.width))


def render_tools(scores: Scores, console: Console) -> None:
    """Print each tool's numbers, and which decisions were wrong."""
    rows = []
    for name in sorted(scores.tool_errors.keys() | scores.tools.keys()):
        tool, errors = scores.tools.get(name), scores.tool_errors.get(name)
        rows.append(
            (
                name,
                "–" if errors is None else str(errors.n),
                _number(errors),
                _number(None if tool is None else tool.precision),
                _number(None if tool is None else tool.recall),
                "–" if tool is None else f"{tool.f1:.3f}",
            )
        )
    console.print(compact_table(("tool", "calls", "errors", "precision", "recall", "F1"), [rows], console.width))
    wrong = [
        (count, due, chosen) for due, row in scores.confusion.items() for chosen, count in row.items() if due != chosen
    ]
    if not wrong:
        return
    wrong.sort(key=lambda cell: (-cell[0], cell[1:]))
    shown = [(f"{due} → {chosen}", str(count)) for count, due, chosen in wrong[:MISTAKES_SHOWN]]
    console.print(compact_table(("due → chosen instead", "decisions"), [shown], console.width))
    if len(wrong) > MISTAKES_SHOWN:
        more = f"{len(wrong) - MISTAKES_SHOWN} rarer kinds of mistake are left out; --json has them all"
        console.print(more, style="dim", highlight=False)


def _interval(metric: Metric) -> tuple[str, str]:
    return f"{_short(metric.value)} [{_short(metric.low)}, {_short(metric.high)}]", str(metric.n)


def _short(value: float) -> str:
    """Three decimals, or two digits of what is too small for them, such as seconds of a fast policy."""
    return f"{value:.2g}" if 0 < value < 0.001 else f"{value:.3f}"


def rows_of(evaluation: Evaluation | Measured) -> list[tuple[str, ...]]:
    """One row of text a group: its name, then a cell for each of `COLUMNS`."""
    return [(name, *_cells(scores)) for name, scores in evaluation.groups()]


def _print(headings: Sequence[str], sections: Sequence[Sequence[tuple[str, ...]]], console: Console) -> None:
    console.print(compact_table(headings, sections, console.width))
    console.print(_LEGEND, style="dim", highlight=False)
    if any(cell.startswith("≈") for section in sections for row in section for cell in row[-2:]):
        console.print("≈ a quarter of the characters, where the policy records no tokens", style="dim")


def compact_table(headings: Sequence[str], sections: Sequence[Sequence[tuple[str, ...]]], room: int) -> Table:
    """A table of names and numbers, a line between sections; a name that is too long is cut, never a number.

    Args:
        room: columns of the terminal.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    columns = list(zip_longest(headings, *(row for section in sections for row in section), fillvalue=""))
    widths = [max(map(len, column)) for column in columns]
    left = room - sum(widths[1:]) - len(headings) + 1
    for heading, width in zip(headings, [min(widths[0], max(8, left)), *widths[1:]], strict=True):
        justify: JustifyMethod = "right" if table.columns else "left"
        table.add_column(Text(heading), justify=justify, no_wrap=True, width=width)
    for section in sections:
        for row in section:
            table.add_row(*map(Text, row))  # text, not markup: names come from users
        table.add_section()
    return table


def _cells(scores: Scores) -> tuple[str, ...]:
    success = scores.success
    approximately = "" if scores.token_unit == TOKENS else "≈"
    return (
        "unknown" if success is None else _interval(success)[0],
        _number(scores.schema_validity),
        _number(scores.hallucination),
        _number(scores.tool_f1),
        f"{scores.steps.value:.1f}",
        f"{approximately}{scores.tokens.value:.0f}",
        str(scores.episodes),
    )


def _number(metric: Metric | None) -> str:
    return "–" if metric is None else f"{metric.value:.3f}"
