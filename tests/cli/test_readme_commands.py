"""The README's commands, in the README's order, each on what the ones before it left."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolenv import demo
from toolenv.agents import language_model, shipped_models
from toolenv.cli import app
from toolenv.training.distill import DistillSettings

README = Path(__file__).parents[2] / "README.md"
TOLD = re.findall(r"^\| `toolenv ([^`]+)`", README.read_text(encoding="utf-8"), re.MULTILINE)

# What makes a command's work small enough for a test; the paths stay the README's.
LESS = {
    "audit": ["--seeds", "2", "--families", "order_status"],
    "generate": ["-n", "60"],
    "train sft": ["--max-tokens", "3000"],
    "train adapter": ["--max-tokens", "3000"],
    "train sad": ["--max-tokens", "3000"],
    "train score": ["--tasks", "12", "--max-tokens", "3000", "--rl-steps", "1"],
    "train recipe": ["--rounds", "1", "--tasks", "3", "--validation", "2", "--max-tokens", "3000"],
    "train swirl": ["--steps", "1", "--groups", "3"],
    "distill": ["--config", "small.yaml"],
    "evaluate": ["-n", "4"],
    "calibrate": ["-n", "20"],
    "cascade fit": ["--small", "faulty:0.5", "-n", "40"],  # the student of this test is right in no step
    "cascade report": ["-n", "4"],
    "base-model build": ["--tokens", "3000"],
}
SMALL = """
tasks: 12
mentored_tasks: 10
evaluated: 2
evaluated_early: 1
sad: {max_tokens: 3000}
score: {sft: {max_tokens: 3000}, policy_gradient: &rl {steps: 1, groups: 2, group_size: 2}}
swirl: {policy_gradient: *rl}
"""
PIPELINE = """
scenario: crm
logs: [{path: data/prod, form: toolenv}]
mix: {tokens: 3000}
gate: {n: 4, recheck: 2, max_new_tokens: 8, bound: 1, family_bound: 1}
"""


@pytest.mark.slow
def test_the_commands_of_the_readme_work_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ships = shipped_models.shipped_folder("toolenv-tiny")
    before = _bytes_of(ships)
    shutil.copytree(ships, tmp_path / "models" / "toolenv-tiny")
    monkeypatch.setattr(shipped_models, "_SHIPPED", tmp_path / "models")  # no test changes the model that ships
    decode = language_model.decode
    monkeypatch.setattr(
        language_model, "decode", lambda *given, **named: decode(*given, **{**named, "max_new_tokens": 8})
    )
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)
    Path("pipeline.yaml").write_text(PIPELINE)
    monkeypatch.setattr(demo, "FULL", DistillSettings.read(Path("small.yaml")))
    assert [line.split()[0] for line in TOLD].count("filter") == 1
    for line in TOLD:
        words = shlex.split(line)
        if words[0] == "sandbox":  # may need an engine: see test_sandbox_commands.py
            continue
        if words[:2] == ["adapters", "use"]:  # the README's folder is an example
            words[-1] = next(Path(words[2]).glob(f"{words[3]}-*")).name
        if words[0] == "serve":  # goes on until it is stopped: see test_serve_student.py
            continue
        arguments = [*words, *LESS.get(words[0], LESS.get(" ".join(words[:2]), []))]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
    assert len((tmp_path / "data" / "crm" / "part-00000.jsonl").read_bytes().splitlines()) == 60
    for left in (
        "data/filtered/kept/card.json",
        "data/crm/export-trl.jsonl",
        "runs/student/training.json",
        "runs/score/preferences.jsonl",
        "runs/swirl/policy_gradient.json",
        "runs/dagger/round-1/training.json",
        "runs/distill/evaluations/swirl-train.json",
        "registry/versions/0001/report.md",
        "runs/demo",
    ):
        assert (tmp_path / left).exists(), left
    assert _bytes_of(ships) == before


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
