"""`toolenv compare`, `import`, `measure`, `calibrate`: kept evaluations, recorded or logged episodes, and judges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolenv.agents.formats import LogFormat
from toolenv.console import DatasetOrFile, Json_, Quiet, ScenarioOption, out, plain, print_json, scenario_named
from toolenv.progress import progress_bar

if TYPE_CHECKING:
    from toolenv.training.metrics import Scores

_SHOWN = 20
JudgeSteps = Annotated[bool, typer.Option("--judge-steps/--no-judge-steps", help="Run every step on a fork first.")]
Tools = Annotated[bool, typer.Option("--tools", help="Each tool's numbers, and which were confused.")]


def compare(
    first: Annotated[Path, typer.Argument(help="An evaluation that `evaluate --output` kept.")],
    second: Annotated[Path, typer.Argument(help="Another, of the same tasks.")],
    as_json: Json_ = False,
) -> None:
    """Compare two policies pair by pair on the tasks that both were evaluated on."""
    from toolenv.training.comparison import compare as run
    from toolenv.training.comparison import render_comparison
    from toolenv.training.evaluate import Evaluation

    comparison = run(*(Evaluation.from_json(path.read_bytes(), str(path)) for path in (first, second)))
    if as_json:
        print_json(comparison.to_json())
    else:
        render_comparison(comparison, out)


def import_(
    logs: Annotated[Path, typer.Argument(help="A .jsonl (or .jsonl.gz) or .json file, or a folder of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the dataset.")],
    form: Annotated[LogFormat, typer.Option("--format", help="How the logs are written.")] = LogFormat.OPENAI,
    scenario: Annotated[
        str | None, typer.Option(help="Whose toolbox is used, and whose tasks are carried out again.")
    ] = None,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Make a dataset of logs from elsewhere. Exit status 1 if a conversation was skipped."""
    from toolenv.agents.imports import REPORT_FILE, import_logs
    from toolenv.scenarios.loading import load_scenario

    loaded = None if scenario is None else load_scenario(scenario)
    with progress_bar("importing", None, quiet or as_json) as advance:
        report = import_logs(logs, form, output, scenario=loaded, progress=advance)
    if as_json:
        print_json(report.to_json())
    else:
        for problem in report.skipped[:_SHOWN]:
            out.print(f"[red]skipped:[/] {plain(problem)}", highlight=False, soft_wrap=True)
        for note, count in list(report.notes.items())[:_SHOWN]:
            out.print(f"[yellow]note:[/] {plain(note)}: {count}", highlight=False, soft_wrap=True)
        native = f", {report.native} of them carried out again in {scenario}" if scenario else ""
        more = f"; all is told in {REPORT_FILE}" if max(len(report.skipped), len(report.notes)) > _SHOWN else ""
        told = f"{report.imported} imported{native}, {len(report.skipped)} skipped{more}; in {output}"
        out.print(plain(told), highlight=False, soft_wrap=True)
    if report.skipped:
        raise typer.Exit(1)


def measure(
    dataset: DatasetOrFile,
    scenario: ScenarioOption = None,
    judge_steps: JudgeSteps = True,
    tools: Tools = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep the metrics here, as JSON.")] = None,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Measure recorded episodes without running a policy: a dataset of ours, or imported logs."""
    from toolenv.agents.records import require_writable
    from toolenv.scenarios.loading import load_scenario
    from toolenv.training.evaluation_tables import render_measured
    from toolenv.training.logs import measure_dataset

    if output is not None:
        require_writable(output)
    loaded = None if scenario is None else load_scenario(scenario)
    with progress_bar("measuring", None, quiet or as_json) as advance:
        measured = measure_dataset(dataset, scenario=loaded, judge_steps=judge_steps, progress=advance)
    keep(measured.to_json(), output)
    if as_json:
        print_json(measured.to_json())
    else:
        render_measured(measured, out)
        render_details(measured.overall, tools)


def render_details(scores: Scores, tools: bool) -> None:
    """Print all metrics with their intervals, and the tools if asked for."""
    from toolenv.training.evaluation_tables import render_metrics, render_tools

    out.print()
    render_metrics(scores, out)
    if tools:
        out.print()
        render_tools(scores, out)


def calibrate(
    dataset: DatasetOrFile,
    judge: Annotated[
        str,
        typer.Option(
            help="exact, noisy:CHANCE, noisy:good=CHANCE,bad=CHANCE,abstain=CHANCE, a model's folder, llm:MODEL or"
            " llm:FILE.yaml."
        ),
    ],
    scenario: ScenarioOption = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Episodes; all if left out.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Steps that the judge is asked about at once.")] = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep the report here, as JSON.")] = None,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Compare a judge of steps with what each step is worth, exactly, over recorded episodes."""
    from itertools import islice

    from toolenv.agents.judge import make_judge
    from toolenv.agents.records import read_trajectories, require_writable
    from toolenv.training.calibration import calibrate as run
    from toolenv.training.calibration import render_calibration

    if output is not None:
        require_writable(output)
    judging = make_judge(judge)
    with progress_bar("judging", n, quiet or as_json) as advance:
        calibration = run(
            scenario_named(dataset, scenario),
            islice(read_trajectories(dataset), n),
            judging,
            concurrency=concurrency,
            progress=advance,
        )
    keep(calibration.to_json(), output)
    if as_json:
        print_json(calibration.to_json())
    else:
        render_calibration(calibration, out)


def keep(report: bytes, file: Path | None) -> None:
    """Write a report as `file`, if that is given."""
    from toolenv.agents.records import whole_file

    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as stream:
        stream.write(report + b"\n")
