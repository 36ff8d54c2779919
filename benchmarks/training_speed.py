"""How long a step of SADTrainer takes, beside TRL's own SFTTrainer on the same batches in the same run.

    python benchmarks/training_speed.py [--json] [--rounds 5] [--steps 8] [--threads 1]

Plain fine-tuning is TRL's `compute_loss`, everything else alike. Arms take turns, round by round, so that all meet the
same load of the machine. Ratios are of the medians over rounds, of wall and of CPU seconds, since cores are often
shared. Target: the text-only form takes at most 1.05 times as long as plain fine-tuning.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trl import SFTTrainer

from toolenv.agents.dialects import SpanKind
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.rollout import Attempt, rollout
from toolenv.scenarios.loading import load_scenario
from toolenv.training.base_models import base_model_path
from toolenv.training.examples import encode
from toolenv.training.losses import SpanLoss
from toolenv.training.sad import SADTrainer
from toolenv.training.sft import SFTSettings, drawn_batches, load_model, make_trainer
from toolenv.training.spans import KINDS

ARMS = {
    "SAD, span means": {"reduction": "span"},
    "SAD, token weights": {"act_weight": 3.0},
    "action-only": {"reason_weight": 0.0},
    "SAD with a teacher": {"reduction": "span", "teacher": str(base_model_path("tiny"))},
}


class PlainTrainer(SADTrainer):
    """TRL's own loss on our batches."""

    def compute_loss(self, model: Any, inputs: Any, *_: Any, num_items_in_batch: Any = None, **__: Any) -> Any:
        ids, own = inputs["input_ids"], inputs["kinds"] > KINDS.index(SpanKind.OBSERVE)
        positions = torch.arange(ids.shape[1]).expand(ids.shape)
        plain = {"input_ids": ids, "labels": ids.where(own, -100), "position_ids": positions}
        return SFTTrainer.compute_loss(self, model, plain, num_items_in_batch=num_items_in_batch[2:].sum())


def rounds_of(steps: int, scratch: Path) -> dict[str, Callable[[], tuple[float, float]]]:
    """Arm -> a round: the same batches trained on once; returns wall and CPU seconds a step."""
    scenario = load_scenario("crm")
    trajectories = list(rollout(scenario, OraclePolicy(), [Attempt(seed) for seed in range(200)]))

    def round_of(plain: bool, loss: dict[str, Any]) -> Callable[[], tuple[float, float]]:
        settings = SFTSettings(threads=torch.get_num_threads(), loss=SpanLoss.model_validate(loss))
        model, tokenizer, style = load_model(settings)
        teacher = None if settings.loss.teacher is None else load_model(settings)[0]
        examples = list(encode(trajectories, tokenizer, scenario.toolbox, style, max_length=1_024))
        batches = drawn_batches(examples, settings)[:steps]

        def train() -> tuple[float, float]:
            trainer = make_trainer(model, tokenizer, teacher, batches, scratch, settings)
            trainer.__class__ = PlainTrainer if plain else SADTrainer
            began, began_cpu = time.perf_counter(), time.process_time()
            trainer.train()
            return (time.perf_counter() - began) / steps, (time.process_time() - began_cpu) / steps

        return train

    arms = {name: round_of(False, loss) for name, loss in ARMS.items()}
    return {"plain SFT": round_of(True, {}), "SADTrainer, flat": round_of(False, {}), **arms}


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", module=r"torch\..*")
    with tempfile.TemporaryDirectory() as scratch:
        arms = rounds_of(options.steps, Path(scratch))
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
        for number in range(options.rounds + 1):
            for name, train in arms.items():
                taken = train()
                if number:  # the first round warms up
                    seconds[name].append(taken)
    medians = {name: [statistics.median(each) for each in zip(*taken, strict=True)] for name, taken in seconds.items()}
    plain = medians["plain SFT"]
    ratios = {name: [mine / its for mine, its in zip(median, plain, strict=True)] for name, median in medians.items()}
    load = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"seconds_a_step": medians, "ratios": ratios, "load": load}))
        return
    print(f"toolenv-tiny, {options.steps} steps a round, {options.threads} threads, load {load:.1f}")
    for name, (wall, cpu) in ratios.items():
        wall_ms, cpu_ms = (1_000 * value for value in medians[name])
        print(f"{name:20} wall {wall_ms:7.1f} ms, {wall:.3f} x plain SFT; CPU {cpu_ms:7.1f} ms, {cpu:.3f} x")


if __name__ == "__main__":
    main()
