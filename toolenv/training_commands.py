"""`toolenv train score|swirl` and `toolenv distill`: what learns from more than a dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from toolenv.progress import err, progress_bar

train_app = typer.Typer(help="Train a student on a dataset.", no_args_is_help=True)

out = Console()

MAX_TRAINING_SEED = 2**32 - 1  # NumPy's, which transformers seeds
Json_ = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_TRAINING_SEED, help="Decides all that is random.")]
Scenario_ = Annotated[str, typer.Argument(help="A shipped scenario's name, such as crm, or a YAML file.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps of RL.")]
StudentModel = Annotated[str, typer.Option(help="toolenv-tiny, toolenv-small, or a student's folder.")]


@train_app.command("score", epilog="Example: toolenv train score crm -o runs/score --tasks 4000")
def train_score(
    scenario: Scenario_,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; the student is in `student`.")] = Path(
        "runs/score"
    ),
    tasks: Annotated[int, typer.Option(min=2, help="Tasks in all.")] = 4_000,
    cold_share: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of them that the teacher solves.")] = 0.2,
    repairs: Annotated[int, typer.Option(min=1, help="Corrections an episode.")] = 5,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each fine-tuning.")] = 500_000,
    rl_steps: Steps = 60,
    model: StudentModel = "toolenv-tiny",
    first_seed: Annotated[int, typer.Option(min=0, help="Of the tasks.")] = 0,
    seed: Seed = 0,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """SCoRe: the student acts, its earliest error is corrected, and it learns from there. The same command resumes."""
    from toolenv.scenarios.loading import load_scenario
    from toolenv.training.policy_gradient import PolicyGradientSettings
    from toolenv.training.score import ScoreSettings
    from toolenv.training.score import train_score as run
    from toolenv.training.sft import SFTSettings

    fine_tuning = SFTSettings(model=model, max_tokens=max_tokens, epochs=1_000, seed=seed)
    settings = ScoreSettings(
        tasks=tasks,
        cold_share=cold_share,
        repairs=repairs,
        first_seed=first_seed,
        cold=fine_tuning,
        sft=fine_tuning,
        policy_gradient=PolicyGradientSettings(steps=rl_steps, seed=seed),
    )
    report = run(load_scenario(scenario), output, settings, notify=_teller(quiet or as_json))
    if as_json:
        print(orjson.dumps(report).decode())
        return
    cold, corrections = report.teacher_steps
    out.print(
        f"{report.mentored} mentored episodes, {report.corrected} corrected, {report.solved} solved, "
        f"{report.hard} hard; teacher steps: {cold} cold start, {corrections} corrections; "
        f"student in {output / 'student'}",
        highlight=False,
        markup=False,
    )


@train_app.command("swirl", epilog="Example: toolenv train swirl data/crm --model runs/student -o runs/swirl")
def train_swirl(
    dataset: Annotated[Path, typer.Argument(help="A dataset's folder, a .jsonl or a .parquet file.")],
    model: Annotated[str, typer.Option(help="The student's folder to begin from.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the student.")] = Path("runs/swirl"),
    scenario: Annotated[str | None, typer.Option(help="Scenario, if the dataset does not tell.")] = None,
    states: Annotated[
        str, typer.Option("--filter", help="Which episodes: none, process, outcome or both.")
    ] = "process",
    steps: Steps = 60,
    groups: Annotated[int, typer.Option(min=1, help="States a step.")] = 24,
    group_size: Annotated[int, typer.Option(min=2, help="Actions sampled at each.")] = 6,
    learning_rate: Annotated[float, typer.Option(help="Constant, after a short warm-up.")] = 1e-4,
    seed: Seed = 0,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """SWiRL: step-wise RL at the states of recorded episodes, with exact rewards. The same command resumes."""
    from toolenv.agents.dataset import scenario_of
    from toolenv.agents.records import read_trajectories
    from toolenv.scenarios.loading import load_scenario
    from toolenv.training.policy_gradient import PolicyGradientSettings
    from toolenv.training.sft import is_main_process
    from toolenv.training.swirl import StepFilter, SWiRLSettings
    from toolenv.training.swirl import train_swirl as run

    loaded = scenario_of(dataset) if scenario is None else load_scenario(scenario)
    if states not in list(StepFilter):
        raise ValueError(f"there is no filter {states!r}; there is: {', '.join(StepFilter)}")
    settings = SWiRLSettings(
        filter=StepFilter(states),
        policy_gradient=PolicyGradientSettings(
            steps=steps, groups=groups, group_size=group_size, learning_rate=learning_rate, seed=seed
        ),
    )
    main = is_main_process()
    with progress_bar("SWiRL", steps, quiet or as_json or not main) as advance:
        log = run(loaded, read_trajectories(dataset), model, output, settings, on_step=lambda _: advance(1))
    if not main:
        return
    if as_json:
        print(orjson.dumps(log).decode())
    else:
        tail = log[-5:]
        reward = sum(entry.reward for entry in tail) / len(tail)
        out.print(f"reward {log[0].reward:.3f} to {reward:.3f}; student in {output}", highlight=False, markup=False)


def distill(
    scenario: Scenario_,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all of it.")] = Path("runs/distill"),
    config: Annotated[Path | None, typer.Option(help="A YAML file of DistillSettings.")] = None,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """The whole path: data, SAD, SCoRe, SWiRL, evaluation. The same command goes on where it was interrupted."""
    from toolenv.scenarios.loading import load_scenario
    from toolenv.training.distill import DistillSettings
    from toolenv.training.distill import distill as run
    from toolenv.training.evaluate import render_table

    settings = DistillSettings() if config is None else DistillSettings.read(config)
    result = run(load_scenario(scenario), output, settings, notify=_teller(quiet or as_json))
    if as_json:
        print(orjson.dumps(result.evaluations).decode())
    else:
        render_table(result.evaluations, out)
        out.print(f"specialist in {output / 'student'}", highlight=False, markup=False)


def _teller(hidden: bool) -> Callable[[str], None]:
    """Tells on stderr which stage begins."""
    return lambda stage: None if hidden else err.print(stage, style="dim", highlight=False, markup=False)
