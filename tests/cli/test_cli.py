"""The command line, as a user calls it: what it prints, what it leaves, and what it says of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from toolenv.cli import app, main

runner = CliRunner()


def call(*arguments: str | Path) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "dataset"
    call("generate", "crm", "-n", "60", "--fault-rate", "0.5", "-o", folder, "--format", "trl", "-q")
    return folder


def commands() -> list[list[str]]:
    group = typer.main.get_command(app)
    found: list[list[str]] = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]  # the root is a group
        nested = getattr(command, "commands", None)
        found += [[name, sub] for sub in nested] if nested else [[name]]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_explains_itself_with_an_example(command: list[str]) -> None:
    assert f"Example: toolenv {' '.join(command)}" in " ".join(call(*command, "--help").split())


def test_generate_leaves_a_dataset_and_does_nothing_the_second_time(dataset: Path) -> None:
    before = (dataset / "part-00000.jsonl").read_bytes()
    assert before.count(b"\n") == 60
    assert (dataset / "export-trl.jsonl").read_bytes().count(b"\n") == 60
    call("generate", "crm", "-n", "60", "--fault-rate", "0.5", "-o", dataset, "-q")
    assert (dataset / "part-00000.jsonl").read_bytes() == before


def test_filter_splits_and_scores(dataset: Path, tmp_path: Path) -> None:
    result = json.loads(call("filter", dataset, "-o", tmp_path / "out", "--score", "--json"))
    assert result["filtered"]["kept"] + result["filtered"]["rejected"] == 60
    assert (tmp_path / "out" / "kept" / "part-00000.jsonl").read_bytes().count(b"\n") == result["filtered"]["kept"]
    assert {score["filter"] for score in result["scores"]} == {
        "hallucinated_arguments",
        "skipped_steps",
        "wrong_state",
        "malformed_calls",
    }
    assert "precision" in call("filter", dataset, "--score")


def test_replay_finds_nothing_in_what_was_just_made_and_something_in_what_was_changed(
    dataset: Path, tmp_path: Path
) -> None:
    assert json.loads(call("replay", dataset, "--json")) == {"replayed": 60, "differences": []}
    lines = (dataset / "part-00000.jsonl").read_bytes().splitlines()
    record = json.loads(lines[0])
    record["steps"][0]["observation"] = '{"changed":true}'
    changed = tmp_path / "changed.jsonl"
    changed.write_text(json.dumps(record) + "\n")
    result = runner.invoke(app, ["replay", str(changed), "--scenario", "crm", "-q"])
    assert result.exit_code == 1
    assert "observation" in result.stdout


def test_evaluate_prints_json_that_a_program_can_read() -> None:
    result = json.loads(call("evaluate", "crm", "--policy", "oracle", "--seed-start", "900000", "-n", "20", "--json"))
    assert result["overall"]["success"]["value"] == 1.0
    assert result["config"]["splits"] == {"test": 20}


def test_audit_of_one_family() -> None:
    assert "sound" in call("audit", "crm", "--families", "order_status", "--seeds", "4", "-q")


def test_audit_of_an_unsound_scenario_fails_and_names_the_family(tmp_path: Path) -> None:
    text = Path(__file__).parents[1].joinpath("data", "desk.yaml").read_text()
    assert "seen:" in text
    broken = tmp_path / "broken.yaml"
    broken.write_text("\n".join(line for line in text.splitlines() if "seen:" not in line))
    result = runner.invoke(app, ["audit", str(broken), "--seeds", "8", "-q"])
    assert result.exit_code == 1
    assert "breach" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "nowhere.yaml"], "no such file, and no shipped scenario"),
        (["evaluate", "crm", "--policy", "wizard"], "there is no policy 'wizard'"),
        (["evaluate", "crm", "--families", "nonsense"], "no family 'nonsense'"),
        (
            ["generate", "crm", "--teacher", "random", "--fault-rate", "0.5", "-o", "x"],
            "--fault-rate is for the oracle",
        ),
        (["filter", "nowhere"], "nothing to do"),
        (["replay", "nowhere"], "nowhere"),
        (["train", "sft", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["toolenv", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_the_program_runs_from_any_folder(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "toolenv.cli", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "0.1.0"
