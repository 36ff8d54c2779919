"""How fast a student acts: sampled tokens a second, beside a bare decode loop in the same run.

    python benchmarks/student_speed.py [MODEL] [--json] [-n 64] [--batch 32] [--repeats 3]

The bare loop is the floor: a batch of contexts continued by 32 tokens each with transformers' own cache and an argmax,
nothing around it. It is measured on the first turns of episodes, which are short and of like length, and on turns as
they come up, of which the longest decides what all cost. `decode` does the same work with log-probabilities and kept
states. Then `n` episodes of `crm` run to their end, environment included, with what was computed kept between turns,
without, and with grounded decoding, whose texts may differ. All run in turn on one thread; figures are medians over
repeats in CPU seconds, since cores are often shared.

MODEL is a student's folder, the base model if left out. A trained one is worth naming: one that does not end its turns
writes on to their limit, and a single row that goes on costs nearly as much as several.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from toolenv.agents.decoding import decode
from toolenv.agents.decoding_batch import Past
from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.policy import Decision, Episode
from toolenv.agents.rollout import Attempt, rollout
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED
from toolenv.training.base_models import base_model_path

BARE_TOKENS = 32
NO_END = -1


class Forgetful(LanguageModelPolicy):
    """The same policy, computing every context anew in each turn."""

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        for episode in episodes:
            if "past" in episode.memory:
                episode.memory["past"] = Past()
        return super().act(episodes)


def contexts_of_turns(policy: LanguageModelPolicy, scenario: Scenario, batch: int) -> dict[str, list[list[int]]]:
    """What the student is shown before `batch` first turns, and before `batch` of all turns, evenly by length."""
    seen: list[list[int]] = []
    context = policy.context
    policy.context = lambda episode: seen.append(context(episode)) or seen[-1]
    rolled_out(policy, scenario, batch, batch)
    policy.context = context
    ordered = sorted(seen, key=len)
    return {"first turns": seen[:batch], "any turns": [ordered[i * len(seen) // batch] for i in range(batch)]}


def bare_loop(policy: LanguageModelPolicy, contexts: list[list[int]]) -> int:
    """Continue each context greedily by `BARE_TOKENS`; the number of tokens."""
    width = max(len(row) for row in contexts)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in contexts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in contexts])
    positions, cache = (mask.cumsum(1) - 1).clamp(min=0), None
    with torch.inference_mode():
        for _ in range(BARE_TOKENS):
            out = policy.model(
                ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            ids, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
            mask, positions = torch.cat([mask, mask.new_ones(len(mask), 1)], 1), positions[:, -1:] + 1
    return len(contexts) * BARE_TOKENS


def decoded(policy: LanguageModelPolicy, contexts: list[list[int]]) -> int:
    """The same by `decode`."""
    pasts = [Past() for _ in contexts]
    out = decode(policy.model, contexts, end=NO_END, max_new_tokens=BARE_TOKENS, pasts=pasts)
    return sum(len(ids) for ids, _ in out)


def rolled_out(policy: LanguageModelPolicy, scenario: Scenario, n: int, batch: int) -> int:
    """Run `n` episodes to their end; the number of sampled tokens."""
    attempts = [Attempt(FIRST_TEST_SEED + seed) for seed in range(n)]
    done = rollout(scenario, policy, attempts, batch=batch)
    return sum(len(step.token_ids or ()) for trajectory in done for step in trajectory.steps)


def measure(model: str, n: int, batch: int, repeats: int) -> dict[str, float]:
    """Medians of tokens a CPU second."""
    scenario, policy, forgetful = load_scenario("crm"), LanguageModelPolicy(model), Forgetful(model)
    grounded = LanguageModelPolicy(model, grounded=True)
    contexts = contexts_of_turns(policy, scenario, batch)
    timed: dict[str, Callable[[], int]] = {}
    for turns, given in contexts.items():
        timed[f"bare loop, {turns}"] = partial(bare_loop, policy, given)
        timed[f"decode, {turns}"] = partial(decoded, policy, given)
    timed["episodes"] = partial(rolled_out, policy, scenario, n, batch)
    timed["episodes, nothing kept"] = partial(rolled_out, forgetful, scenario, n, batch)
    timed["episodes, grounded"] = partial(rolled_out, grounded, scenario, n, batch)
    rates: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, work in timed.items():
            began = time.process_time()
            tokens = work()
            rates[name].append(tokens / (time.process_time() - began))
    return {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(base_model_path("tiny")))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rates = measure(options.model, options.n, options.batch, options.repeats)
    figures: dict[str, Any] = {"tokens_per_cpu_s": rates, "load": os.getloadavg()[0], **vars(options)}
    if options.json:
        print(json.dumps(figures))
        return
    print(f"one thread, batch {options.batch}, {options.n} episodes, load {figures['load']:.1f}; tokens a CPU second\n")
    for name, rate in rates.items():
        floor = rates["bare loop, first turns" if "first" in name else "bare loop, any turns"]
        print(f"{name:24}{rate:9,.0f}{rate / floor:8.2f} of the bare loop")


if __name__ == "__main__":
    main()
