"""`toolenv analyze`: what interactions cost, which are worth distilling, and a scenario's skeleton of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from toolenv.agents.formats import LogFormat
from toolenv.console import Json_, Quiet, out, plain, print_json
from toolenv.progress import err, progress_bar

if TYPE_CHECKING:
    from toolenv.agents.analysis import Analysis, Candidate
    from toolenv.agents.intervals import Metric
    from toolenv.agents.skeleton import Skeleton
    from toolenv.agents.trajectory import Trajectory
    from toolenv.agents.usage import Usage

_TYPE = 24


def analyze(
    logs: Annotated[Path, typer.Argument(help="A recorder's log, other logs, a folder of them, or a dataset.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the scenario's skeleton here, as YAML.")
    ] = None,
    types: Annotated[
        str | None, typer.Option(help="Task types for the skeleton, with commas between; those worth it if left out.")
    ] = None,
    form: Annotated[
        LogFormat | None, typer.Option("--format", help="How the logs are written; told from them if left out.")
    ] = None,
    prices: Annotated[
        str | None, typer.Option(help="US dollars a million tokens, INPUT,OUTPUT[,CACHED], such as 2.5,10.")
    ] = None,
    often: Annotated[int, typer.Option(min=1, help="A type with fewer interactions is not worth it.")] = 30,
    rows: Annotated[int, typer.Option(min=1, help="How many groups are shown.")] = 20,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Tell which interactions cost what, and which are worth distilling; propose a scenario for them."""
    from toolenv.agents.analysis import analyze as run
    from toolenv.agents.analysis import interaction_of
    from toolenv.agents.imports import ImportReport, read_logs
    from toolenv.agents.records import require_writable, whole_file

    if output is not None:
        require_writable(output)
    priced = None if prices is None else _priced(prices)
    report, found = ImportReport(), []
    kept: list[Trajectory] = []
    with progress_bar("reading", None, quiet or as_json) as advance:
        for trajectory in read_logs(logs, form, report=report):
            found.append(interaction_of(trajectory, priced))
            if output is not None:
                kept.append(trajectory)
            advance(1)
    for problem in report.skipped:
        err.print(f"[red]skipped:[/] {plain(problem)}", highlight=False, soft_wrap=True)
    if not found:
        raise ValueError(f"{logs}: not one interaction could be read")
    analysis = run(found, often=often)
    skeleton = None
    if output is not None:
        skeleton = _skeleton(kept, analysis, types, output.stem)
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as stream:
            stream.write(skeleton.source)
    if as_json:
        print_json(analysis.to_json())
    else:
        render_analysis(analysis, out, rows)
    if skeleton is not None:
        told = err if as_json else out
        told.print(f"\n{plain(str(output))}: {len(skeleton.families)} families; to be filled in:", highlight=False)
        for point in skeleton.open_points:
            told.print(f"  {plain(point)}", highlight=False, soft_wrap=True)


def _skeleton(kept: list[Trajectory], analysis: Analysis, types: str | None, name: str) -> Skeleton:
    from toolenv.agents.skeleton import skeleton_of

    known = [candidate.type for candidate in analysis.candidates]
    chosen = [candidate.type for candidate in analysis.candidates if not candidate.against]
    if types is not None:
        chosen = [kind.strip() for kind in types.split(",")] if types not in known else [types]
        if unknown := [kind for kind in chosen if kind not in known]:
            raise ValueError(f"--types: no interaction is of type {', '.join(unknown)}; there are: {', '.join(known)}")
    if not chosen:
        raise ValueError(f"--output: no type is worth distilling; name some with --types, of: {', '.join(known)}")
    return skeleton_of(kept, chosen, name=name)


def _priced(text: str) -> Callable[[Usage], float]:
    """What `--prices` makes of a usage."""
    from toolenv.agents.chat_client import Prices

    try:
        numbers = [float(part) for part in text.split(",")]
        prices = Prices(**dict(zip(("input", "output", "cached"), numbers, strict=False)))
        if len(numbers) > 3:
            raise ValueError("too many")
    except ValueError:
        raise ValueError(f"--prices: {text!r} is not INPUT,OUTPUT or INPUT,OUTPUT,CACHED in US dollars") from None
    return lambda used: prices.usd(used.input_tokens, used.cached_tokens, used.output_tokens)


def render_analysis(analysis: Analysis, console: Console, rows: int) -> None:
    """The figures, the dearest groups, and the types."""
    money = "" if analysis.usd is None else f", ${analysis.usd:,.2f}"
    told = f"{analysis.interactions:,} interactions, {analysis.tokens:,} tokens, {analysis.seconds:,.0f} s{money}"
    console.print(told, highlight=False)
    if analysis.costless:
        console.print(f"{analysis.costless:,} of them tell nothing of their {analysis.cost}", highlight=False)
    shares = ", ".join(f"{part:.0%} cost {cost:.0%}" for part, cost in analysis.dearest)
    console.print(f"the dearest, by {analysis.cost}: {shares}\n", highlight=False)
    heading = f"{'type, and calls':{_TYPE}} {'n':>7} share  cost  so far at cost  success [95% CI]"
    console.print(f"[bold]{plain(heading)}[/]", highlight=False)
    for group in analysis.groups[:rows]:
        name = group.type if len(group.type) <= _TYPE else f"{group.type[: _TYPE - 1]}…"
        figures = f"{group.n:>7,} {group.share:>5.0%} {group.cost_share:>5.0%}"
        figures += f"  {group.so_far:>6.0%} {group.cost_so_far:>7.0%}"
        console.print(f"{plain(f'{name:{_TYPE}}')} {figures}  {_share(group.success)}", highlight=False)
        if group.sequence:
            console.print(f"  [dim]{plain(group.sequence)}[/]", highlight=False)
    if (left := len(analysis.groups) - rows) > 0:
        console.print(f"and {left} more groups; --rows shows them", highlight=False)
    console.print()
    for candidate in analysis.candidates:
        console.print(_verdict(candidate), highlight=False, soft_wrap=True)


def _verdict(candidate: Candidate) -> str:
    from toolenv.agents.analysis import COMMONEST

    against = "; ".join(candidate.against)
    verdict = f"[yellow]not yet[/]: {plain(against)}" if against else "[green]worth distilling[/]"
    figures = f"{candidate.n:,} ({candidate.share:.0%}) at {candidate.cost_share:.0%} of the cost"
    narrow = f"tools: {len(candidate.tools)}, sequences: {candidate.sequences}"
    if candidate.sequences > COMMONEST:
        narrow += f", the commonest {COMMONEST} cover {candidate.covered:.0%}"
    return f"{plain(candidate.type)}: {figures}, {narrow}: {verdict}"


def _share(metric: Metric | None) -> str:
    return "–" if metric is None else f"{metric.value:.2f} \\[{metric.low:.2f}, {metric.high:.2f}]"
