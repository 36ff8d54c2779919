"""How a served student bears 200 episodes at once: seconds of a request, requests a second, and a restart in mid run.

    python benchmarks/serve.py [MODEL] [--json] [-n 200] [--batch 32]

Every episode is a thread with an environment of its own; all share one client and ask as soon as they may. The floor is
an echo on the same server: three calls and an answer, by a policy that computes nothing, so what it takes is the
protocol, the queue, the client and the environments. Then the student plays `n` test tasks of `crm`, and plays them
again while its server is stopped by SIGTERM in mid run and started anew: clients retry, so no episode may be lost.
Seconds are from asking to the reply, retries included. Client and server share the machine's cores, so what each takes
in milliseconds of CPU for a request is told, too (of the server on Linux alone).

MODEL is a student's folder, the base model that ships, grounded, if left out; a trained one is worth naming.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolenv.agents.chat_client import EndpointSettings
from toolenv.agents.chat_policy import ChatPolicy
from toolenv.agents.policy import Conversation, Decision, PolicyStopped
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.serving.server import serve
from toolenv.agents.serving.settings import ServeSettings
from toolenv.agents.serving.specialist import Specialist
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED
from toolenv.training.base_models import base_model_path

ECHO_CALLS = 3
NAME = "served"


class Echo:
    """Calls the same three times, and answers what it was asked."""

    name = NAME

    def act(self, episodes: Sequence[Conversation]) -> list[Decision]:
        return [self._decision(episode) for episode in episodes]

    def _decision(self, episode: Conversation) -> Decision:
        if len(episode.messages) < 2 + 2 * ECHO_CALLS:
            return Decision({"name": "get_order_status", "arguments": {"order_id": "ORD-00000"}})
        return Decision({"answer": episode.messages[1]["content"]})


class Server:
    """A server in a process of its own; `restart` stops it as an operator would."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command, self._log, self.port = command, log, 0
        self._start()

    def _start(self) -> None:
        self._log.write_bytes(b"")
        with self._log.open("wb") as stream:
            command = [*self._command, "--port", str(self.port)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(command, stderr=stream, env=environment)
        while not (lines := self._log.read_text().splitlines()):
            if self._process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.02)
        self.url = str(json.loads(lines[0])["url"])
        self.port = int(self.url.split(":")[2].split("/")[0])

    def cpu_s(self) -> float:
        """Seconds of CPU so far, as its metrics tell."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/metrics") as reply:
            lines = dict(line.rsplit(" ", 1) for line in reply.read().decode().splitlines() if line[0] != "#")
        return float(lines.get("process_cpu_seconds_total", "nan"))

    def restart(self) -> float:
        """Seconds without a server that answers."""
        began = time.perf_counter()
        self.stop()
        self._start()
        return time.perf_counter() - began

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        if self._process.wait() != 0:
            raise SystemExit(f"the server ended with {self._process.returncode}")


@contextmanager
def served(command: list[str]) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(command, Path(folder) / "log")
        try:
            yield server
        finally:
            server.stop()


def played(
    scenario: Scenario, server: Server, n: int, midway: Callable[[], object] | None = None
) -> tuple[list[Trajectory], dict[str, float]]:
    """`n` episodes at once, and the run's figures; `midway` is done when a third of them has ended."""
    # More attempts than a restart takes: pauses double to eight seconds.
    settings = {"model": NAME, "base_url": server.url, "temperature": 0, "concurrency": n, "max_retries": 20}
    policy = ChatPolicy(EndpointSettings.checked(settings, "benchmark"))
    trajectories: list[Trajectory] = []
    meanwhile = None if midway is None else threading.Thread(target=midway)

    def play(seed: int) -> Trajectory:
        (trajectory,) = rollout(scenario, policy, [Attempt(seed)], families="train", batch=1)
        return trajectory

    with ThreadPoolExecutor(n) as threads:
        began, cpu_s, server_cpu_s = time.perf_counter(), time.process_time(), server.cpu_s()
        playing = [threads.submit(play, FIRST_TEST_SEED + i) for i in range(n)]
        for done in as_completed(playing):
            try:
                trajectories.append(done.result())
            except PolicyStopped:
                continue  # lost, as the figures tell
            if meanwhile is not None and len(trajectories) == n // 3:
                meanwhile.start()
        seconds = time.perf_counter() - began
    spent = {"client_cpu_s": time.process_time() - cpu_s}
    if meanwhile is None:
        spent["server_cpu_s"] = server.cpu_s() - server_cpu_s
    if meanwhile is not None:
        meanwhile.join()
    policy.close()
    return trajectories, figures(trajectories, seconds, **spent)


def figures(trajectories: list[Trajectory], seconds: float, **cpu_s: float) -> dict[str, float]:
    latencies = [usage.seconds for t in trajectories for usage in t.usage or () if usage is not None]
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "episodes": len(trajectories),
        "requests": len(latencies),
        "seconds": seconds,
        "requests_per_second": len(latencies) / seconds,
        "p50_s": cuts[49],
        "p99_s": cuts[98],
        "success": sum(t.success for t in trajectories) / len(trajectories),
        **{name.removesuffix("_s") + "_ms": 1000 * value / len(latencies) for name, value in cpu_s.items()},
    }


def actions(trajectories: list[Trajectory]) -> dict[int, list[Any]]:
    return {t.seed: [step.action for step in t.steps] for t in trajectories}


def measure(model: str, n: int, batch: int) -> dict[str, dict[str, float]]:
    """The three runs."""
    scenario = load_scenario("crm")
    echo = [sys.executable, __file__, "--be-the-echo", "--batch", str(batch)]
    student = [sys.executable, "-m", "toolenv", "serve", model, "--scenario", "crm", "--name", NAME]
    student += ["--batch", str(batch), "--most-requests", str(2 * n), "--deadline", "600"]
    with served(echo) as server:
        _, floor = played(scenario, server, n)
    with served(student) as server:
        trajectories, undisturbed = played(scenario, server, n)
    with served(student) as server:
        gaps: list[float] = []
        again, restarted = played(scenario, server, n, lambda: gaps.append(server.restart()))
    before, after = actions(trajectories), actions(again)
    return {
        "echo": floor,
        "student": undisturbed,
        "student, restarted": restarted
        | {
            "gap_s": gaps[0],
            "lost": n - len(after),
            "same": sum(after.get(seed) == did for seed, did in before.items()),
        },
    }


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=f"grounded:{base_model_path('tiny')}")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--be-the-echo", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_the_echo:
        toolboxes = (load_scenario("crm").toolbox,)
        serve(
            Specialist(Echo(), NAME, toolboxes),
            ServeSettings(port=options.port, batch=options.batch, most_requests=1000),
        )
        return
    runs = measure(options.model, options.n, options.batch)
    if options.json:
        print(json.dumps({"runs": runs, "load": os.getloadavg()[0], **vars(options)}))
        return
    print(f"{options.n} episodes at once, batch {options.batch}, load {os.getloadavg()[0]:.1f}\n")
    print(f"{'':20}{'episodes':>9}{'requests':>9}{'a second':>9}{'p50 s':>8}{'p99 s':>8}{'success':>9}", end="")
    print(f"{'server ms':>11}{'client ms':>11}")
    for name, run in runs.items():
        print(
            f"{name:20}{run['episodes']:9}{run['requests']:9}{run['requests_per_second']:9.1f}"
            f"{run['p50_s']:8.2f}{run['p99_s']:8.2f}{run['success']:9.3f}"
            f"{run.get('server_cpu_ms', math.nan):11.1f}{run['client_cpu_ms']:11.1f}"
        )
    last = runs["student, restarted"]
    print(
        f"\nrestart: {last['gap_s']:.1f} s, {last['lost']} episodes lost, "
        f"{last['same']} with the same actions as without"
    )


if __name__ == "__main__":
    main()
