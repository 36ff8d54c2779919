"""Does it pay to weigh reasoning and actions apart? Students of each arm, at equal tokens, on held-out tasks of crm.

    python benchmarks/learning/sad.py -o runs/learning/sad [--sizes 250 1000 4000] [--seeds 5] [--arms flat action-only]
    python benchmarks/learning/sad.py -o runs/learning/sad --table

A run is an arm, a number of oracle trajectories and a seed. All arms of a size see the same number of tokens; those of
a size and seed see the same trajectories and are measured on the same 300 test tasks. Each finished run is a JSON file
in the folder, its episodes beside it: the same command again makes what is missing, and `--table` only reads. Arms with
a local teacher share one: a student of the same size, trained once on 12,000 other trajectories.

Steps are correct that are preferred or acceptable (`agents/equivalence.py`); tool F1 is a macro average. Intervals are
Student's t over seeds, those of differences over seeds too, paired with the flat arm.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from toolenv.agents.collect import collect
from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.records import read_trajectories, whole_file
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED
from toolenv.training.evaluate import evaluate
from toolenv.training.sft import SFTSettings, train_sft

SCENARIO = "crm"
BUDGETS = {250: 200_000, 1_000: 300_000, 4_000: 400_000}  # tokens, by trajectories
TEACHER_TRAJECTORIES, TEACHER_TOKENS = 12_000, 1_200_000
LONGEST_TURN = 80  # tokens; the oracle's longest has 52
FIRST_TEACHER_SEED = 400_000  # no student's trajectory is among the teacher's
SPAN = {"reduction": "span"}
EASY_FIRST: dict[str, Any] = {"curriculum": {}}


@dataclass(frozen=True)
class Arm:
    """Settings by which an arm differs from plain fine-tuning.

    Attributes:
        taught: has the local teacher.
        silent: its trajectories have no reasoning at all, while action-only reads it and is not trained on it.
        core: these are run first.
    """

    loss: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    taught: bool = False
    silent: bool = False
    core: bool = False


ARMS = {
    "flat": Arm(core=True),
    "action-only": Arm({"reason_weight": 0.0}, core=True),
    "no reasoning": Arm(silent=True, core=True),
    "span 1:1": Arm(SPAN, core=True),
    "token 1:3": Arm({"act_weight": 3.0}, core=True),
    "token 3:1": Arm({"reason_weight": 3.0}, core=True),
    "flat KD": Arm(taught=True),
    "span 1:1 KL": Arm(SPAN, taught=True),
    "span 1:1 KL half": Arm({**SPAN, "kl_weight": 0.5}, taught=True),
    "span 1:3": Arm({**SPAN, "act_weight": 3.0}),
    "flat, easy first": Arm(more=EASY_FIRST),
    "span 1:1, easy first": Arm(SPAN, EASY_FIRST),
}
METRICS = {
    "success": "success",
    "correct steps": "step_correctness",
    "tool F1": "tool_f1",
    "reasoning": "reasoning",
    "valid": "schema_validity",
    "invented": "hallucination",
}


@dataclass(frozen=True)
class Run:
    """One student to train and measure."""

    arm: str
    size: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.size}-{self.seed}-{self.arm.replace(' ', '_').replace(':', '-').replace(',', '')}"


def runs(sizes: Sequence[int], seeds: int, arms: Sequence[str]) -> list[Run]:
    """All runs, what tells most first: the core arms at three seeds, from the smallest size on."""
    every = [Run(arm, size, seed) for size in sizes for seed in range(seeds) for arm in arms]
    return sorted(every, key=lambda run: (run.seed >= 3, not ARMS[run.arm].core, run.size, run.seed))


def solved(scenario: Scenario, folder: Path, first_seed: int, count: int) -> Iterator[Trajectory]:
    """`count` successful oracle trajectories of the training split; of a tenth more, should any fail."""
    collect(scenario, "oracle", n=count + count // 10, out=folder, seed=first_seed)
    return islice((trajectory for trajectory in read_trajectories(folder) if trajectory.success), count)


def without_reasoning(trajectory: Trajectory) -> Trajectory:
    """The same deeds, each without a thought before it."""
    steps = (replace(step, action={**step.action, "reasoning": ""}) for step in trajectory.steps)
    return replace(trajectory, steps=tuple(steps))


def teacher(scenario: Scenario, output: Path, scale: float) -> Path:
    """The folder of the local teacher; trained if it is not there."""
    folder = output / "teacher"
    if not (folder / "training.json").is_file():
        data = solved(scenario, output / "data-teacher", FIRST_TEACHER_SEED, TEACHER_TRAJECTORIES)
        train_sft(
            data, scenario.toolbox, folder, SFTSettings(max_tokens=round(scale * TEACHER_TOKENS), epochs=100, threads=1)
        )
    return folder


def perform(run: Run, scenario: Scenario, output: Path, scale: float, evaluated: int) -> dict[str, Any]:
    """Train a student and measure it; its weights are not kept."""
    arm = ARMS[run.arm]
    loss = {**arm.loss, "teacher": str(teacher(scenario, output, scale))} if arm.taught else arm.loss
    settings = SFTSettings.model_validate(
        {
            "max_tokens": round(scale * BUDGETS[run.size]),
            "epochs": 1_000,
            "seed": run.seed,
            "threads": 1,
            "loss": loss,
            **arm.more,
        }
    )
    most = max(BUDGETS)
    data: Iterable[Trajectory] = islice(
        solved(scenario, output / f"data-{run.seed}", run.seed * 2 * most, most), run.size
    )
    if arm.silent:
        data = map(without_reasoning, data)
    with tempfile.TemporaryDirectory() as scratch:
        trained = train_sft(data, scenario.toolbox, scratch, settings)
        evaluation = evaluate(
            scenario,
            LanguageModelPolicy(scratch, max_new_tokens=LONGEST_TURN, name=run.name),
            seed_start=FIRST_TEST_SEED + run.seed * evaluated,
            n=evaluated,
            batch=100,
            trajectories=output / f"{run.name}.jsonl.gz",
        )
    scores = {name: getattr(evaluation.overall, key) for name, key in METRICS.items()}
    return {
        "arm": run.arm,
        "size": run.size,
        "seed": run.seed,
        "evaluated": evaluated,
        "scores": {name: None if metric is None else metric.value for name, metric in scores.items()},
        "training": trained,
        "evaluation": json.loads(evaluation.to_json()),
    }


# -- the table -----------------------------------------------------------------------------------------

T_975 = (math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # by degrees of freedom


def with_interval(values: Sequence[float], digits: int = 3) -> str:
    """Mean and 95% interval of Student's t over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = T_975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.{digits}f} [{mean - half:.{digits}f}, {mean + half:.{digits}f}]"


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a size and arm, means over seeds; success and its difference to flat with intervals."""
    lines = [
        "| trajectories | tokens | arm | seeds | success | minus flat, paired | "
        + " | ".join(list(METRICS)[1:])
        + " |",
        "| --- " * (5 + len(METRICS)) + "|",
    ]
    of = {(result["size"], result["arm"], result["seed"]): result for result in results}
    for size in sorted({result["size"] for result in results}):
        for arm in ARMS:
            found = [of[key] for key in sorted(of) if key[:2] == (size, arm)]
            if not found:
                continue
            pairs = [(run, of[size, "flat", run["seed"]]) for run in found if (size, "flat", run["seed"]) in of]
            differences = [run["scores"]["success"] - flat["scores"]["success"] for run, flat in pairs]
            cells = [
                f"{size:,}",
                f"{statistics.fmean(run['training']['tokens'] for run in found):,.0f}",
                arm,
                str(len(found)),
                with_interval([run["scores"]["success"] for run in found]),
                with_interval(differences) if differences and arm != "flat" else "–",
                *(_mean(found, name) for name in list(METRICS)[1:]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(found: Sequence[dict[str, Any]], name: str) -> str:
    values = [run["scores"][name] for run in found if run["scores"].get(name) is not None]
    return f"{statistics.fmean(values):.3f}" if values else "–"


def read_results(output: Path) -> list[dict[str, Any]]:
    """The runs that are finished."""
    return [json.loads(path.read_text()) for path in sorted((output / "runs").glob("*.json"))]


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/learning/sad"))
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(BUDGETS), default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--evaluated", type=int, default=300, help="test tasks a run")
    parser.add_argument("--scale", type=float, default=1.0, help="of the budgets in tokens, to try the program out")
    parser.add_argument("--table", action="store_true", help="only print what is finished")
    options = parser.parse_args()
    finished = options.output / "runs"
    finished.mkdir(parents=True, exist_ok=True)
    scenario = load_scenario(SCENARIO)
    for run in [] if options.table else runs(options.sizes, options.seeds, options.arms):
        path = finished / f"{run.name}.json"
        if path.is_file():
            continue
        began = time.perf_counter()
        result = perform(run, scenario, options.output, options.scale, options.evaluated)
        with whole_file(path) as stream:
            stream.write(json.dumps(result).encode())
        success = result["scores"]["success"]
        print(f"{run.name}: success {success:.3f}, {time.perf_counter() - began:.0f} s", flush=True)
    print(table(read_results(options.output)))


if __name__ == "__main__":
    main()
