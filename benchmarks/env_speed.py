"""How fast `ToolEnv-CRM-v0` is, beside a floor measured in the same run.

    python benchmarks/env_speed.py [--json] [--repeats N]

The environment is made by `gymnasium.make` with its default wrappers and runs on one core with validation on. The floor
is what the same work costs with the same parts and nothing around them: parse the action with orjson, validate the
arguments with pydantic, one statement of SQLite, the result as JSON; for `reset` and `restore`, opening a database of
the same bytes. Each figure is the median over repeats, in an order that interleaves them, so that a busy machine
disturbs all alike; the load is printed with them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import apsw
import gymnasium
import orjson
from pydantic import BaseModel, ConfigDict, Field

import toolenv  # noqa: F401  # registers the environments
from toolenv.tools.world import WorldImage

READ_SHARE = 7
WRITE_SHARE = 3
STEPS_OF_EPISODE = 10


@dataclass(frozen=True)
class Figure:
    """One line of the table. Times in microseconds; the target is of `median_us`."""

    name: str
    median_us: float
    best_us: float
    floor_us: float | None
    target_us: float | None

    @property
    def ratio(self) -> float | None:
        return None if self.floor_us is None else self.median_us / self.floor_us

    @property
    def met(self) -> bool | None:
        return None if self.target_us is None else self.median_us <= self.target_us


class _Arguments(BaseModel):
    """The arguments of the floor's calls, as strict as a tool's."""

    model_config = ConfigDict(strict=True, extra="forbid")

    order_id: Annotated[str, Field(pattern="^ORD-[0-9]{5}$")]


class Floor:
    """The parts and nothing around them."""

    def __init__(self, image: WorldImage, order_id: str) -> None:
        self._data = image.data
        self._connection = self._open()
        self._action = {"name": "get_order_status", "arguments": {"order_id": order_id}}

    def read(self) -> bytes:
        arguments = self._validated()
        sql = "SELECT id AS order_id, status FROM orders WHERE id = ?"
        row = self._connection.execute(sql, (arguments.order_id,)).fetchone()
        return orjson.dumps({"order_id": row[0], "status": row[1]})

    def write(self) -> bytes:
        arguments = self._validated()
        sql = "UPDATE orders SET shipping_address = ? WHERE id = ?"
        self._connection.execute("SAVEPOINT w")
        self._connection.execute(sql, ("1 Long Road, Springfield", arguments.order_id))
        self._connection.execute("RELEASE w")
        return orjson.dumps({"order_id": arguments.order_id})

    def open(self) -> None:
        self._open().close()

    def fork(self) -> None:
        connection = apsw.Connection(":memory:")
        connection.deserialize("main", self._connection.serialize("main"))
        connection.close()

    def serialize(self) -> bytes:
        return self._connection.serialize("main")

    def _open(self) -> apsw.Connection:
        connection = apsw.Connection(":memory:")
        connection.deserialize("main", self._data)
        return connection

    def _validated(self) -> _Arguments:
        action = orjson.loads(orjson.dumps(self._action))
        return _Arguments.__pydantic_validator__.validate_python(action["arguments"])


class Subject:
    """The environment, and the actions that are timed."""

    def __init__(self) -> None:
        self.env = gymnasium.make("ToolEnv-CRM-v0", max_steps=1_000_000_000)
        self.tool_env: Any = self.env.unwrapped
        self._warm = 2_000
        for seed in range(self._warm):  # all worlds and their queries
            self.env.reset(seed=seed)
        self._seed = 0
        self.env.reset(seed=0)
        world = self.tool_env.task.world.open()
        self.order_id = world.value("SELECT id FROM orders WHERE status = 'paid' ORDER BY id")
        self._read = {"name": "get_order_status", "arguments": {"order_id": self.order_id}}
        address = {"order_id": self.order_id, "address": "1 Long Road, Springfield"}
        self._write = {"name": "update_shipping_address", "arguments": address}
        self._mix = [self._read] * READ_SHARE + [self._write] * WRITE_SHARE
        self._turn = 0
        self.snapshot = self.tool_env.snapshot()

    def read(self) -> None:
        self.env.step(self._read)

    def write(self) -> None:
        self.env.step(self._write)

    def mix(self) -> None:
        self._turn = (self._turn + 1) % len(self._mix)
        self.env.step(self._mix[self._turn])

    def reset(self) -> None:
        self._seed = (self._seed + 1) % self._warm
        self.env.reset(seed=self._seed)

    def begin(self) -> None:
        """The episode in which steps are timed, from its start."""
        self.env.reset(seed=0)

    def fork(self) -> None:
        self.tool_env.fork()

    def take_snapshot(self) -> None:
        self.tool_env.snapshot()

    def restore(self) -> None:
        self.tool_env.restore(self.snapshot)

    def episode(self) -> None:
        """Reset, nine calls of the mix, and the answer, which is graded."""
        self.env.reset(seed=0)
        for action in self._mix[-(STEPS_OF_EPISODE - 1) :]:
            self.env.step(action)
        self.env.step({"answer": f"Order {self.order_id} is paid."})


def measure(repeats: int) -> list[Figure]:
    """Time everything, `repeats` times over."""
    subject = Subject()
    floor = Floor(subject.tool_env.task.world, subject.order_id)
    timed: dict[str, tuple[Callable[[], Any], int]] = {
        "read step": (subject.read, 1_000),
        "write step": (subject.write, 500),
        "mix 70/30": (subject.mix, 1_000),
        "reset(seed=)": (subject.reset, 500),
        "fork": (subject.fork, 300),
        "snapshot": (subject.take_snapshot, 300),
        "restore": (subject.restore, 300),
        "10-step graded episode": (subject.episode, 100),
        "floor: read": (floor.read, 1_000),
        "floor: write": (floor.write, 500),
        "floor: open": (floor.open, 300),
        "floor: fork": (floor.fork, 300),
        "floor: serialize": (floor.serialize, 300),
    }
    samples: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, (function, count) in timed.items():
            subject.begin()
            gc.collect()
            samples[name].append(_time(function, count))
    medians = {name: statistics.median(times) for name, times in samples.items()}
    read, write = medians["floor: read"], medians["floor: write"]
    mix = (READ_SHARE * read + WRITE_SHARE * write) / (READ_SHARE + WRITE_SHARE)
    opened = medians["floor: open"]
    rows: list[tuple[str, float, float | None]] = [
        ("read step", read, None),
        ("write step", write, None),
        ("mix 70/30", mix, 25.0),
        ("reset(seed=)", opened, 100.0),
        ("fork", medians["floor: fork"], 50.0),
        ("snapshot", medians["floor: serialize"], None),
        ("restore", opened, None),
        ("10-step graded episode", opened + (STEPS_OF_EPISODE - 1) * mix, 1_000.0),
    ]
    return [Figure(name, medians[name], min(samples[name]), floor_us, target) for name, floor_us, target in rows]


def _time(function: Callable[[], Any], count: int) -> float:
    """Microseconds a call, over `count` calls."""
    began = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - began) / count * 1e6


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    figures = measure(options.repeats)
    load = os.getloadavg()[0]
    if options.json:
        rows = [{**asdict(figure), "ratio": figure.ratio, "met": figure.met} for figure in figures]
        print(json.dumps({"load": load, "cores": os.cpu_count(), "repeats": options.repeats, "figures": rows}))
        return
    print(
        f"one core of {os.cpu_count()}, load {load:.1f}, median of {options.repeats} repeats, times in microseconds\n"
    )
    print(f"{'':24}{'median':>9}{'best':>9}{'floor':>9}{'ratio':>7}{'target':>9}{'a second':>11}")
    for figure in figures:
        target = "" if figure.target_us is None else f"{figure.target_us:.0f} {'met' if figure.met else 'MISSED'}"
        print(
            f"{figure.name:24}{figure.median_us:9.1f}{figure.best_us:9.1f}{figure.floor_us:9.1f}{figure.ratio:7.1f}"
            f"{target:>12}{1e6 / figure.median_us:>11,.0f}"
        )


if __name__ == "__main__":
    main()
