"""How fast agent-written Python runs in each sandbox, beside `exec` in this process and beside `docker exec`.

    python benchmarks/sandbox.py

Medians, in milliseconds. "reset" is a new session with its first cell, "snapshot + restore" also runs a cell, and with
it the journal again. "in parallel" is what 16 sessions on 16 threads of this process run in all. Without docker,
embedded and monty alone.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import docker
from docker.errors import DockerException

from toolenv.tools.interpreter import workspace
from toolenv.tools.sandbox import docker_image
from toolenv.tools.sandbox.contract import Sandbox
from toolenv.tools.sandbox.docker_sandbox import DockerSandbox, PoolSettings
from toolenv.tools.sandbox.embedded import EmbeddedSandbox
from toolenv.tools.sandbox.monty import MontySandbox
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage, open_connection

CELL = {"code": "print(1 + 1)"}
TOOLBOX = Toolbox.of_families("interpreter")
IMAGE = workspace.added_to(WorldImage.of_connection(open_connection(), "empty"))


def median_ms(function: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        function()
        taken.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(taken)


def measure(sandbox: Sandbox) -> dict[str, float]:
    begun = time.perf_counter()
    session = sandbox.open(IMAGE, TOOLBOX)
    session.call("run_python", CELL)
    cold = 1e3 * (time.perf_counter() - begun)

    def reset() -> None:
        other = sandbox.open(IMAGE, TOOLBOX)
        other.call("run_python", CELL)
        other.close()

    other = sandbox.open(IMAGE, TOOLBOX)
    other.call("run_python", CELL)
    before = other.snapshot()

    def restore() -> None:
        other.restore(other.snapshot())
        other.call("run_python", CELL)  # runs the journal again
        other.restore(before)

    found = {
        "cold start": cold,
        "exec": median_ms(lambda: session.call("run_python", CELL), 300),
        "reset": median_ms(reset, 50),
        "snapshot + restore": median_ms(restore, 50),
    }
    session.close()
    other.close()
    sandbox.close()
    return found


def in_parallel(sandbox: Sandbox, sessions: int = 16, seconds: float = 3.0) -> float:
    """Cells a second of all sessions together."""
    opened = [sandbox.open(IMAGE, TOOLBOX) for _ in range(sessions)]
    for session in opened:
        session.call("run_python", CELL)
    counts = [0] * sessions
    end = time.perf_counter() + seconds

    def run(number: int) -> None:
        while time.perf_counter() < end:
            opened[number].call("run_python", CELL)
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sandbox.close()
    return sum(counts) / seconds


def docker_exec_ms() -> float:
    """Of `docker exec` through docker's own client, in a container of our image that only sleeps."""
    client = docker.from_env()
    python = docker_image.COMMAND[0]
    container = client.containers.run(
        docker_image.ensure(client), [python, "-c", "import time; time.sleep(600)"], detach=True, auto_remove=True
    )
    try:
        return median_ms(lambda: container.exec_run([python, "-S", "-c", CELL["code"]]), 10)
    finally:
        container.remove(force=True)
        client.close()


def main() -> None:
    floor = median_ms(lambda: exec("str(1 + 1)", {}), 1_000)
    print(f"exec in this process (unsafe floor): {floor:.3f} ms")
    for sandbox in (EmbeddedSandbox(), MontySandbox()):
        for name, value in measure(sandbox).items():
            print(f"{sandbox.name} {name}: {value:.2f} ms")
    try:
        docker.from_env().close()
    except DockerException:
        print("no docker engine answers: docker left out")
        return
    image = docker_image.ensure()
    found = measure(DockerSandbox(image=image))
    for name, value in found.items():
        print(f"docker {name}: {value:.2f} ms")
    for sessions in (1, 16):
        pool = PoolSettings(warm=1, most=16 // sessions, sessions=sessions)
        rate = in_parallel(DockerSandbox(image=image, pool=pool))
        print(f"docker, 16 in parallel in {16 // sessions} containers: {rate:,.0f} cells/s")
    theirs = docker_exec_ms()
    print(f"docker exec: {theirs:.1f} ms, {theirs / found['exec']:.0f} times ours")


if __name__ == "__main__":
    main()
