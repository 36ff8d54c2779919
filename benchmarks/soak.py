"""Whether memory, processes and descriptors stay flat over many episodes, in each sandbox.

    python benchmarks/soak.py [--resets 10000] [--sandbox embedded --sandbox docker]

Each episode is a reset with a new seed and one step of Python. Samples stand for the owner (this process) and for what
it has beside it: the supervisor of interpreters, or all of a container. The first tenth fills caches. From there on
none may grow by more than its `SLACK`; else the exit status is 1.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import gymnasium

import toolenv  # noqa: F401  registers the environments
from toolenv.tools.sandbox.docker_sandbox import DockerSandbox, PoolSettings
from toolenv.tools.sandbox.embedded import EmbeddedSandbox

SLACK = {"mib": 8.0, "descriptors": 2, "processes": 0}  # docker-py keeps a connection for each thread that used it
STEP = {"name": "run_python", "arguments": {"code": "x = [n * n for n in range(1_000)]\nprint(sum(x))"}}


@dataclass(frozen=True)
class Sample:
    """Memory in MiB (resident, of the owner; of the rest what no file stands behind, shared pages once), and counts."""

    owner_mib: float
    owner_descriptors: int
    beside_mib: float
    beside_descriptors: int
    processes: int


def sample(beside: Callable[[], list[int]]) -> Sample:
    gc.collect()
    processes = beside()
    return Sample(
        owner_mib=_mib(os.getpid(), "Rss:"),
        owner_descriptors=_descriptors(os.getpid()),
        beside_mib=sum(_mib(process, "Pss_Anon:") for process in processes),
        beside_descriptors=sum(map(_descriptors, processes)),
        processes=len(processes),
    )


def _mib(process: int, field: str) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _descriptors(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


def below(process: int) -> list[int]:
    """The processes below a process."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *below(child)]
    return found


def soak(name: str, resets: int) -> list[Sample]:
    """Samples at a tenth, at the half and at the end."""
    sandbox = EmbeddedSandbox() if name == "embedded" else DockerSandbox(pool=PoolSettings(warm=0, most=1))
    env = gymnasium.make("ToolEnv-CodeInterpreter-v0", sandbox=sandbox)

    def beside() -> list[int]:
        if isinstance(sandbox, EmbeddedSandbox):
            return below(os.getpid())
        (worker,) = sandbox.pool.workers
        init = sandbox._client.api.inspect_container(worker.name)["State"]["Pid"]
        return [init, *below(init)]

    samples, at = [], {resets // 10, resets // 2, resets}
    begun = time.perf_counter()
    for number in range(1, resets + 1):
        env.reset(seed=number)
        if env.step(STEP)[3]:
            sys.exit(f"{name}: the sandbox was lost in episode {number}")
        if number in at:
            samples.append(sample(beside))
    print(f"\n{name}: {resets:,} episodes in {time.perf_counter() - begun:.0f} s")
    env.close()
    sandbox.close()
    return samples


def told(samples: list[Sample], resets: int) -> bool:
    """Print the table; whether all is flat."""
    print(f"{'':20}{resets // 10:>10,}{resets // 2:>10,}{resets:>10,}")
    flat = True
    for field in fields(Sample):
        values = [getattr(sample, field.name) for sample in samples]
        grown = values[-1] - values[0]
        fits = grown <= SLACK[field.name.rpartition("_")[2]]
        flat &= fits
        print(f"{field.name:20}" + "".join(f"{value:>10.4g}" for value in values) + ("" if fits else "  NOT FLAT"))
    return flat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resets", type=int, default=10_000)
    parser.add_argument("--sandbox", action="append", choices=("embedded", "docker"))
    arguments = parser.parse_args()
    names, resets = arguments.sandbox or ("embedded", "docker"), arguments.resets
    flat = [told(soak(name, resets), resets) for name in names]
    sys.exit(not all(flat))


if __name__ == "__main__":
    main()
