"""`toolenv drift`: what logs show that today's tools do otherwise; and a drifted toolbox of a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich import box
from rich.table import Table

from toolenv.console import MAX_SEED, DatasetOrFile, Json_, Quiet, Scenario_, out, plain, print_json, scenario_named
from toolenv.evaluation_commands import keep
from toolenv.progress import progress_bar

if TYPE_CHECKING:
    from toolenv.agents.drift_check import DriftReport, Finding
    from toolenv.agents.students import Touched

drift_app = typer.Typer(help="Tools that change: find it in logs, or try it out.", no_args_is_help=True)

DRIFTS = (
    "A kind, or KIND:SEVERITY with the share that changes, such as rename_tool:0.3; all for every kind. Repeatable."
)


@drift_app.command("check", epilog="Example: toolenv drift check data/prod --scenario crm --student runs")
def check(
    logs: DatasetOrFile,
    scenario: Annotated[
        str | None, typer.Option("--scenario", help="Whose tools are today's; the dataset's own if left out.")
    ] = None,
    tools: Annotated[
        Path | None, typer.Option("--tools", help="Today's tools, in OpenAI's form, where there is no scenario.")
    ] = None,
    student: Annotated[
        list[Path] | None, typer.Option("--student", help="A student, or a folder of them; may be given again.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep the report here, as JSON.")] = None,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Compare logged calls and results with today's tools. Exit status 0: no drift; 1: drift; 2: an error."""
    from toolenv.agents.drift_check import check_drift, read_tools
    from toolenv.agents.records import require_writable
    from toolenv.agents.students import students_in, touched_by

    if scenario is not None and tools is not None:
        raise ValueError("--scenario and --tools both say what today's tools are: give one")
    if output is not None:
        require_writable(output)
    students = students_in(student or ())
    loaded = None if tools is not None else scenario_named(logs, scenario)
    today = loaded.toolbox if loaded is not None else read_tools(tools or Path())
    with progress_bar("checking", None, quiet or as_json) as advance:
        report = check_drift(logs, today, scenario=loaded, progress=advance)
    touched = touched_by(report.findings, students)
    told = orjson.dumps({**_fields(report), "drift": report.drifted, "students": touched})
    keep(told, output)
    if as_json:
        print_json(told)
    else:
        _render(report, touched)
    if report.drifted:
        raise typer.Exit(1)


@drift_app.command("make", epilog="Example: toolenv drift make crm --drift rename_tool:0.3 --seed 1 -o drifted.json")
def make(
    scenario: Scenario_,
    drift: Annotated[list[str], typer.Option("--drift", help=DRIFTS)],
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Decides what changes, and into what.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the drifted tools here, in OpenAI's form.")
    ] = None,
    as_json: Json_ = False,
) -> None:
    """Draw a drift of a scenario's tools: what changes, and which families no route solves any more."""
    from toolenv.agents.drift import lost_families
    from toolenv.agents.records import require_writable
    from toolenv.scenarios.loading import load_scenario
    from toolenv.tools.drift import DriftedToolbox
    from toolenv.training.drift_gap import DriftSpec

    specs = DriftSpec.parse(drift)
    if output is not None:
        require_writable(output)
    loaded = load_scenario(scenario)
    drawn = [change for spec in specs for change in spec.of(loaded.toolbox, seed).changes]
    toolbox = DriftedToolbox.consistent(loaded.toolbox, drawn)
    lost = lost_families(loaded, toolbox)
    keep(orjson.dumps(toolbox.to_openai(), option=orjson.OPT_INDENT_2), output)
    if as_json:
        print_json({"seed": seed, "version": toolbox.version, "changes": toolbox.changes, "lost": lost})
        return
    for change in toolbox.changes:
        out.print(plain(str(change)), highlight=False, soft_wrap=True)
    for name, every in lost.items():
        out.print(f"[yellow]lost:[/] {plain(name)}: {'all' if every else 'some'} of its tasks", highlight=False)


def _fields(report: DriftReport) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(orjson.dumps(report))
    return fields


def _render(report: DriftReport, touched: list[Touched]) -> None:
    if report.findings:
        table = Table("change", "logged", "today", "seen", "since", "sure", box=box.SIMPLE_HEAD, show_edge=False)
        for finding in report.findings:
            table.add_row(*map(plain, _row(finding)))
        out.print(table)
    for student in touched:
        of = "its folder does not tell its tools" if student.tools is None else ", ".join(student.tools)
        told = f"{student.student}: {student.changes} changes touch it, or may: {of}"
        out.print(f"[yellow]touched:[/] {plain(told)}", highlight=False, soft_wrap=True)
    executed = f"{report.executed:,} of {report.records:,} records were carried out again"
    verdict = f"{len(report.findings)} changes" if report.drifted else "no drift"
    out.print(f"{executed}; {verdict}", highlight=False)


def _row(finding: Finding) -> tuple[str, ...]:
    change = finding.change
    tools = ", ".join(finding.tools[:3]) + (f" and {len(finding.tools) - 3} more" if len(finding.tools) > 3 else "")
    what = "\n".join(part for part in (change.kind, tools, change.field) if part)
    since = "" if finding.since is None else f"record {finding.since}"
    sure = f"{finding.sure:.3f}\n{finding.evidence}"
    return what, _short(change.before), _short(change.after), f"{finding.seen} of {finding.of}", since, sure


def _short(value: Any) -> str:
    if value is None:
        return "–"
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= 100 else f"{text[:100]}…"
