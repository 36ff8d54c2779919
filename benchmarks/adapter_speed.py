"""Rows of several LoRA adapters: one forward pass for all, one for each adapter, or weights with the additions in them?

    python benchmarks/adapter_speed.py [--rank 64] [--rows 3 12 48 96]

Three adapters on `toolenv-tiny`, a third of the rows for each: milliseconds of CPU to decode one token in each row
after 150 others, and to encode those. "mixed" is peft's `adapter_names`; "apart" computes the rows of one adapter
after the other, "folded" too, with weights that contain the additions. The least of several repetitions counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from toolenv.training.base_models import load

NAMES = ("first", "second", "third")
CONTEXT = 150  # tokens
STEPS, REPETITIONS = 16, 5


def adapted(rank: int) -> Any:
    """The base with three adapters whose additions are not zero."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load("tiny")[0], config, adapter_name=NAMES[0])
    for name in NAMES[1:]:
        model.add_adapter(name, config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    return model.eval()


def decode(model: Any, rows: int, **given: Any) -> float:
    """Milliseconds of CPU a step."""
    past = model(input_ids=torch.randint(10, 500, (rows, CONTEXT)), use_cache=True, **given).past_key_values
    token = torch.randint(10, 500, (rows, 1))
    return _least(lambda: model(input_ids=token, past_key_values=past, use_cache=True, **given), STEPS)


def encode(model: Any, rows: int, **given: Any) -> float:
    """Milliseconds of CPU for the contexts."""
    ids = torch.randint(10, 500, (rows, CONTEXT))
    return _least(lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1, **given), REPETITIONS)


def _least(work: Callable[[], Any], times: int) -> float:
    seconds = []
    for _ in range(times):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return 1_000 * min(seconds)


@torch.inference_mode()
def table(rank: int, sizes: Sequence[int]) -> str:
    """Markdown."""
    model, plain = adapted(rank), load("tiny")[0]
    lines = ["| | rows | mixed | apart | folded |", "| --- " * 5 + "|"]
    for work in (decode, encode):
        for rows in sizes:
            share = rows // len(NAMES)
            mixed = work(model, rows, adapter_names=[name for name in NAMES for _ in range(share)])
            apart = 0.0
            for name in NAMES:
                model.set_adapter(name, inference_mode=True)
                apart += work(model, share)
            folded = len(NAMES) * work(plain, share)
            lines.append(f"| {work.__name__} | {rows} | {mixed:.1f} | {apart:.1f} | {folded:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--rows", type=int, nargs="+", default=[3, 12, 48, 96])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(table(options.rank, options.rows))


if __name__ == "__main__":
    main()
