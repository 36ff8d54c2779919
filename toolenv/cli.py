"""The command line: each command is a few lines around a function that any program can call.

Errors that the user can mend are one line on stderr and exit status 2; a check that found something is status 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.table import Table

from toolenv.adapter_commands import adapters_app
from toolenv.agents.formats import Format
from toolenv.analysis_commands import analyze
from toolenv.cascade_commands import cascade_app
from toolenv.console import (
    MAX_SEED,
    DatasetOrFile,
    Families,
    Json_,
    Quiet,
    Scenario_,
    ScenarioOption,
    TrainingSeed,
    User_,
    out,
    plain,
    print_json,
    scenario_named,
)
from toolenv.drift_commands import DRIFTS, drift_app
from toolenv.evaluation_commands import JudgeSteps, Tools, calibrate, compare, import_, keep, measure, render_details
from toolenv.pipeline_commands import pipeline_app
from toolenv.progress import collecting_progress, err, progress_bar
from toolenv.sandbox_commands import sandbox_app
from toolenv.serving_commands import serve
from toolenv.terminal_commands import play, report, show
from toolenv.tools.errors import OperatorError
from toolenv.tools.version import __version__
from toolenv.training_commands import distill, train_app

if TYPE_CHECKING:
    from toolenv.agents.trajectory import Trajectory
    from toolenv.tools.drift import DriftedToolbox
    from toolenv.training.evaluate import Evaluation

app = typer.Typer(
    name="toolenv",
    help="The gym in which tool-using agents are distilled: scenario in, specialist out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
base_app = typer.Typer(help="The base models that students begin from.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(base_app, name="base-model")
app.add_typer(cascade_app, name="cascade")
app.add_typer(adapters_app, name="adapters")
app.add_typer(pipeline_app, name="pipeline")
app.add_typer(drift_app, name="drift")
app.command(epilog="Example: toolenv distill crm -o runs/distill --config distill.yaml")(distill)
app.add_typer(sandbox_app, name="sandbox")
app.command(epilog="Example: toolenv compare runs/a.json runs/b.json")(compare)
app.command(epilog="Example: toolenv measure data/prod --tools")(measure)
app.command(epilog="Example: toolenv calibrate data/crm --judge noisy:0.9")(calibrate)
app.command("import", epilog="Example: toolenv import logs.jsonl --format openai -o data/prod")(import_)
app.command(epilog="Example: toolenv serve grounded:runs/student --scenario crm --port 8000")(serve)
app.command(epilog="Example: toolenv analyze recordings.jsonl --prices 2.5,10 -o skeleton.yaml")(analyze)
app.command(epilog="Example: toolenv report runs/demo -o report.html")(report)
app.command(epilog="Example: toolenv show data/crm --failed --changes")(show)
app.command(epilog="Example: toolenv play ToolEnv-CRM-v0 --seed 7 -o played.jsonl")(play)


def main() -> None:
    """Entry point: what the user can mend is told in one line."""
    try:
        app()
    except OSError as error:
        _fail(_told(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "toolenv":
            raise
        if error.name == "openai":
            _fail("openai is not installed; what asks an endpoint comes with: pip install 'toolenv[llm]'")
        if error.name in ("fastapi", "uvicorn", "prometheus_client"):
            _fail(f"{error.name} is not installed; what serves comes with: pip install 'toolenv[serve]'")
        if error.name in ("phonenumbers", "stdnum", "email_validator"):
            _fail(f"{error.name} is not installed; what redacts logs comes with: pip install 'toolenv[pipeline]'")
        _fail(f"{error.name} is not installed; what trains and runs models comes with: pip install 'toolenv[train]'")
    except (OperatorError, ValueError) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    err.print(f"[bold red]error:[/] {plain(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)


def _told(error: OSError) -> str:
    """The file and what is wrong with it; of a renaming that failed, the new name."""
    if error.strerror is None:
        return str(error)
    file = error.filename if error.filename2 is None else error.filename2
    return error.strerror if file is None else f"{file}: {error.strerror}"


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """toolenv."""
    if show:
        out.print(__version__)
        raise typer.Exit


@app.command(epilog="Example: toolenv audit crm --seeds 40")
def audit(
    scenario: Scenario_,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds a family, from all splits.")] = 40,
    families: Families = "all",
    sandbox: Annotated[str, typer.Option(help="Where tools run, such as embedded or docker.")] = "embedded",
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Prove a scenario: gold plans score 1, and no policy gets there without doing the work."""
    from toolenv.scenarios.audit import audit as run
    from toolenv.scenarios.audit import default_seeds
    from toolenv.scenarios.loading import load_scenario
    from toolenv.scenarios.sampler import Sampler

    loaded = load_scenario(scenario)
    total = len(Sampler(loaded, families).names)
    with progress_bar("auditing", total, quiet or as_json) as advance:
        report = run(
            loaded,
            seeds=default_seeds(seeds),
            families=families,
            progress=lambda _: advance(1),
            sandbox=sandbox,
        )
    if as_json:
        print_json(report.to_json())
    else:
        for breach in report.breaches:
            out.print(f"[red]breach:[/] {plain(str(breach))}", highlight=False, soft_wrap=True)
        verdict = "[green]sound[/]" if report.ok else f"[red]{len(report.breaches)} breaches[/]"
        out.print(f"{report.scenario}: {len(report.families)} families, {len(report.seeds)} seeds each: {verdict}")
    if not report.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: toolenv generate crm -n 10000 --teacher oracle --fault-rate 0.2 --seed 0 -o data/crm")
def generate(
    scenario: Scenario_,
    n: Annotated[int, typer.Option("-n", min=1, help="How many tasks.")] = 1_000,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the dataset.")] = Path("data"),
    teacher: Annotated[
        str, typer.Option(help="oracle, random, faulty:RATE, llm:MODEL, llm:FILE.yaml, or a model as for --policy.")
    ] = "oracle",
    fault_rate: Annotated[float, typer.Option(min=0, max=1, help="Share of the oracle's episodes with a fault.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The first seed.")] = 0,
    families: Families = "train",
    processes: Annotated[int, typer.Option("--processes", "-p", min=1, help="Worker processes.")] = 1,
    trials: Annotated[int, typer.Option(min=1, help="Attempts at each task.")] = 1,
    export_format: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Also write the dataset in this form; may be given again."),
    ] = None,
    budget_usd: Annotated[
        float | None, typer.Option(help="The most that an llm teacher or user may cost, earlier runs included.")
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(min=1, help="The same in tokens, input and output together.")
    ] = None,
    user: User_ = None,
    quiet: Quiet = False,
) -> None:
    """Collect trajectories, failures included and labelled. The same command again finishes what was interrupted."""
    from toolenv.agents.collect import collect
    from toolenv.agents.exports import export_dataset

    if fault_rate:
        if teacher != "oracle":
            raise ValueError("--fault-rate is for the oracle; give faulty:RATE as the teacher, or leave it out")
        teacher = f"faulty:{fault_rate:g}"
    with collecting_progress(f"{scenario} {teacher}", n * trials, quiet) as bar:
        manifest = collect(
            scenario,
            _policy(teacher),
            n=n,
            out=output,
            seed=seed,
            families=families,
            processes=processes,
            trials=trials,
            progress=bar.advance,
            budget_usd=budget_usd,
            budget_tokens=budget_tokens,
            spending=bar.spending,
            user=user,
        )
    for form in export_format or ():
        export_dataset(output, form)
    out.print(f"{manifest.trajectories} trajectories in {plain(str(output))}; counts in README.md there")


@app.command("filter", epilog="Example: toolenv filter data/crm -o data/filtered --score")
def filter_(
    dataset: DatasetOrFile,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder in which the folders kept and rejected appear.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--filter", help="A filter; may be given again. All if none.")
    ] = None,
    score: Annotated[bool, typer.Option(help="Print each filter's precision and recall on recorded faults.")] = False,
    scenario: ScenarioOption = None,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Split a dataset into what is worth training on and what is not, with reasons."""
    from toolenv.agents.filter_scores import is_labelled, score_filters, score_table
    from toolenv.agents.filters import FILTERS, filter_dataset
    from toolenv.agents.records import read_trajectories
    from toolenv.scenarios.sampler import Sampler

    if output is None and not score:
        raise ValueError("nothing to do: give --output, --score or both")
    loaded = scenario_named(dataset, scenario)
    if score and not any(map(is_labelled, read_trajectories(dataset))):
        raise ValueError(
            f"{dataset}: nothing to score filters by: no trajectory is of the oracle or a faulty policy, and of others"
            " nobody recorded the faults"
        )
    result: dict[str, Any] = {}
    if output is not None:
        with progress_bar("filtering", None, quiet or as_json) as advance:
            report = filter_dataset(dataset, names or FILTERS, output, scenario=loaded, progress=advance)
        result["filtered"] = asdict(report)
        if not as_json:
            out.print(f"kept {report.kept}, rejected {report.rejected}")
            _print_counts("rejected by", report.rejected_by)
    if score:
        with progress_bar("scoring", None, quiet or as_json) as advance:
            scores = score_filters(_counted(read_trajectories(dataset), advance), Sampler(loaded, "all"))
        result["scores"] = [item.to_json() for item in scores]
        if not as_json:
            out.print(score_table(scores))
    if as_json:
        print_json(result)


@app.command(epilog="Example: toolenv replay data/crm")
def replay(
    dataset: DatasetOrFile,
    scenario: ScenarioOption = None,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Execute recorded actions anew and compare every observation, reward and verdict."""
    from toolenv.agents.records import read_trajectories
    from toolenv.agents.replay import Replayer

    replayer = Replayer(scenario_named(dataset, scenario))
    replayed, differing = 0, []
    with progress_bar("replaying", None, quiet or as_json) as advance:
        for trajectory in read_trajectories(dataset):
            report = replayer.replay(trajectory)
            replayed += 1
            if not report.same:
                differing.append(str(report))
            advance(1)
    replayer.close()
    if as_json:
        print_json({"replayed": replayed, "differences": differing})
    else:
        for difference in differing:
            out.print(f"[red]differs:[/] {plain(difference)}", highlight=False, soft_wrap=True)
        out.print(f"{replayed} replayed, {len(differing)} differ")
    if differing:
        raise typer.Exit(1)


@app.command(epilog="Example: toolenv export data/crm --format trl")
def export(
    dataset: Annotated[Path, typer.Argument(help="A dataset's folder.")],
    form: Annotated[Format, typer.Option("--format", help="The form.")],
    solved_only: Annotated[bool, typer.Option(help="Leave failures out.")] = False,
) -> None:
    """Write a dataset in another form, beside its shards."""
    from toolenv.agents.exports import export_dataset

    out.print(plain(str(export_dataset(dataset, form, successful_only=solved_only))))


@app.command(epilog="Example: toolenv evaluate crm --policy runs/student --seed-start 900000 -n 300 --json")
def evaluate(
    scenario: Scenario_,
    policy: Annotated[
        str,
        typer.Option(
            help="oracle, random, faulty:RATE, toolenv-tiny, toolenv-small, a model's folder, adapters:FOLDER, "
            "llm:MODEL, llm:FILE.yaml."
        ),
    ] = "oracle",
    seed_start: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="The first seed; test tasks begin at 900000.")
    ] = 900_000,
    n: Annotated[int, typer.Option("-n", min=1, help="How many tasks.")] = 300,
    families: Families = "train",
    trials: Annotated[int, typer.Option(min=1, help="Attempts at each task.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Episodes at once.")] = 32,
    processes: Annotated[int, typer.Option("--processes", "-p", min=1, help="Worker processes.")] = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep the evaluation here, as JSON.")] = None,
    trajectories: Annotated[Path | None, typer.Option(help="Keep the episodes here, as JSONL.")] = None,
    judge_steps: JudgeSteps = True,
    user: User_ = None,
    tools: Tools = False,
    drift: Annotated[list[str] | None, typer.Option("--drift", help=DRIFTS)] = None,
    drift_seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Decides what drifts, and how.")] = 0,
    run_folder: Annotated[
        Path | None, typer.Option("--run", help="Keep both in this folder, as `toolenv report` reads them.")
    ] = None,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Measure a policy on held-out tasks. With --drift also where tools have drifted, beside it on the same tasks."""
    from toolenv.agents.policies import make_policy
    from toolenv.agents.records import require_writable
    from toolenv.scenarios.loading import load_scenario
    from toolenv.training.drift_gap import DriftSpec, drift_gaps, gaps_json, render_gaps
    from toolenv.training.evaluate import evaluate as run
    from toolenv.training.evaluation_tables import render_evaluation

    if seed_start > MAX_SEED + 1 - n:
        raise ValueError(f"the {n} seeds from {seed_start} on must lie within 0 to {MAX_SEED}")
    drifts = DriftSpec.parse(drift or ())
    acting = _policy(policy)
    if run_folder is not None:
        name = re.sub(r"[^\w.+=-]+", "-", Path(policy).name)
        output = output or run_folder / f"{name}.json"
        trajectories = trajectories or run_folder / f"{name}.jsonl"
    for file in (output, trajectories):
        if file is not None:
            require_writable(file)
    if trajectories is not None:
        trajectories.parent.mkdir(parents=True, exist_ok=True)
    loaded = load_scenario(scenario)
    # Made once where one process acts: a model takes seconds to load.
    made = make_policy(acting) if drifts and processes == 1 else acting

    def measured(under: DriftedToolbox | None = None, kept: Path | None = None) -> Evaluation:
        return run(
            loaded,
            made,
            seed_start=seed_start,
            n=n,
            families=families,
            trials=trials,
            batch=batch,
            processes=processes,
            trajectories=kept,
            judge_steps=judge_steps,
            drift=under,
            user=user,
            progress=lambda done, total: advance(1),
        )

    def measured_under(spec: DriftSpec, under: DriftedToolbox) -> Evaluation:
        evaluation = measured(under, beside(trajectories, spec))
        keep(evaluation.to_json(), beside(output, spec))
        return evaluation

    def beside(file: Path | None, spec: DriftSpec) -> Path | None:
        return None if file is None else file.with_name(f"{file.stem}-{spec.kind}-{spec.severity:g}{file.suffix}")

    with progress_bar("evaluating", n * trials * (1 + len(drifts)), quiet or as_json) as advance:
        evaluation = measured(kept=trajectories)
        keep(evaluation.to_json(), output)
        gaps = drift_gaps(evaluation, loaded, drifts, drift_seed, measured_under)
    if as_json:
        print_json(gaps_json(evaluation, gaps) if drifts else evaluation.to_json())
        return
    render_evaluation(evaluation, out)
    render_details(evaluation.overall, tools)
    if gaps:
        out.print()
        render_gaps(gaps, out)


@base_app.command("build", epilog="Example: toolenv base-model build small")
def build_base_model(
    name: Annotated[str, typer.Argument(help="tiny or small.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; the cache if left out.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to train on.")] = None,
    seed: TrainingSeed = 0,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Make a base model from generated documents. The same command again goes on where it was interrupted."""
    from toolenv.training import base_models

    if name.removeprefix("toolenv-") not in base_models.ARCHITECTURES:
        raise ValueError(f"there is no base model {name!r}; there is: {', '.join(base_models.ARCHITECTURES)}")
    folder = base_models.default_output(name) if output is None else output
    last = base_models.build(name, folder, tokens=tokens, seed=seed, threads=threads)
    out.print(f"{plain(str(folder))}: loss {last['loss']:.3f} after {last['tokens']:,} tokens")


@app.command(epilog="Example: toolenv demo -o runs/demo")
def demo(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for all of it; runs/demo or runs/quick if left out.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="A tenth of the work, to see that everything runs.")] = False,
    seed: TrainingSeed = 0,
) -> None:
    """The main job, end to end: `toolenv distill crm` in its short form."""
    from toolenv.demo import FULL, QUICK
    from toolenv.demo import demo as run

    folder = output or Path("runs/quick" if quick else "runs/demo")
    run(folder, settings=QUICK if quick else FULL, seed=seed, console=out)


# -- what the commands share -------------------------------------------------------------------------------


def _policy(spec: str) -> str:
    """A policy as `make_policy` takes it: a base model's name becomes its folder."""
    if not spec.startswith("toolenv-") or Path(spec).exists():
        return spec
    from toolenv.agents.shipped_models import BASE_MODELS
    from toolenv.training.base_models import base_model_path

    return str(base_model_path(spec)) if spec in BASE_MODELS else spec


def _counted(trajectories: Iterable[Trajectory], advance: Callable[[int], None]) -> Iterator[Trajectory]:
    for trajectory in trajectories:
        yield trajectory
        advance(1)


def _print_counts(heading: str, counts: dict[str, int]) -> None:
    table = Table(heading, "trajectories")
    for name, count in counts.items():
        table.add_row(plain(name), str(count))
    out.print(table)


if __name__ == "__main__":
    main()
