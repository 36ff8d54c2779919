"""One student for everything, or an adapter for each kind of task? On `crm`, in two groups of families, and `database`.

    python benchmarks/learning/adapters.py -o runs/learning/adapters [--tokens 150000] [--evaluated 200]

Three adapters on `toolenv-tiny` see so many tokens each; the students see three times as many, of the same episodes:
one is fine-tuned in full, as `train sft` does it, the other is one adapter for all. All are measured on the same test
tasks of each group. Before that the adapter of the orders is trained anew on other episodes, and what the two others do
on their tasks is compared with before, to the bit. Last, what the set costs: tokens a CPU second, and bytes of weights.

Each finished part is a file in the folder: the same command again makes what is missing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from toolenv.agents.adapter_policy import AdapterSetPolicy
from toolenv.agents.adapters import SET_FILE
from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policy import Policy
from toolenv.agents.records import read_trajectories, whole_file
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED
from toolenv.tools.toolbox import Toolbox
from toolenv.training.adapters import ADAPTER_LEARNING_RATE, ADAPTER_LORA, train_adapter
from toolenv.training.evaluate import evaluate
from toolenv.training.sft import SFTSettings, train_sft

ORDERS = (
    "order_status order_total parcel_of_order track_number item_in_order latest_order order_count cancel_order "
    "cancel_too_late change_address refund_order refund_twice return_order return_too_late wrong_order_id missing_id "
    "foreign_order_id undo_order missing_parcel damaged_delivery ask_order_to_cancel ask_cancel_too_late "
    "ask_why_cancel ask_why_return ask_parcel ask_new_address"
).split()
EPISODES = 2_000  # of each group
LONGEST_TURN = 120
RETRAINED_SEED = 300_000
PROBED = 16  # episodes of each group, to measure speed

LORA: dict[str, Any] = {"lora": ADAPTER_LORA, "learning_rate": ADAPTER_LEARNING_RATE}


@dataclass(frozen=True)
class Kind:
    """What one adapter is for."""

    scenario: Scenario
    families: tuple[str, ...]


def groups() -> dict[str, Kind]:
    """Adapter -> what it is for."""
    crm, database = load_scenario("crm"), load_scenario("database")
    of_crm, of_database = (
        [name for name, family in scenario.families.items() if family.split == "train"] for scenario in (crm, database)
    )
    return {
        "orders": Kind(crm, tuple(name for name in of_crm if name in ORDERS)),
        "accounts": Kind(crm, tuple(name for name in of_crm if name not in ORDERS)),
        "database": Kind(database, tuple(of_database)),
    }


def solved(kind: Kind, first: int, count: int) -> list[Trajectory]:
    """`count` successful oracle trajectories."""
    attempts = (Attempt(seed) for seed in range(first, first + 2 * count))
    done = rollout(kind.scenario, OraclePolicy(), attempts, families=kind.families)
    return list(islice((trajectory for trajectory in done if trajectory.success), count))


def everything(episodes: Sequence[Sequence[Trajectory]]) -> Iterator[Trajectory]:
    """The episodes of all groups, in turn."""
    yield from (one for row in zip_longest(*episodes) for one in row if one is not None)


def union(scenarios: Sequence[Scenario]) -> Toolbox:
    """The tools of all: of a student that is shown none of them, it only tells what identifiers look like."""
    tools = {name: scenario.toolbox[name] for scenario in scenarios for name in scenario.toolbox.names}
    return Toolbox(list(tools.values()))


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file holds; it is made if it is missing."""
    if not path.is_file():
        began = time.perf_counter()
        made = make()
        with whole_file(path) as stream:
            stream.write(json.dumps(made).encode())
        print(f"{path.name}: {time.perf_counter() - began:.0f} s", flush=True)
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def speed(policy: Policy, kinds: Sequence[Kind]) -> dict[str, Any]:
    """Tokens that are written a CPU second, on validation tasks of all groups in turn."""
    tokens, began = 0, time.process_time()
    for kind in kinds:
        attempts = [Attempt(800_000 + i) for i in range(PROBED)]
        for trajectory in rollout(kind.scenario, policy, attempts, families=kind.families, batch=32):
            tokens += sum(len(step.token_ids or ()) for step in trajectory.steps)
    seconds = time.process_time() - began
    return {"tokens": tokens, "cpu_seconds": seconds}


def weight_bytes(models: Sequence[Any]) -> int:
    """Of all weights, those that several models share counted once."""
    tensors = {tensor.data_ptr(): tensor for model in models for tensor in model.parameters()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@dataclass(frozen=True)
class Experiment:
    """Where it lies, and how much is done."""

    output: Path
    tokens: int
    evaluated: int
    retrained_tokens: int
    students: Sequence[str]
    kinds: dict[str, Kind] = field(default_factory=groups)

    def settings(self, tokens: int, **more: Any) -> SFTSettings:
        return SFTSettings.model_validate({"max_tokens": tokens, "epochs": 1_000, "threads": 1, **more})

    def perform(self) -> None:
        """Make the parts that are missing, and print what came out."""
        self.output.mkdir(parents=True, exist_ok=True)
        episodes = {name: solved(kind, 0, EPISODES) for name, kind in self.kinds.items()}
        for name in self.kinds:
            once(self.output / f"train-{name}.json", partial(self.adapter, name, episodes[name], self.tokens))
        policy = AdapterSetPolicy(self.output / "set", max_new_tokens=LONGEST_TURN)
        results = {"adapters": self.measured(policy, "adapters")}
        print(json.dumps(once(self.output / "retrained.json", self.retrained)), flush=True)
        for student in self.students:
            place = self.output / student.replace(" ", "-")
            train = partial(self.student, place, list(episodes.values()), **(LORA if student == "one adapter" else {}))
            once(self.output / f"train-{place.name}.json", train)
            results[student] = self.measured(LanguageModelPolicy(place, max_new_tokens=LONGEST_TURN), place.name)
        print(table(results))
        print(json.dumps(once(self.output / "costs.json", self.costs)))

    def adapter(self, name: str, episodes: Sequence[Trajectory], tokens: int) -> dict[str, Any]:
        settings = self.settings(tokens, **LORA)
        return train_adapter(episodes, self.kinds[name].scenario, self.output / "set", name, settings)

    def student(self, place: Path, episodes: Sequence[Sequence[Trajectory]], **more: Any) -> dict[str, Any]:
        """One student for all, of the same tokens in all."""
        toolbox = union([kind.scenario for kind in self.kinds.values()])
        return train_sft(everything(episodes), toolbox, place, self.settings(len(self.kinds) * self.tokens, **more))

    def measured(self, policy: Policy, name: str) -> dict[str, dict[str, Any]]:
        """The evaluation of each group."""
        return {
            group: once(self.output / f"{name}-{group}.json", partial(self.evaluated_on, policy, name, group))
            for group in self.kinds
        }

    def evaluated_on(self, policy: Policy, name: str, group: str) -> dict[str, Any]:
        kind, kept = self.kinds[group], self.output / f"{name}-{group}.jsonl"
        options: dict[str, Any] = {"families": kind.families, "seed_start": FIRST_TEST_SEED, "n": self.evaluated}
        evaluation = evaluate(kind.scenario, policy, batch=50, trajectories=kept, **options)
        return {"evaluation": json.loads(evaluation.to_json())}

    def retrained(self) -> dict[str, Any]:
        """Train the adapter of the orders anew; how many episodes of each group are the same to the bit as before."""
        folder = self.output / "set"
        before = (folder / SET_FILE).read_bytes()
        self.adapter("orders", solved(self.kinds["orders"], RETRAINED_SEED, EPISODES), self.retrained_tokens)
        self.measured(AdapterSetPolicy(folder, max_new_tokens=LONGEST_TURN), "retrained")
        with whole_file(folder / SET_FILE) as stream:  # the set as it was
            stream.write(before)
        same: dict[str, Any] = {}
        for name in self.kinds:
            one, two = (read_trajectories(self.output / f"{when}-{name}.jsonl") for when in ("adapters", "retrained"))
            equal = [a.without_timing() == b.without_timing() for a, b in zip(one, two, strict=True)]
            same[name] = {"episodes": len(equal), "equal": sum(equal)}
        return same

    def costs(self) -> dict[str, Any]:
        """Speed and weights of a student, of the set with additions folded in, and of the set on shared weights."""
        every = list(self.kinds.values())
        student = LanguageModelPolicy(self.output / "full", max_new_tokens=LONGEST_TURN)
        told = {"student": {**speed(student, every), "bytes": weight_bytes([student.model])}}
        for folded in (True, False):
            policy = AdapterSetPolicy(self.output / "set", folded=folded, max_new_tokens=LONGEST_TURN)
            weights = weight_bytes([each.model for each in policy.policies.values()])
            told["folded" if folded else "shared"] = {**speed(policy, every), "bytes": weights}
        return told


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: success of each way on each group."""
    lines = ["| | families of | n | success | valid | invented | tool F1 |", "| --- " * 7 + "|"]
    for way, group, result in ((way, group, of[group]) for way, of in results.items() for group in of):
        overall = result["evaluation"]["overall"]
        success = overall["success"]
        cells = [
            way,
            group,
            str(result["evaluation"]["config"]["n"]),
            f"{success['value']:.3f} [{success['low']:.3f}, {success['high']:.3f}]",
            *(_value(overall[key]) for key in ("schema_validity", "hallucination", "tool_f1")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _value(metric: dict[str, float] | None) -> str:
    return "–" if metric is None else f"{metric['value']:.3f}"


def main() -> None:
    """Make the parts that are missing, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/learning/adapters"))
    parser.add_argument("--tokens", type=int, default=150_000, help="of each adapter")
    parser.add_argument("--evaluated", type=int, default=200, help="test tasks of each group")
    parser.add_argument("--retrained-tokens", type=int, default=40_000)
    parser.add_argument("--students", nargs="+", choices=["full", "one adapter"], default=["full", "one adapter"])
    Experiment(**vars(parser.parse_args())).perform()


if __name__ == "__main__":
    main()
