"""`toolenv train` and `toolenv distill`: what makes a student."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolenv.console import (
    DatasetOrFile,
    Json_,
    Quiet,
    Scenario_,
    ScenarioOption,
    TrainingSeed,
    out,
    plain,
    print_json,
    scenario_named,
)
from toolenv.progress import err, progress_bar, training_progress
from toolenv.training.reduction import Reduction

if TYPE_CHECKING:
    from toolenv.training.sft import LoraSettings

train_app = typer.Typer(help="Train a student on a dataset.", no_args_is_help=True)

StudentFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the student.")]
StudentModel = Annotated[str, typer.Option(help="toolenv-tiny, toolenv-small, or a transformers model's folder.")]
Epochs = Annotated[float, typer.Option(min=0.01, help="Passes over the data.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Stop after so many tokens.")]
BatchTokens = Annotated[int, typer.Option(min=16, help="Tokens a batch, padding counted.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate.")]
LoraRank = Annotated[int | None, typer.Option(min=1, help="Train LoRA additions of this rank.")]
CheckpointSteps = Annotated[
    int | None, typer.Option(min=1, help="Steps between checkpoints; the same command then goes on from the last.")
]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps of RL.")]


@train_app.command("sft", epilog="Example: toolenv train sft data/filtered/kept -o runs/student --max-tokens 1500000")
def train_sft(
    dataset: DatasetOrFile,
    output: StudentFolder = Path("runs/student"),
    model: StudentModel = "toolenv-tiny",
    scenario: ScenarioOption = None,
    epochs: Epochs = 1.0,
    max_tokens: MaxTokens = None,
    batch_tokens: BatchTokens = 1_280,
    learning_rate: LearningRate = 2e-3,
    lora_rank: LoraRank = None,
    checkpoint_steps: CheckpointSteps = None,
    seed: TrainingSeed = 0,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune on a dataset's solved episodes; the loss is on the assistant's tokens only."""
    _train(
        dataset,
        output,
        scenario,
        quiet,
        as_json,
        model=model,
        epochs=epochs,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        lora=_lora(lora_rank),
        checkpoint_steps=checkpoint_steps,
        seed=seed,
    )


@train_app.command("sad", epilog="Example: toolenv train sad data/filtered/kept -o runs/sad --act-weight 3")
def train_sad(
    dataset: DatasetOrFile,
    output: StudentFolder = Path("runs/sad"),
    reason_weight: Annotated[float, typer.Option(min=0, help="λ of reasoning; 0 trains on actions alone.")] = 1.0,
    act_weight: Annotated[float, typer.Option(min=0, help="λ of calls and answers.")] = 1.0,
    observe_weight: Annotated[float, typer.Option(min=0, help="Weight of what others wrote.")] = 0.0,
    reduction: Annotated[
        Reduction, typer.Option(help="Weigh tokens, or the mean of each kind of span.")
    ] = Reduction.SPAN,
    teacher: Annotated[
        str | None, typer.Option(help="A local teacher's folder, or toolenv-small; its distribution is learned.")
    ] = None,
    kl_weight: Annotated[
        float, typer.Option(min=0, max=1, help="With a teacher: share of the KL; the rest is cross-entropy.")
    ] = 1.0,
    curriculum: Annotated[bool, typer.Option(help="Easy trajectories first.")] = False,
    alpha: Annotated[float, typer.Option(min=0, help="Curriculum: how hard a token of reasoning is.")] = 1.0,
    beta: Annotated[float, typer.Option(min=0, help="Curriculum: how hard a token of an action is.")] = 1.0,
    gamma: Annotated[float, typer.Option(min=0, help="Curriculum: how hard a nat of teacher entropy is.")] = 0.0,
    pace_start: Annotated[
        float, typer.Option(min=0, max=1, help="Curriculum: share of the data that training starts with.")
    ] = 0.2,
    pace_end: Annotated[
        float, typer.Option(min=0.01, max=1, help="Curriculum: share of training after which all data is in.")
    ] = 0.5,
    model: StudentModel = "toolenv-tiny",
    scenario: ScenarioOption = None,
    epochs: Epochs = 1.0,
    max_tokens: MaxTokens = None,
    batch_tokens: BatchTokens = 1_280,
    learning_rate: LearningRate = 2e-3,
    lora_rank: LoraRank = None,
    checkpoint_steps: CheckpointSteps = None,
    seed: TrainingSeed = 0,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Structured agent distillation: a loss for reasoning and one for actions, and the easy first if you like."""
    from toolenv.training.curriculum import Curriculum
    from toolenv.training.losses import SpanLoss

    _train(
        dataset,
        output,
        scenario,
        quiet,
        as_json,
        loss=SpanLoss(
            reason_weight=reason_weight,
            act_weight=act_weight,
            observe_weight=observe_weight,
            reduction=reduction,
            teacher=teacher,
            kl_weight=kl_weight,
        ),
        curriculum=Curriculum(alpha=alpha, beta=beta, gamma=gamma, start=pace_start, end=pace_end)
        if curriculum
        else None,
        model=model,
        epochs=epochs,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        lora=_lora(lora_rank),
        checkpoint_steps=checkpoint_steps,
        seed=seed,
    )


def _lora(rank: int | None) -> LoraSettings | None:
    from toolenv.training.sft import LoraSettings

    return None if rank is None else LoraSettings(rank=rank, alpha=2.0 * rank)


def _train(dataset: Path, output: Path, scenario: str | None, quiet: bool, as_json: bool, **settings: Any) -> None:
    """Train on what is solved and tell how it went; of several processes, the main one tells."""
    from toolenv.agents.records import read_trajectories, require_writable
    from toolenv.training.sft import SFTSettings, is_main_process
    from toolenv.training.sft import train_sft as run

    loaded = scenario_named(dataset, scenario)
    require_writable(output / "training.json")
    solved = (trajectory for trajectory in read_trajectories(dataset) if trajectory.success)
    if (first := next(solved, None)) is None:
        count = sum(1 for _ in read_trajectories(dataset))
        raise ValueError(f"{dataset}: nothing to train on: of its {count} trajectories none is solved")
    silent = not is_main_process()
    with training_progress(quiet or as_json or silent) as on_step:
        summary = run(chain([first], solved), loaded.toolbox, output, SFTSettings(**settings), on_step=on_step)
    if silent:
        return
    if as_json:
        print_json(summary)
    else:
        out.print(
            f"{summary['parameters']:,} parameters, {summary['tokens']:,} tokens in {summary['seconds']:.0f} s "
            f"({summary['tokens_per_second']:,} tokens/s), loss {summary['first_loss']:.2f} to "
            f"{summary['last_loss']:.3f}; student in {plain(str(output))}"
        )


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
    seed: TrainingSeed = 0,
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
        print_json(report)
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
    dataset: DatasetOrFile,
    model: Annotated[str, typer.Option(help="The student's folder to begin from.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the student.")] = Path("runs/swirl"),
    scenario: ScenarioOption = None,
    states: Annotated[
        str, typer.Option("--filter", help="Which episodes: none, process, outcome or both.")
    ] = "process",
    steps: Steps = 60,
    groups: Annotated[int, typer.Option(min=1, help="States a step.")] = 24,
    group_size: Annotated[int, typer.Option(min=2, help="Actions sampled at each.")] = 6,
    learning_rate: Annotated[float, typer.Option(help="Constant, after a short warm-up.")] = 1e-4,
    judge: Annotated[str, typer.Option(help="Who rewards a step, as for calibrate.")] = "exact",
    seed: TrainingSeed = 0,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """SWiRL: step-wise RL at the states of recorded episodes, with exact rewards. The same command resumes."""
    from toolenv.agents.judge import make_judge
    from toolenv.agents.records import read_trajectories
    from toolenv.training.policy_gradient import PolicyGradientSettings
    from toolenv.training.sft import is_main_process
    from toolenv.training.swirl import StepFilter, SWiRLSettings
    from toolenv.training.swirl import train_swirl as run

    loaded = scenario_named(dataset, scenario)
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
        log = run(
            loaded,
            read_trajectories(dataset),
            model,
            output,
            settings,
            judge=make_judge(judge),
            on_step=lambda _: advance(1),
        )
    if not main:
        return
    if as_json:
        print_json(log)
    else:
        tail = log[-5:]
        reward = sum(entry.reward for entry in tail) / len(tail)
        out.print(f"reward {log[0].reward:.3f} to {reward:.3f}; student in {output}", highlight=False, markup=False)


@train_app.command("recipe", epilog="Example: toolenv train recipe dagger crm --model runs/student -o runs/dagger")
def train_recipe(
    recipe: Annotated[str, typer.Argument(help="rejection-sampling, dagger or on-policy.")],
    scenario: Scenario_,
    model: Annotated[str, typer.Option(help="The student's folder to begin from.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; each round's student is in it.")] = Path(
        "runs/recipe"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="At most.")] = 4,
    tasks: Annotated[int, typer.Option(min=1, help="New tasks a round.")] = 500,
    trials: Annotated[int, typer.Option(min=1, help="Attempts at each.")] = 1,
    validation: Annotated[int, typer.Option(min=1, help="Tasks by which rounds are compared.")] = 100,
    teacher: Annotated[str | None, typer.Option(help="Of on-policy: the local teacher's folder.")] = None,
    begin_with: Annotated[
        Path | None, typer.Option("--data", help="A dataset whose solved episodes every round is trained on, too.")
    ] = None,
    start: StudentModel = "toolenv-tiny",
    max_tokens: MaxTokens = 500_000,
    first_seed: Annotated[int, typer.Option(min=0, help="Of the tasks.")] = 0,
    seed: TrainingSeed = 0,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """Rounds of acting and training anew: on its own successes, on a mentor's corrections, or on a teacher's odds."""
    from toolenv.agents.records import read_trajectories
    from toolenv.scenarios.loading import load_scenario
    from toolenv.training.recipes import Recipe, RecipeSettings, best, run_recipe
    from toolenv.training.sft import SFTSettings

    if recipe not in list(Recipe):
        raise ValueError(f"there is no recipe {recipe!r}; there is: {', '.join(Recipe)}")
    settings = RecipeSettings(
        recipe=Recipe(recipe),
        rounds=rounds,
        tasks=tasks,
        trials=trials,
        validation=validation,
        teacher=teacher,
        first_seed=first_seed,
        sft=SFTSettings(model=start, max_tokens=max_tokens, epochs=1_000, seed=seed),
    )
    taught = [] if begin_with is None else [t for t in read_trajectories(begin_with) if t.success]
    tell = _teller(quiet or as_json)
    result = run_recipe(
        load_scenario(scenario),
        model,
        output,
        settings,
        taught=taught,
        on_round=lambda one: tell(f"{one.student}: {one.success:.3f} of validation, {one.episodes} episodes"),
    )
    if as_json:
        print_json(result)
    else:
        out.print(f"best: {best(result)}", highlight=False, markup=False)


def distill(
    scenario: Scenario_,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all of it.")] = Path("runs/distill"),
    config: Annotated[Path | None, typer.Option(help="A YAML file of DistillSettings.")] = None,
    as_json: Json_ = False,
    quiet: Quiet = False,
) -> None:
    """The whole path: data, SAD, SCoRe, SWiRL, evaluation. The same command goes on where it was interrupted."""
    from toolenv.demo import distil, tell
    from toolenv.scenarios.loading import load_scenario
    from toolenv.training.distill import DistillSettings

    settings = DistillSettings() if config is None else DistillSettings.read(config)
    loaded = load_scenario(scenario)
    result = distil(loaded, output, settings, hidden=quiet or as_json)
    if as_json:
        print_json(result.evaluations)
    else:
        tell(loaded, result, output, out)


def _teller(hidden: bool) -> Callable[[str], None]:
    """Tells on stderr which stage begins."""
    return lambda stage: None if hidden else err.print(stage, style="dim", highlight=False, markup=False)
