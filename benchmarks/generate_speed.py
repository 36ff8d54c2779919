"""How fast trajectories are collected, beside a floor measured in the same run; and whether memory stays flat.

    python benchmarks/generate_speed.py [--json] [-n 5000] [--repeats 3] [--soak 100000] [--evaluate 10000]

Each repeat collects `n` oracle episodes of `crm` to disk in one process, and then writes the same lines again with
orjson and fsync alone, which is the floor. CPU seconds are printed beside wall seconds, since cores are often shared.
With `--evaluate`, that many oracle episodes are evaluated, too, every step judged on a fork; with `--soak`, memory
(peak resident set) is read after a tenth of that many episodes and at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from toolenv.agents.collect import collect
from toolenv.agents.records import read_trajectories
from toolenv.training.evaluate import evaluate


def measure(n: int, repeats: int) -> dict[str, float]:
    """Medians over repeats: trajectories a second of wall and of CPU time, and of the floor; bytes a trajectory."""
    wall, cpu, floor, size = [], [], [], 0
    with tempfile.TemporaryDirectory() as scratch:
        collect("crm", "oracle", n=500, out=Path(scratch) / "warm")
        for repeat in range(repeats):
            out = Path(scratch) / str(repeat)
            began, began_cpu = time.perf_counter(), time.process_time()
            collect("crm", "oracle", n=n, out=out, seed=1_000 + repeat * n)
            wall.append(n / (time.perf_counter() - began))
            cpu.append(n / (time.process_time() - began_cpu))
            records = list(read_trajectories(out))
            began = time.perf_counter()
            with (out / "floor.jsonl").open("wb") as stream:
                for record in records:
                    stream.write(orjson.dumps(record) + b"\n")
                os.fsync(stream.fileno())
            floor.append(n / (time.perf_counter() - began))
            size = (out / "floor.jsonl").stat().st_size
    return {
        "wall_per_s": statistics.median(wall),
        "cpu_per_s": statistics.median(cpu),
        "floor_per_s": statistics.median(floor),
        "bytes": size / n,
    }


def evaluation(n: int) -> dict[str, float]:
    """Wall and CPU seconds of evaluating the oracle on `n` tasks of all families."""
    began, began_cpu = time.perf_counter(), time.process_time()
    evaluate("crm", "oracle", n=n, families="all")
    return {"episodes": n, "wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - began_cpu}


def soak(n: int) -> list[dict[str, float]]:
    """Peak memory in MB after n / 10 and after n episodes, each in a fresh process."""
    program = (
        "import sys, resource; from toolenv.agents.collect import collect;"
        "collect('crm', 'oracle', n=int(sys.argv[1]), out=sys.argv[2]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    rows = []
    for count in (n // 10, n):
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-c", program, str(count), scratch]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append({"episodes": count, "peak_mb": float(printed)})
    return rows


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-n", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--soak", type=int, default=0)
    parser.add_argument("--evaluate", type=int, default=0)
    options = parser.parse_args()
    figures: dict[str, Any] = {**measure(options.n, options.repeats), "load": os.getloadavg()[0]}
    figures["soak"] = soak(options.soak) if options.soak else []
    figures["evaluation"] = [evaluation(options.evaluate)] if options.evaluate else []
    if options.json:
        print(json.dumps(figures))
        return
    print(
        f"oracle on crm to disk, one process, load {figures['load']:.1f}: {figures['wall_per_s']:,.0f} trajectories/s, "
        f"{figures['cpu_per_s']:,.0f} per CPU second (target 1,000);\n"
        f"floor (the same lines by orjson and fsync): {figures['floor_per_s']:,.0f}/s, "
        f"ratio {figures['floor_per_s'] / figures['wall_per_s']:.0f}; {figures['bytes']:,.0f} bytes a trajectory"
    )
    for row in figures["evaluation"]:
        print(
            f"{row['episodes']:,} episodes evaluated: {row['wall_s']:.1f} s, {row['cpu_s']:.1f} CPU seconds (target 60)"
        )
    for row in figures["soak"]:
        print(f"peak memory after {row['episodes']:,} episodes: {row['peak_mb']:.1f} MB")


if __name__ == "__main__":
    main()
