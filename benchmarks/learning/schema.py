"""Must a specialist be shown its tools? Students that read full schemas, signatures, names or nothing, on `database`.

    python benchmarks/learning/schema.py -o runs/learning/schema [--seeds 2] [--arms none schemas]
    python benchmarks/learning/schema.py -o runs/learning/schema --table

A run is an arm and a seed: `toolenv-tiny`, fine-tuned on 1,500 oracle trajectories once. All arms of a seed make the
same steps on the same batches of conversations, so they see the same targets; what differs is what the system message
lists, and that comes on top. They are measured on the same 200 test tasks of families trained on, and 100 of families
never seen. Each finished run is a JSON file in the folder: the same command again makes what is missing, and `--table`
only reads. Positions beyond those of the base model's documents are learned in the fine-tuning alone.

Intervals are 95%, of one seed over tasks (Wilson), of several Student's t over seeds; differences are paired by seed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sad import read_results, solved, with_interval

from toolenv.agents.decoding_batch import Past
from toolenv.agents.intervals import wilson
from toolenv.agents.language_model import LanguageModelPolicy, PromptStyle, ToolListing
from toolenv.agents.policy import Decision, Episode
from toolenv.agents.records import whole_file
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED
from toolenv.training.base_models import base_model_path
from toolenv.training.evaluate import Evaluation, evaluate
from toolenv.training.sft import SFTSettings, train_sft

SCENARIO = "database"
TRAJECTORIES = 1_500
LONGEST = 4_096  # tokens; the schemas of the eleven tools take 2,756
LONGEST_TURN = 120
EXPOSURES = {"train": 200, "unseen": 100}  # test tasks
ARMS = tuple(map(str, ToolListing))
METRICS = {"success": "success", "valid": "schema_validity", "invented": "hallucination", "tool F1": "tool_f1"}


@dataclass(frozen=True)
class Run:
    """One student to train and measure."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.seed}-{self.arm}"


class Counting(LanguageModelPolicy):
    """Counts the tokens that it reads at each step; what all episodes begin with is computed for the first alone."""

    def __init__(self, folder: str, name: str) -> None:
        super().__init__(folder, max_new_tokens=LONGEST_TURN, name=name)
        self.prompts: list[int] = []
        self._first = Past()

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        for episode in episodes:
            first = self._first
            episode.memory.setdefault("past", Past(list(first.ids), first.states, list(first.weights)))
        decisions = super().act(episodes)
        if self._first.states is None:
            past = episodes[0].memory["past"]
            self._first = Past(past.ids, past.states, past.weights)
        return decisions

    def context(self, episode: Episode) -> list[int]:
        ids = super().context(episode)
        self.prompts.append(len(ids))
        return ids


def roomy_base(folder: Path) -> Path:
    """`toolenv-tiny`, allowed contexts as long as the schemas."""
    if not folder.is_dir():
        shutil.copytree(base_model_path("tiny"), folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": LONGEST}))
    return folder


def perform(run: Run, scenario: Scenario, output: Path, trajectories: int, scale: float) -> dict[str, Any]:
    """Train a student and measure it; its weights are not kept."""
    settings = SFTSettings(
        model=str(roomy_base(output / "base")),
        style=PromptStyle(tools=ToolListing(run.arm)),
        max_length=LONGEST,
        seed=run.seed,
        threads=1,
    )
    first_seed = run.seed * 2 * TRAJECTORIES
    data = islice(solved(scenario, output / f"data-{run.seed}", first_seed, TRAJECTORIES), trajectories)
    with tempfile.TemporaryDirectory() as scratch:
        trained = train_sft(data, scenario.toolbox, scratch, settings)
        policy = Counting(scratch, run.name)
        measured = {}
        for families, n in EXPOSURES.items():
            count = max(1, round(scale * n))
            seed_start, before = FIRST_TEST_SEED + run.seed * count, len(policy.prompts)
            evaluation = evaluate(scenario, policy, families=families, seed_start=seed_start, n=count, batch=25)
            measured[families] = _scores(evaluation, policy.prompts[before:])
    return {"arm": run.arm, "seed": run.seed, "training": trained, **measured}


def _scores(evaluation: Evaluation, prompts: Sequence[int]) -> dict[str, Any]:
    metrics = {name: getattr(evaluation.overall, key) for name, key in METRICS.items()}
    return {
        **{name: None if metric is None else metric.value for name, metric in metrics.items()},
        "prompt": statistics.fmean(prompts),
        "n": evaluation.config.n,
        "seconds": evaluation.elapsed_s,
    }


# -- the table -----------------------------------------------------------------------------------------


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row an arm and exposure, means over seeds."""
    lines = [
        "| families | shown | seeds | success | minus none, paired | valid | invented | tool F1 | prompt tokens a step "
        "| seconds an episode |",
        "| --- " * 10 + "|",
    ]
    for families in EXPOSURES:
        of = {(run["arm"], run["seed"]): run[families] for run in results}
        for arm in ARMS:
            found = {seed: scores for (name, seed), scores in sorted(of.items()) if name == arm}
            if not found:
                continue
            differences = [
                scores["success"] - of["none", seed]["success"]
                for seed, scores in found.items()
                if ("none", seed) in of
            ]
            cells = [
                families,
                arm,
                str(len(found)),
                _success(list(found.values())),
                with_interval(differences) if differences and arm != "none" else "–",
                *(_mean(found.values(), name) for name in list(METRICS)[1:]),
                f"{statistics.fmean(scores['prompt'] for scores in found.values()):,.0f}",
                f"{statistics.fmean(scores['seconds'] / scores['n'] for scores in found.values()):.2f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _success(found: Sequence[dict[str, Any]]) -> str:
    """Over seeds; of one seed over its tasks."""
    if len(found) > 1:
        return with_interval([scores["success"] for scores in found])
    (scores,) = found
    low, high = wilson(scores["success"] * scores["n"], scores["n"])
    return f"{scores['success']:.3f} [{low:.3f}, {high:.3f}]"


def _mean(found: Any, name: str) -> str:
    values = [scores[name] for scores in found if scores[name] is not None]
    return f"{statistics.fmean(values):.3f}" if values else "–"


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/learning/schema"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--trajectories", type=int, default=TRAJECTORIES, help="fewer, to try the program out")
    parser.add_argument("--scale", type=float, default=1.0, help="of the test tasks, to try the program out")
    parser.add_argument("--table", action="store_true", help="only print what is finished")
    options = parser.parse_args()
    finished = options.output / "runs"
    finished.mkdir(parents=True, exist_ok=True)
    scenario = load_scenario(SCENARIO)
    runs = [Run(arm, seed) for seed in range(options.seeds) for arm in options.arms]
    for run in [] if options.table else runs:
        path = finished / f"{run.name}.json"
        if path.is_file():
            continue
        began = time.perf_counter()
        result = perform(run, scenario, options.output, options.trajectories, options.scale)
        with whole_file(path) as stream:
            stream.write(json.dumps(result).encode())
        success = result["train"]["success"]
        print(f"{run.name}: success {success:.3f}, {time.perf_counter() - began:.0f} s", flush=True)
    print(table(read_results(options.output)))


if __name__ == "__main__":
    main()
