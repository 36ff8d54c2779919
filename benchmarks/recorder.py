"""What recording costs: the recorder around the real client of `openai` and a server on this machine.

    python benchmarks/recorder.py [--json] [--calls 300] [--model-ms 200]

A server in a process of its own answers at once, and then after `--model-ms`. Calls of a bare client, of a recorded
one and of a second bare one take turns, so that what else the machine does meets all; the two bare ones show how much
is noise. The cost of recording is the time within the recorder during these very calls (median microseconds a call),
and its share that of a bare call's median. Beside it stands the cost in a loop that waits for no server, where code
and data are warm. A conversation grows to 20 messages of 400 characters with 8 tools, as agents have them; every call
is written to disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from openai import OpenAI
from openai.types.chat import ChatCompletion

from toolenv.agents.recorded_calls import RecordedRequest
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


def in_turns(creates: Sequence[Create], calls: int) -> list[list[float]]:
    """Seconds of the calls of each, a conversation of one after a conversation of the other, in changing order."""
    taken: list[list[float]] = [[] for _ in creates]
    for create in creates:
        conversation(create, TURNS)
    for first in range(calls // TURNS):
        for place in range(len(creates)):
            turn = (first + place) % len(creates)
            taken[turn] += conversation(creates[turn], TURNS)
    return taken


@contextmanager
def within(recorder: type[RecordedRequest]) -> Iterator[list[float]]:
    """Seconds that recording takes a request, before it is sent and after it is answered, one after the other."""
    spent: list[float] = []
    begin, end = recorder.__init__, recorder.returned

    def timed(method: Create) -> Create:
        def run(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args)
            finally:
                spent.append(time.perf_counter() - began)

        return run

    recorder.__init__, recorder.returned = timed(begin), timed(end)  # type: ignore[method-assign]  # for a while
    try:
        yield spent
    finally:
        recorder.__init__, recorder.returned = begin, end  # type: ignore[method-assign]  # as it was


def measure(calls: int, model_ms: float) -> dict[str, float]:
    """All figures: microseconds of recording, milliseconds of calls, shares."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, json.dumps(REPLY)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline())
        with tempfile.TemporaryDirectory() as scratch:
            recorder = Recorder(Path(scratch) / "log.jsonl")
            figures = warm(recorder, 10 * calls)
            for name, wait, count in (("at_once", 0.0, calls), ("model", model_ms, max(TURNS, calls // 3))):
                url = f"http://127.0.0.1:{port}/{wait}/v1"
                figures |= {f"{name}_{key}": value for key, value in against(url, recorder, count).items()}
            assert recorder.lost == 0
            log = recorder.path.read_bytes()
            return figures | {"bytes_a_call": len(log) / log.count(b"\n")}
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def warm(recorder: Recorder, calls: int) -> dict[str, float]:
    """Microseconds that a recorded call takes more than a bare one where a completion is ready."""
    ready = ChatCompletion.model_validate(REPLY)
    bare, recorded = (
        SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=lambda **_: ready))) for _ in range(2)
    )
    recorder.wrap(recorded)
    without, with_it = in_turns([bare.chat.completions.create, recorded.chat.completions.create], calls)
    return {"warm_us": (statistics.median(with_it) - statistics.median(without)) * 1e6}


def against(url: str, recorder: Recorder, calls: int) -> dict[str, float]:
    """Milliseconds of calls, bare, recorded and bare again; of recording microseconds, and its share."""
    with ExitStack() as stack:
        bare, recorded, again = (stack.enter_context(OpenAI(api_key="-", base_url=url)) for _ in range(3))
        spent = stack.enter_context(within(RecordedRequest))
        recorder.wrap(recorded)
        creates = [client.chat.completions.create for client in (bare, recorded, again)]
        medians = [statistics.median(taken) for taken in in_turns(creates, calls)]
    cost = statistics.median(begun + ended for begun, ended in zip(spent[::2], spent[1::2], strict=True))
    figures = dict(zip(("bare_ms", "recorded_ms", "bare_again_ms"), (median * 1e3 for median in medians), strict=True))
    return figures | {"recording_us": cost * 1e6, "share": cost / medians[0]}


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
    print(f"recording in a warm loop: {figures['warm_us']:.0f} µs a call, {figures['bytes_a_call']:,.0f} bytes")
    for name, told in (("at_once", "a server that answers at once"), ("model", f"after {arguments.model_ms:.0f} ms")):
        bare, recorded, again = (figures[f"{name}_{key}_ms"] for key in ("bare", "recorded", "bare_again"))
        print(f"{told}: {bare:.2f} ms bare, {recorded:.2f} ms recorded, {again:.2f} ms bare again")
        print(f"  recording takes {figures[f'{name}_recording_us']:.0f} µs of it, {figures[f'{name}_share']:.2%}")


if __name__ == "__main__":
    main()
