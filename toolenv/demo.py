"""A distillation as the command line shows it, and the short one that is the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from toolenv.progress import err, training_progress
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.training.distill import SPECIALIST, Distillation, DistillSettings, distill
from toolenv.training.evaluation_tables import render_evaluation, render_table

THREAD = {"threads": 1}  # best for models of a few million parameters
RL = {"steps": 4, "groups": 12, "max_new_tokens": 64, **THREAD}
SWIRL = {"filter": "until-error", "error_share": 0.5}


def _short(tasks: int, mentored: int, evaluated: int, cold: int, tokens: int) -> DistillSettings:
    short: dict[str, Any] = {
        "tasks": tasks,
        "mentored_tasks": mentored,
        "evaluated": evaluated,
        "evaluated_early": max(1, evaluated // 5),
        "sad": {"max_tokens": cold, "epochs": 100, **THREAD},
        "score": {"sft": {"max_tokens": tokens, "epochs": 100, **THREAD}, "policy_gradient": RL},
        "swirl": {**SWIRL, "policy_gradient": RL},
    }
    return DistillSettings.model_validate(short)


FULL = _short(tasks=5_000, mentored=400, evaluated=200, cold=200_000, tokens=1_200_000)
QUICK = _short(tasks=500, mentored=80, evaluated=40, cold=30_000, tokens=70_000)


def demo(output: Path, *, settings: DistillSettings = FULL, seed: int = 0, console: Console) -> Distillation:
    """Run what of the demo is missing in `output`, and print what came of it."""
    scenario = load_scenario("crm")
    result = distil(scenario, output, settings.model_copy(update={"seed": seed}))
    tell(scenario, result, output, console)
    return result


def distil(scenario: Scenario, output: Path, settings: DistillSettings, *, hidden: bool = False) -> Distillation:
    """Distil; unless `hidden`, each stage that begins is told on stderr, and a bar shows how training goes."""
    with training_progress(hidden) as on_step:
        return distill(
            scenario,
            output,
            settings,
            notify=lambda stage: None if hidden else err.print(stage, style="dim", highlight=False, markup=False),
            on_step=on_step,
        )


def tell(scenario: Scenario, result: Distillation, output: Path, console: Console) -> None:
    """The specialist by family, all policies side by side, and where the time went."""
    trained = sum(family.split == "train" for family in scenario.families.values())
    unseen = len(scenario.families) - trained
    console.print(f"[bold]scenario[/] {scenario.name}: {trained} families to train on, {unseen} kept apart")
    render_evaluation(result.evaluations[SPECIALIST], console)
    console.print()
    render_table(result.evaluations, console)
    spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in result.seconds.items())
    console.print(f"specialist in {output / 'student'}; {spent or 'nothing was left to do'}", highlight=False)
