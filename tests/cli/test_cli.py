"""The command line, as a user calls it: what it prints, what it leaves, and what it says of bad input."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from toolenv import cli
from toolenv.agents.usage import Usage
from toolenv.cli import app, main
from toolenv.progress import cost_so_far
from toolenv.scenarios import sampler

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


def fail(*arguments: str | Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command that can not do its work says: one line, and status 2."""
    monkeypatch.setattr(sys, "argv", ["toolenv", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1, told
    return told


Fail = Callable[..., str]


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fail:
    return partial(fail, capsys=capsys, monkeypatch=monkeypatch)


def test_filter_says_that_unlabelled_episodes_score_nothing(failing: Fail, tmp_path: Path) -> None:
    call("generate", "crm", "-n", "10", "--teacher", "random", "-o", tmp_path / "data", "-q")
    told = failing("filter", tmp_path / "data", "-o", tmp_path / "out", "--score")
    assert "nothing to score filters by: no trajectory is of the oracle or a faulty policy" in told
    assert not (tmp_path / "out").exists()
    call("filter", tmp_path / "data", "-o", tmp_path / "out", "-q")


def test_episodes_of_an_evaluation_are_data(tmp_path: Path) -> None:
    """They lie in a file without the scenario beside it: it is the shipped one, or is named."""
    episodes = tmp_path / "new" / "episodes.jsonl"
    call("evaluate", "crm", "-n", "10", "--trajectories", episodes, "-o", tmp_path / "new" / "evaluation.json", "-q")
    assert json.loads(call("replay", episodes, "--json")) == {"replayed": 10, "differences": []}
    call("filter", episodes, "-o", tmp_path / "out", "--score", "-q")
    assert json.loads((tmp_path / "new" / "evaluation.json").read_text())["config"]["n"] == 10
    desk = Path(__file__).parents[1] / "data" / "desk.yaml"
    call("evaluate", desk, "-n", "10", "--trajectories", episodes, "-q")
    call("filter", episodes, "--scenario", desk, "-o", tmp_path / "desk", "-q")
    assert call("filter", episodes, "--scenario", desk, "--score")


@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_a_base_model_is_a_policy_by_its_name(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: Fail
) -> None:
    monkeypatch.setattr("toolenv.training.base_models.base_model_path", lambda name: tmp_path / f"folder of {name}")
    option = "--policy" if command == "evaluate" else "--teacher"
    told = failing(command, "crm", option, "toolenv-tiny", "-n", "1", "-q")
    assert "no policy" in told
    assert f"{tmp_path.name}/folder of toolenv-tiny" in told


def test_nothing_solved_is_nothing_to_train_on(failing: Fail, tmp_path: Path) -> None:
    call("generate", "crm", "-n", "10", "--teacher", "faulty:early_stop=1", "-o", tmp_path / "data", "-q")
    assert (
        failing("train", "sft", tmp_path / "data", "-o", tmp_path / "student")
        .rstrip()
        .endswith("nothing to train on: of its 10 trajectories none is solved")
    )
    call("filter", tmp_path / "data", "-o", tmp_path / "out", "-q")
    assert "of its 0 trajectories none is solved" in failing("train", "sft", tmp_path / "out" / "kept")
    assert not (tmp_path / "student").exists()


def test_what_can_not_be_written_is_one_line_and_known_before_the_work(
    failing: Fail, tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolenv.training.evaluate.rollout", None)  # no episode is run
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    (folder / "manifest.json").mkdir(parents=True)
    generate = ("generate", "crm", "-n", "2", "-q", "-o")
    assert "is a file, not a folder" in failing(*generate, file)
    assert "Not a directory" in failing(*generate, file / "below")
    assert "manifest.json: Is a directory" in failing(*generate, folder)
    for option in ("-o", "--trajectories"):
        assert "folder: Is a directory" in failing("evaluate", "crm", option, folder)
        assert "file: Not a directory" in failing("evaluate", "crm", option, file / "evaluation.json")
    assert "file: Not a directory" in failing("train", "sft", dataset, "-o", file)
    assert "Not a directory" in failing("filter", dataset, "-q", "-o", file / "below")


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "crm", "--seed"),
        ("evaluate", "crm", "--seed-start"),
        ("train", "sft", "data", "--seed"),
        ("base-model", "build", "tiny", "--seed"),
        ("demo", "--seed"),
    ],
    ids=" ".join,
)
def test_a_seed_out_of_bounds_is_refused(arguments: tuple[str, ...]) -> None:
    for seed in ("99999999999999999999999", str(2**63), "-1"):
        result = runner.invoke(app, [*arguments, seed], catch_exceptions=False)
        assert result.exit_code == 2
        assert "seed" in result.stderr
        assert "Traceback" not in result.stderr


def test_the_last_seed_can_be_generated_and_one_more_is_one_line(failing: Fail, tmp_path: Path) -> None:
    last = str(cli.MAX_SEED)
    assert cli.MAX_SEED == sampler.MAX_SEED
    call("generate", "crm", "-n", "1", "--seed", last, "--format", "parquet", "-o", tmp_path / "data", "-q")
    assert "must lie within 0 to" in failing("generate", "crm", "-n", "2", "--seed", last, "-o", tmp_path / "more")
    assert "must lie within 0 to" in failing("evaluate", "crm", "-n", "2", "--seed-start", last)


def test_an_extra_that_is_missing_is_named(failing: Fail, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.setattr(cli, "app", lambda: importlib.import_module("trl"))
    told = failing()
    assert "trl is not installed" in told
    assert "pip install 'toolenv[train]'" in told


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
        (["base-model", "build", "huge"], "no base model 'huge'; there is: tiny, small"),
        (["export", "nowhere", "--format", "trl"], "nowhere"),
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
        [sys.executable, "-m", "toolenv", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "0.1.0"


def test_a_budget_is_for_what_asks_an_endpoint(failing: Fail, tmp_path: Path) -> None:
    told = failing("generate", "crm", "-n", "2", "--budget-usd", "1", "-o", tmp_path / "data")
    assert "oracle asks no endpoint" in told
    assert not (tmp_path / "data").exists()


def test_settings_of_a_teacher_that_can_not_be_read_are_named(failing: Fail, tmp_path: Path) -> None:
    (tmp_path / "teacher.yaml").write_text("model: m\ntimeout: 5\n")
    told = failing("generate", "crm", "--teacher", f"llm:{tmp_path / 'teacher.yaml'}", "-o", tmp_path / "data")
    assert told == f"error: {tmp_path / 'teacher.yaml'}: timeout: Extra inputs are not permitted\n"


def test_what_is_not_installed_is_named_with_its_extra(
    failing: Fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    told = failing("generate", "crm", "--teacher", "llm:gpt-5", "-o", tmp_path / "data")
    assert "pip install 'toolenv[llm]'" in told


def test_an_endpoint_that_is_not_there_is_one_line(
    failing: Fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sentinel-5f0c1d")
    (tmp_path / "teacher.yaml").write_text("model: m\nbase_url: http://127.0.0.1:9/v1\nmax_retries: 0\n")
    generate = ("generate", "crm", "-n", "2", "--teacher", f"llm:{tmp_path / 'teacher.yaml'}", "-o", tmp_path / "data")
    told = failing(*generate)
    assert told.startswith("error: m at http://127.0.0.1:9/v1: Connection error")
    assert "sk-sentinel" not in told


def test_the_cost_of_all_is_told_from_that_of_a_part() -> None:
    assert cost_so_far(Usage(900, 100, usd=1.2, requests=2), 0.25) == "$1.20 of about $4.80"
    assert cost_so_far(Usage(900, 100, requests=2), 0.5) == "1,000 of about 2,000 tokens"
