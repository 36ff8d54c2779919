"""`toolenv report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolenv.console import Quiet, ScenarioOption, out, plain
from toolenv.progress import progress_bar


def report(
    run: Annotated[list[Path], typer.Argument(help="A run's folder, or files of evaluations and episodes.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Of the page; the folder's name if left out.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="The most episodes to browse.")] = 2_000,
    changes: Annotated[bool, typer.Option(help="Show which rows each write changed, by retracing.")] = True,
    label: Annotated[bool, typer.Option(help="Judge every step on forks, too.")] = False,
    scenario: ScenarioOption = None,
    quiet: Quiet = False,
) -> None:
    """Write a run as one HTML page: tables, plots, and a browser of its episodes; it needs no network."""
    from toolenv.agents.records import require_writable
    from toolenv.training.report import ReportOptions, write_report

    require_writable(output)
    options = ReportOptions(title=title, limit=limit, changes=changes, label=label, scenario=scenario)
    with progress_bar("reading", None, quiet) as advance:
        written = write_report(run, output, options, advance=advance)
    for note in written.notes:
        out.print(plain(note), highlight=False, soft_wrap=True)
    out.print(
        f"{plain(str(output))}: {len(written.policies)} policies, {len(written.cards)} episodes to browse",
        highlight=False,
        soft_wrap=True,
    )
