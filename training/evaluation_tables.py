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
from toolenv.training.metrics import TOKENS, Scores

# Short, so that a row fits a terminal of 80 columns.
COLUMNS: Final = ("success [95% CI]", "valid", "invented", "F1", "steps", "tokens", "n")
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


def rows_of(evaluation: Evaluation) -> list[tuple[str, ...]]:
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
        f"{success.value:.3f} [{success.low:.3f}, {success.high:.3f}]",
        _number(scores.schema_validity),
        _number(scores.hallucination),
        _number(scores.tool_f1),
        f"{scores.steps.value:.1f}",
        f"{approximately}{scores.tokens.value:.0f}",
        str(scores.episodes),
    )


def _number(metric: Metric | None) -> str:
    return "–" if metric is None else f"{metric.value:.3f}"
