"""A run as one page: tables with intervals, plots, and a browser of its episodes; one HTML file that needs no network.

`toolenv report RUN` reads what a run has left (`run_files` says what that is) and writes the page. What is known
without a script (tables, plots) is in the page as HTML and SVG; the episodes are in it compressed, and a small script
shows them. The same inputs give the same bytes: there is no clock in it.

All foreign text is inert: escaped by the template, or set as text by the script, and with signs in place of what steers
a terminal or turns text around. The page's policy (CSP) allows its own script and style, by their hashes, and nothing
else.

What this omits: a correction for looking at many numbers at once; each interval is that of one number alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from toolenv.agents.records import whole_file
from toolenv.training.report_numbers import families_of, policies_of, scenarios_of
from toolenv.training.report_page import Report, render_report
from toolenv.training.report_reading import Advance, EpisodeReader, ReportOptions
from toolenv.training.run_files import NothingToReport, find_run

__all__ = ["Report", "ReportOptions", "build_report", "write_report"]


def write_report(
    inputs: Iterable[str | Path],
    output: str | Path,
    options: ReportOptions | None = None,
    *,
    advance: Advance = lambda count: None,
) -> Report:
    """Read a run and write its page; it appears under its name when it is whole.

    Args:
        inputs: run folders, or files of evaluations and episodes.
        advance: told of each episode that was read.

    Raises:
        NothingToReport: there is nothing of a run in a folder.
        RecordError: a file is damaged or of another version; names file, line, field and rule.
        ScenarioError: the scenario that was named is wrong.
    """
    report = build_report(inputs, options or ReportOptions(), advance)
    page = render_report(report)
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as stream:
        stream.write(page.encode())
    return report


def build_report(inputs: Iterable[str | Path], options: ReportOptions, advance: Advance = lambda count: None) -> Report:
    """Read all of a run and compute what its page shows. Raises as `write_report` does."""
    paths = [Path(path) for path in inputs]
    run = find_run(paths)
    reader = EpisodeReader(run, options)
    reader.read(advance)
    views = policies_of(run, reader)
    if not views and not reader.total and not run.curves:
        raise NothingToReport(f"{', '.join(map(str, paths))}: there are no episodes and no numbers to report")
    return Report(
        title=options.title or ", ".join(path.resolve().name for path in paths),
        scenarios=scenarios_of(run, reader),
        policies=views,
        failures=reader.failures,
        run=run,
        cards=reader.cards,
        systems=list(reader.systems),
        episodes=reader.total,
        families=families_of(views, run, reader),
        notes=reader.notes(),
    )
