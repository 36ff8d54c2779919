"""What does LoRA need to teach `toolenv-tiny` a tool family? Losses on held-out episodes of crm's orders.

    python benchmarks/learning/lora.py [--tokens 100000] [--arms full "r64 5e-3 embeddings"]

Each arm sees the same tokens of 1,500 oracle trajectories and is measured on 120 others, teacher-forced: nats a token
of reasoning and of actions, and the share of action tokens that are the likeliest. One seed an arm.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from adapters import ORDERS

from toolenv.agents.dialects import SpanKind
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import load_scenario
from toolenv.training.examples import Example, encode, make_batches
from toolenv.training.losses import cross_entropy
from toolenv.training.sad import collate, logprobs, row_of
from toolenv.training.sft import SFTSettings, fit
from toolenv.training.spans import KINDS

CRM = load_scenario("crm")
FAMILIES = tuple(name for name in ORDERS if name != "missing_id")
EMBEDDINGS = {"in_full": ["embed_tokens"]}


def lora(rank: int, rate: float, **more: Any) -> dict[str, Any]:
    return {"lora": {"rank": rank, "alpha": 2.0 * rank, **more}, "learning_rate": rate}


ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    "r16 2e-3": lora(16, 2e-3),
    "r16 1e-2": lora(16, 1e-2),
    "r64 5e-3": lora(64, 5e-3),
    "r64 1e-2": lora(64, 1e-2),
    "r64 5e-3 embeddings by LoRA": lora(64, 5e-3, target_modules=r".*(_proj|embed_tokens)"),
    "r16 5e-3 embeddings": lora(16, 5e-3, **EMBEDDINGS),
    "r32 8e-3 embeddings": lora(32, 8e-3, **EMBEDDINGS),
    "r64 3e-3 embeddings": lora(64, 3e-3, **EMBEDDINGS),
    "r64 5e-3 embeddings": lora(64, 5e-3, **EMBEDDINGS),
    "r128 4e-3 embeddings": lora(128, 4e-3, **EMBEDDINGS),
}


def solved(first: int, count: int) -> list[Trajectory]:
    """The oracle's successes at so many seeds."""
    attempts = [Attempt(seed) for seed in range(first, first + count)]
    return [t for t in rollout(CRM, OraclePolicy(), attempts, families=FAMILIES) if t.success]


@torch.no_grad()
def losses(model: Any, examples: list[Example]) -> dict[str, float]:
    """Nats a token of each kind, and accuracy on actions."""
    nats, hits, counts = (dict.fromkeys((SpanKind.REASON, SpanKind.ACT), 0.0) for _ in range(3))
    for batch in make_batches(examples, 4_000, 0):
        inputs = collate([row_of(batch)])
        ids, logits = inputs["input_ids"], model(input_ids=inputs["input_ids"], use_cache=False).logits
        for kind in nats:
            where = inputs["kinds"][:, 1:] == KINDS.index(kind)
            odds, targets = logprobs(logits, where), ids[:, 1:][where]
            nats[kind] += float(cross_entropy(odds, targets).sum())
            hits[kind] += float((odds.argmax(-1) == targets).sum())
            counts[kind] += len(targets)
    act = SpanKind.ACT
    return {**{kind: nats[kind] / counts[kind] for kind in nats}, "accuracy": hits[act] / counts[act]}


def main() -> None:
    """Train each arm and print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    options = parser.parse_args()
    data, held_out = solved(0, 1_500), solved(800_000, 120)
    print("| | trained parameters | reasoning | actions | accuracy | seconds |\n" + "| --- " * 6 + "|")
    for arm in options.arms:
        began = time.perf_counter()
        given = {"max_tokens": options.tokens, "epochs": 1_000, "threads": 1, **ARMS[arm]}
        settings = SFTSettings.model_validate(given)
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft reads an old name of transformers
            fitted = fit(data, CRM.toolbox, Path(scratch), settings)
        trained = sum(parameter.numel() for parameter in fitted.model.parameters() if parameter.requires_grad)
        examples = list(encode(held_out, fitted.tokenizer, CRM.toolbox, fitted.style, max_length=1_024))
        told = losses(fitted.model.eval(), examples)
        cells = [
            arm,
            f"{trained:,}",
            *(f"{value:.3f}" for value in told.values()),
            f"{time.perf_counter() - began:.0f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
