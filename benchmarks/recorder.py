"""What recording costs: the recorder around the real client of `openai` and a server on this machine.

    python benchmarks/recorder.py [--json] [--calls 300] [--model-ms 200]

Two figures from one run. The cost of recording itself: microseconds that a wrapped client takes more than a bare one
when neither waits for a server (a completion is ready), as medians over calls taken in turns. And the same calls
against a server in a process of its own that answers after `--model-ms`, and at once: median milliseconds bare and
recorded, and the cost of recording as a share of a bare call. A conversation grows to 20 messages of 400 characters
with 8 tools, as agents have them; every call is written to disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from openai import OpenAI
from openai.types.chat import ChatCompletion

from toolenv.agents.recorder import Recorder

TURNS = 10
TEXT = "The quick brown fox jumps over the lazy dog. " * 9
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"tool_{number}",
            "description": TEXT,
            "parameters": {"type": "object", "properties": {name: {"type": "string"} for name in ("a", "b", "c", "d")}},
        },
    }
    for number in range(8)
]
REPLY = {
    "id": "c",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}],
    "usage": {"prompt_tokens": 2_000, "completion_tokens": 100, "total_tokens": 2_100},
}
SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(float(self.path.split("/")[1]) / 1000)
        body = sys.argv[1].encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
Create = Callable[..., Any]


def conversation(create: Create, calls: int) -> list[float]:
    """Seconds of each call; a conversation begins anew after some turns."""
    seconds: list[float] = []
    while len(seconds) < calls:
        messages: list[Any] = [{"role": "user", "content": TEXT + str(time.perf_counter_ns())}]
        for _ in range(TURNS):
            began = time.perf_counter()
            reply = create(model="m", messages=messages, tools=TOOLS)
            seconds.append(time.perf_counter() - began)
            messages += [reply.choices[0].message, {"role": "user", "content": TEXT}]
    return seconds


def in_turns(bare: Create, recorded: Create, calls: int) -> tuple[list[float], list[float]]:
    """Seconds of calls without and with the recorder, by turns, so that what else the machine does meets both."""
    without: list[float] = []
    with_it: list[float] = []
    conversation(bare, TURNS)
    conversation(recorded, TURNS)
    while len(without) < calls:
        without += conversation(bare, TURNS)
        with_it += conversation(recorded, TURNS)
    return without, with_it


def measure(calls: int, model_ms: float) -> dict[str, float]:
    """All figures: microseconds of recording, milliseconds of calls, shares."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, json.dumps(REPLY)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline())
        with tempfile.TemporaryDirectory() as scratch:
            recorder = Recorder(Path(scratch) / "log.jsonl")
            ready = ChatCompletion.model_validate(REPLY)

            def instant() -> Any:
                return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=lambda **_: ready)))

            bare, recorded = instant(), recorder.wrap(instant())
            without, with_it = in_turns(bare.chat.completions.create, recorded.chat.completions.create, 10 * calls)
            cost = statistics.median(with_it) - statistics.median(without)
            figures = {"recording_us": cost * 1e6}
            for name, wait in (("at_once", 0.0), ("model", model_ms)):
                url = f"http://127.0.0.1:{port}/{wait}/v1"
                plain, wrapped = OpenAI(api_key="none", base_url=url), OpenAI(api_key="none", base_url=url)
                recorder.wrap(wrapped)
                count = calls if wait == 0 else max(TURNS, calls // 3)
                without, with_it = in_turns(plain.chat.completions.create, wrapped.chat.completions.create, count)
                median = statistics.median(without)
                figures |= {f"{name}_bare_ms": median * 1e3, f"{name}_recorded_ms": statistics.median(with_it) * 1e3}
                figures[f"{name}_share"] = cost / median
                if wait == 0:  # what a bare call takes on the quietest machine: the client's own work
                    began = time.process_time()
                    ran = len(conversation(plain.chat.completions.create, calls))
                    figures["bare_cpu_ms"] = (time.process_time() - began) / ran * 1e3
                plain.close()
                wrapped.close()
            assert recorder.lost == 0
            log = recorder.path.read_bytes()
            figures["bytes_a_call"] = len(log) / log.count(b"\n")
            return figures
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--model-ms", type=float, default=200.0, help="how long the server takes for a reply")
    arguments = parser.parse_args()
    figures = measure(arguments.calls, arguments.model_ms)
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"recording a call: {figures['recording_us']:.0f} µs, {figures['bytes_a_call']:,.0f} bytes")
    cpu = figures["bare_cpu_ms"]
    share = figures["recording_us"] / cpu / 1e3
    print(f"the client's own work in a bare call: {cpu:.2f} ms of CPU; recording is {share:.2%} of that")
    for name, told in (("at_once", "a server that answers at once"), ("model", f"after {arguments.model_ms:.0f} ms")):
        bare, recorded = figures[f"{name}_bare_ms"], figures[f"{name}_recorded_ms"]
        print(
            f"{told}: {bare:.2f} ms bare, {recorded:.2f} ms recorded; recording is {figures[f'{name}_share']:.2%} of it"
        )


if __name__ == "__main__":
    main()
