"""How many candidate calls a second are labelled by running them on forks (`agents/equivalence.py`).

    python benchmarks/equivalence.py [--scenario crm] [--states 300]

At every state of the oracle's episodes five candidates are judged: its own next step, and four valid calls drawn at
random from the whole toolbox. Beside it stands what running every candidate on a fork costs at least: `fork`, `step`,
`close`. (Not all are run for a judgement: what the next step of the plan brings is known, and invented identifiers are
refused.)
CPU seconds of this process, one thread; agent-written Python runs in others.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from random import Random

from toolenv.agents.equivalence import Guide
from toolenv.agents.oracle import to_action
from toolenv.envs.tool_env import ToolEnv
from toolenv.tools.calls import Json
from toolenv.tools.sampling import sample_arguments

DRAWN = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="crm")
    parser.add_argument("--states", type=int, default=300)
    options = parser.parse_args()
    env, rng = ToolEnv(options.scenario, families="all"), Random(0)
    labels: Counter[str] = Counter()
    judging = floor = 0.0
    states = seed = 0
    while states < options.states:
        env.reset(seed=seed)
        seed, guide = seed + 1, Guide.start(env)
        while (planned := guide.advise(env)) is not None:
            states += 1
            names = [rng.choice(env.toolbox.names) for _ in range(DRAWN)]
            drawn: list[Json] = [{"name": n, "arguments": sample_arguments(env.toolbox[n], rng)} for n in names]
            candidates = [to_action(planned), *drawn]
            began = time.process_time()
            judged = [guide.judge(env, candidate) for candidate in candidates]
            judging += time.process_time() - began
            began = time.process_time()
            for candidate in candidates:
                fork = env.fork()
                fork.step(candidate)
                fork.close()
            floor += time.process_time() - began
            labels.update(judgement.label.value for judgement in judged)
            guide = judged[0].after
            if any(env.step(candidates[0])[2:4]):
                break
    count = states * (1 + DRAWN)
    print(f"{options.scenario}: {count:,} candidates at {states:,} states: {dict(labels)}")
    print(f"{count / judging:,.0f} labels a CPU second; fork, step and close alone: {count / floor:,.0f}")


if __name__ == "__main__":
    main()
