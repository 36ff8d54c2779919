"""How much of the people in records redaction finds, by what the worlds behind them hold.

    python benchmarks/redaction.py [-n 1000]

Episodes of the oracle on `crm` are redacted. Which names, mails and phone numbers of customers stand in a record, and
which product names (which must stay), its world tells. Printed: how many stood there before, how many still do, and the
CPU time a record.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from functools import cache

from toolenv.agents.grounding import shown_text, stands_in
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.redaction import Redactor
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import load_scenario
from toolenv.scenarios.sampler import Sampler
from toolenv.tools.world import WorldImage

COLUMNS = {
    "names": "SELECT name FROM customers",
    "mails": "SELECT email FROM customers",
    "phones": "SELECT phone FROM customers",
    "products": "SELECT name FROM products",
}


@cache
def values_of(image: WorldImage) -> dict[str, list[str]]:
    """Kind -> all values of it in a world."""
    world = image.open()
    try:
        return {kind: [next(iter(row.values())) for row in world.all(sql)] for kind, sql in COLUMNS.items()}
    finally:
        world.close()


def text_of(trajectory: Trajectory) -> str:
    """All that was said and shown."""
    parts = [trajectory.instruction]
    parts += [part for step in trajectory.steps for part in (step.text, shown_text(step.observation))]
    return "\n".join(parts)


def main() -> None:
    """Redact, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=1_000, help="episodes")
    options = parser.parse_args()
    crm = load_scenario("crm")
    sampler, redactor = Sampler(crm, "all"), Redactor(b"benchmark")
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    seconds = 0.0
    for trajectory in rollout(crm, OraclePolicy(), map(Attempt, range(options.n)), families="all"):
        began = time.process_time()
        redacted, _ = redactor.redact(trajectory)
        seconds += time.process_time() - began
        text, left = text_of(trajectory), text_of(redacted)
        for kind, values in values_of(sampler.task_by_id(trajectory.task).world).items():
            standing = [value for value in values if stands_in(value, text)]
            before[kind] += len(standing)
            after[kind] += sum(stands_in(value, left) for value in standing)
    for kind in COLUMNS:
        print(f"{kind}: {before[kind]} stood in {options.n} records, {after[kind]} still do")
    print(f"{1e3 * seconds / options.n:.1f} ms of CPU a record")


if __name__ == "__main__":
    main()
