"""The main job in one run: scenario -> dataset -> filters -> student -> evaluation, and a table at the end.

Every stage leaves its result in the output folder and is skipped if it is there already: an interrupted demo goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from toolenv.agents.collect import collect
from toolenv.agents.filters import FILTERS, filter_dataset
from toolenv.agents.records import read_trajectories, whole_file
from toolenv.progress import training_progress
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.splits import FIRST_VALIDATION_SEED
from toolenv.training.evaluate import Evaluation, evaluate
from toolenv.training.evaluation_tables import render_evaluation, render_table


@dataclass(frozen=True, slots=True)
class Size:
    """How much work a demo does: tasks to collect, tokens to train on, tasks to evaluate on.

    The base model is evaluated on a tenth of the tasks: it solves none and takes longest, since it does not stop.
    """

    tasks: int
    tokens: int
    evaluated: int


FULL = Size(tasks=14_000, tokens=1_500_000, evaluated=300)
QUICK = Size(tasks=1_500, tokens=100_000, evaluated=40)
FAULT_RATE = 0.2


def run(output: Path, *, size: Size = FULL, seed: int = 0, console: Console) -> dict[str, Evaluation]:
    """Run what of the demo is missing in `output`; returns the evaluations, by policy."""
    from toolenv.training.base_models import base_model_path

    scenario = load_scenario("crm")
    began = time.perf_counter()
    trained = sum(family.split == "train" for family in scenario.families.values())
    unseen = len(scenario.families) - trained
    console.print(f"[bold]scenario[/] crm: {trained} families to train on, {unseen} kept apart")
    # Wherever the seed leads, all tasks stay in the training split.
    first = seed * size.tasks % (FIRST_VALIDATION_SEED - size.tasks)
    with _stage(console, "trajectories"):
        collect(scenario, f"faulty:{FAULT_RATE:g}", n=size.tasks, out=output / "dataset", seed=first)
    kept = output / "filtered" / "kept"
    if not kept.is_dir():
        with _stage(console, "filters"):
            report = filter_dataset(output / "dataset", FILTERS, output / "filtered")
        reasons = ", ".join(f"{name} {count:,}" for name, count in report.rejected_by.items())
        console.print(f"  kept {report.kept:,}, rejected {report.rejected:,} ({reasons})", highlight=False)
    student = output / "student"
    if not (student / "training.json").is_file():
        with _stage(console, "training"):
            _train(scenario, kept, student, size.tokens, seed)
    summary = json.loads((student / "training.json").read_text())
    console.print(
        f"  {summary['parameters']:,} parameters, {summary['tokens']:,} tokens at "
        f"{summary['tokens_per_second']:,} a second, loss {summary['first_loss']:.2f} to {summary['last_loss']:.3f}"
    )
    policies = {
        "base": str(base_model_path("tiny")),
        "student": str(student),
        "grounded": f"grounded:{student}",
        "oracle": "oracle",
    }
    evaluations = {}
    for name, policy in policies.items():
        with _stage(console, f"evaluating {name}"):
            n = max(1, size.evaluated // 10) if name == "base" else size.evaluated
            evaluations[name] = _evaluate(scenario, policy, name, output, n)
    console.print()
    render_evaluation(evaluations["student"], console)
    console.print()
    render_table(evaluations, console)
    console.print(f"student in {student}, everything else in {output}; {time.perf_counter() - began:.0f} s")
    return evaluations


def _train(scenario: Scenario, dataset: Path, student: Path, tokens: int, seed: int) -> None:
    from toolenv.training.sft import SFTSettings, train_sft

    settings = SFTSettings(max_tokens=tokens, epochs=100, seed=seed, threads=1)
    solved = (trajectory for trajectory in read_trajectories(dataset) if trajectory.success)
    with training_progress(False) as on_step:
        train_sft(solved, scenario.toolbox, student, settings, on_step=on_step)


def _evaluate(scenario: Scenario, policy: str, name: str, output: Path, n: int) -> Evaluation:
    """Evaluate on `n` test tasks of the families trained on and half as many of the others, or read what was kept."""
    parts = []
    for families, tasks in (("train", n), ("unseen", max(1, n // 2))):
        path = output / f"evaluation-{name}-{families}.json"
        if not path.is_file():
            kept = path.with_suffix(".jsonl")
            evaluation = evaluate(scenario, policy, n=tasks, families=families, batch=100, trajectories=kept)
            with whole_file(path) as stream:
                stream.write(evaluation.to_json())
        parts.append(Evaluation.from_json(path.read_bytes(), str(path)))
    trained, unseen = parts
    return replace(trained, by_exposure=trained.by_exposure | unseen.by_exposure)


@contextmanager
def _stage(console: Console, name: str) -> Iterator[None]:
    """Print a stage's name and its seconds when it is done."""
    began = time.perf_counter()
    yield
    console.print(f"[bold]{name}[/]: {time.perf_counter() - began:.0f} s")
