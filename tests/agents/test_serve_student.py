"""A student behind `toolenv serve` does what it does without: same tasks, same actions, greedily.

The base model that ships stands in for a trained one. It solves nothing, but it writes all there is: calls, answers,
text that nobody can read, turns that are cut.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

import openai

from toolenv.agents.cascade import FRONTIER, IN_VAIN, TIER, CascadeFile
from toolenv.agents.doubt import FEATURES, Doubt
from toolenv.agents.language_model import ModelError
from toolenv.agents.policies import make_policy
from toolenv.agents.records import read_trajectories
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED
from toolenv.training.base_models import base_model_path
from toolenv.training.evaluate import evaluate

pytestmark = pytest.mark.slow
Start = Callable[..., tuple[str, Path]]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `toolenv serve`; its URL and its log."""
    started: list[subprocess.Popen[bytes]] = []

    def make(*arguments: str) -> tuple[str, Path]:
        log = tmp_path / f"log{len(started)}"
        with log.open("wb") as stream:
            command = [sys.executable, "-m", "toolenv", "serve", *arguments, "--port", "0"]
            started.append(subprocess.Popen(command, stderr=stream, env=ENVIRONMENT))
        deadline = time.monotonic() + 120
        while not (lines := log.read_text().splitlines()):
            assert started[-1].poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return json.loads(lines[0])["url"], log

    yield make
    for process in started:
        process.terminate()
    assert [process.wait(30) for process in started] == [0] * len(started)


def settings_file(folder: Path, model: str, url: str, **more: Any) -> Path:
    file = folder / f"{model}.yaml"
    file.write_text(json.dumps({"model": model, "base_url": url, "temperature": 0} | more))
    return file


def actions(trajectory: Trajectory) -> list[tuple[Any, str]]:
    return [(step.action, step.observation) for step in trajectory.steps]


@pytest.mark.parametrize(("prefix", "concurrency", "n"), [("", 1, 3), ("grounded:", 6, 12)])
def test_an_evaluation_through_the_service_is_that_of_the_student(
    start: Start, scenario: Scenario, tmp_path: Path, prefix: str, concurrency: int, n: int
) -> None:
    student = f"{prefix}{base_model_path('tiny')}"
    url, _ = start(student, "--scenario", "crm", "--name", "served")
    file = settings_file(tmp_path, "served", url, concurrency=concurrency)
    results = {}
    for name, spec in (("direct", student), ("served", f"llm:{file}")):
        kept = tmp_path / f"{name}.jsonl"
        evaluation = evaluate(scenario, spec, n=n, batch=concurrency, judge_steps=False, trajectories=kept)
        results[name] = {t.task: actions(t) for t in read_trajectories(kept)}, evaluation.overall.success
    assert len(results["direct"][0]) == n
    assert results["served"] == results["direct"]
    kinds = {type(action) for steps in results["direct"][0].values() for action, _ in steps}
    assert kinds == ({dict} if prefix else {dict, str}), "what nobody can read is compared, too"


def test_a_next_turn_computes_what_is_new_alone(start: Start, scenario: Scenario, tmp_path: Path) -> None:
    url, _ = start(f"grounded:{base_model_path('tiny')}", "--scenario", "crm", "--name", "served")
    policy = make_policy(f"llm:{settings_file(tmp_path, 'served', url)}")
    played = list(rollout(scenario, policy, [Attempt(FIRST_TEST_SEED + i) for i in range(6)], batch=6))
    usages = [usage for trajectory in played for usage in trajectory.usage or () if usage is not None]
    firsts = [trajectory.usage[0] for trajectory in played if trajectory.usage and trajectory.usage[0] is not None]
    later = [usage for usage in usages if usage not in firsts]
    assert later
    assert not any(usage.cached_tokens for usage in firsts)
    assert all(usage.cached_tokens > 0 for usage in later)


def test_a_cascade_hands_over_and_tells_what_it_cost(start: Start, tmp_path: Path) -> None:
    base = base_model_path("tiny")
    frontier, _ = start(f"grounded:{base}", "--scenario", "crm", "--name", "frontier")
    doubt = Doubt(intercept=3.0, weights=dict.fromkeys(FEATURES, 0.0))  # it is never sure
    file = CascadeFile(
        scenario="crm",
        scenario_version="x",
        small=str(base),
        frontier=f"llm:{settings_file(tmp_path, 'frontier', frontier)}",
        threshold=0.5,
        target=1.0,
        doubt=doubt,
    )
    file.write(tmp_path / "cascade.json")
    url, log = start(f"cascade:{tmp_path / 'cascade.json'}", "--name", "both")
    messages = [{"role": "user", "content": "What is the status of order ORD-00001?"}]
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        first = client.chat.completions.create(model="both", messages=messages)
    metrics = metrics_of(url)
    labels = first.model_extra["toolenv"]
    assert labels[TIER] == FRONTIER
    assert metrics["toolenv_cascade_fallbacks_total"] == 1
    assert metrics[f'toolenv_cascade_steps_total{{tier="{FRONTIER}"}}'] == 1
    text = first.choices[0].message
    assert metrics["toolenv_cascade_cost_total"] > 0.01 * labels[IN_VAIN]
    assert text.tool_calls or text.content
    assert json.loads(log.read_text().splitlines()[0])["threads"] == 8


def metrics_of(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "--scenario"),
        (("--scenario", "crm", "--host", "0.0.0.0"), "other machines could ask"),
        (("--scenario", "nothing"), "nothing"),
    ],
)
def test_a_service_that_is_set_wrongly_is_not_started(arguments: tuple[str, ...], problem: str) -> None:
    command = [sys.executable, "-m", "toolenv", "serve", str(base_model_path("tiny")), "--port", "0", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert finished.returncode == 2
    assert problem in finished.stderr


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    import torch

    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in base_model_path("tiny").iterdir():
        if file.suffix != ".safetensors" and file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no weights as safetensors"):
        make_policy(str(folder))
