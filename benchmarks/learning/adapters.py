"""One student for everything, or an adapter for each kind of task? On `crm`, in two groups of families, and `database`.

    python benchmarks/learning/adapters.py -o runs/learning/adapters [--tokens 200000] [--evaluated 200]

Three adapters on `toolenv-tiny` see so many tokens each; the students see three times as many, of the same episodes:
one is fine-tuned in full, as `train sft` does it, the other is one adapter for all. All are measured on the same test
tasks of each group. Then the adapter of the orders is trained anew on other episodes, and what the two others do on
their tasks is compared with before, to the bit. Last, what the set costs: tokens a CPU second, and bytes of weights.

Each finished part is a file in the folder: the same command again makes what is missing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
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
    "foreign_order_id undo_order missing_parcel damaged_delivery ask_order_to_cancel ask_cancel_too_late ask_why_cancel "
    "ask_why_return ask_parcel ask_new_address"
).split()
EPISODES = 2_000  # of each group
LONGEST_TURN = 120
RETRAINED_SEED = 300_000
PROBED = 16  # episodes of each group, to measure speed


def groups() -> dict[str, tuple[Scenario, tuple[str, ...]]]:
    """Adapter -> its scenario and its families."""
    crm, database = load_scenario("crm"), load_scenario("database")
    trained = {
        scenario: [n for n, f in scenario.families.items() if f.split == "train"] for scenario in (crm, database)
    }
    return {
        "orders": (crm, tuple(name for name in trained[crm] if name in ORDERS)),
        "accounts": (crm, tuple(name for name in trained[crm] if name not in ORDERS)),
        "database": (database, tuple(trained[database])),
    }


def solved(scenario: Scenario, families: Sequence[str], first: int, count: int) -> list[Trajectory]:
    """`count` successful oracle trajectories."""
    attempts = (Attempt(seed) for seed in range(first, first + 2 * count))
    done = rollout(scenario, OraclePolicy(), attempts, families=families)
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


def measured(policy: Policy, scenario: Scenario, families: Sequence[str], n: int, kept: Path) -> dict[str, Any]:
    evaluation = evaluate(
        scenario, policy, families=families, seed_start=FIRST_TEST_SEED, n=n, batch=50, trajectories=kept
    )
    return {"evaluation": json.loads(evaluation.to_json())}


def speed(policy: Policy, kinds: Sequence[tuple[Scenario, tuple[str, ...]]]) -> dict[str, Any]:
    """Tokens that are written a CPU second, on validation tasks of all groups in turn."""
    tokens, began = 0, time.process_time()
    for scenario, families in kinds:
        attempts = [Attempt(800_000 + i) for i in range(PROBED)]
        for trajectory in rollout(scenario, policy, attempts, families=families, batch=32):
            tokens += sum(len(step.token_ids or ()) for step in trajectory.steps)
    seconds = time.process_time() - began
    return {"tokens": tokens, "cpu_seconds": seconds}


def weight_bytes(models: Sequence[Any]) -> int:
    """Of all weights, those that several models share counted once."""
    tensors = {tensor.data_ptr(): tensor for model in models for tensor in model.parameters()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def main() -> None:
    """Make the parts that are missing, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/learning/adapters"))
    parser.add_argument("--tokens", type=int, default=200_000, help="of each adapter")
    parser.add_argument("--evaluated", type=int, default=200, help="test tasks of each group")
    parser.add_argument("--retrained-tokens", type=int, default=60_000)
    parser.add_argument("--students", nargs="*", choices=["full", "one adapter"], default=["full", "one adapter"])
    options = parser.parse_args()
    output, n, kinds = options.output, options.evaluated, groups()
    output.mkdir(parents=True, exist_ok=True)
    lora = {"lora": ADAPTER_LORA, "learning_rate": ADAPTER_LEARNING_RATE}

    def settings(tokens: int, **more: Any) -> SFTSettings:
        return SFTSettings.model_validate({"max_tokens": tokens, "epochs": 1_000, "threads": 1, **more})

    episodes = {name: solved(*kind, 0, EPISODES) for name, kind in kinds.items()}
    results: dict[str, dict[str, Any]] = {}
    folder = output / "set"
    for name, (scenario, families) in kinds.items():
        once(
            output / f"train-{name}.json",
            lambda name=name, scenario=scenario: train_adapter(
                episodes[name], scenario, folder, name, settings(options.tokens, **lora)
            ),
        )
    policy = AdapterSetPolicy(folder, max_new_tokens=LONGEST_TURN)
    for name, (scenario, families) in kinds.items():
        results["adapters", name] = once(
            output / f"adapters-{name}.json",
            lambda: measured(policy, scenario, families, n, output / f"adapters-{name}.jsonl"),  # noqa: B023
        )
    for student in options.students:
        place = output / student.replace(" ", "-")
        once(
            output / f"train-{student.replace(' ', '-')}.json",
            lambda: train_sft(  # noqa: B023
                everything(list(episodes.values())),
                union([scenario for scenario, _ in kinds.values()]),
                place,
                settings(3 * options.tokens, **(lora if student == "one adapter" else {})),
            ),
        )
        acting = LanguageModelPolicy(place, max_new_tokens=LONGEST_TURN)
        for name, (scenario, families) in kinds.items():
            results[student, name] = once(
                output / f"{place.name}-{name}.json",
                lambda: measured(acting, scenario, families, n, output / f"{place.name}-{name}.jsonl"),  # noqa: B023
            )
    print(table(results))
    print(json.dumps(once(output / "retrained.json", lambda: retrained(output, kinds, n, settings, options, lora))))
    print(json.dumps(once(output / "costs.json", lambda: costs(output, kinds))))


def retrained(
    output: Path, kinds: dict[str, Any], n: int, settings: Callable[..., SFTSettings], options: Any, lora: Any
) -> dict[str, Any]:
    """Train the adapter of the orders anew; episodes of each group that are the same to the bit as before."""
    folder = output / "set"
    before = (folder / SET_FILE).read_bytes()
    scenario, families = kinds["orders"]
    other = solved(scenario, families, RETRAINED_SEED, EPISODES)
    train_adapter(other, scenario, folder, "orders", settings(options.retrained_tokens, **lora))
    policy = AdapterSetPolicy(folder, max_new_tokens=LONGEST_TURN)
    same: dict[str, Any] = {}
    for name, (scenario, families) in kinds.items():
        kept = output / f"retrained-{name}.jsonl"
        measured(policy, scenario, families, n, kept)
        pairs = zip(read_trajectories(output / f"adapters-{name}.jsonl"), read_trajectories(kept), strict=True)
        equal = [one.without_timing() == two.without_timing() for one, two in pairs]
        same[name] = {"episodes": len(equal), "equal": sum(equal)}
    with whole_file(folder / SET_FILE) as stream:  # the set as it was
        stream.write(before)
    return same


def costs(output: Path, kinds: dict[str, Any]) -> dict[str, Any]:
    """Speed and weights of a student, of the set with additions folded in, and of the set on shared weights."""
    every = list(kinds.values())
    student = LanguageModelPolicy(output / "full", max_new_tokens=LONGEST_TURN)
    told = {"student": {**speed(student, every), "bytes": weight_bytes([student.model])}}
    for folded in (True, False):
        policy = AdapterSetPolicy(output / "set", folded=folded, max_new_tokens=LONGEST_TURN)
        weights = weight_bytes([each.model for each in policy.policies.values()])
        told["folded" if folded else "shared"] = {**speed(policy, every), "bytes": weights}
    return told


def table(results: dict[Any, dict[str, Any]]) -> str:
    """Markdown: success of each way on each group."""
    lines = ["| | families of | n | success | valid | invented | tool F1 |", "| --- " * 7 + "|"]
    for (way, group), result in results.items():
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


if __name__ == "__main__":
    main()
