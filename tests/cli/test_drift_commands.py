"""`toolenv drift` and `evaluate --drift`, as a user calls them: tables, JSON, exit status, and bad input."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import Result
from typer.testing import CliRunner

from toolenv.cli import app


def call(*arguments: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and its import as another's log; and episodes behind renamed tools."""
    folder = tmp_path_factory.mktemp("drift")
    call("generate", "crm", "-n", "60", "--fault-rate", "0.3", "-o", folder / "data", "--format", "openai", "-q")
    call("import", folder / "data" / "export-openai.jsonl", "-o", folder / "prod", "-q")
    kept = ("-o", folder / "oracle.json", "--trajectories", folder / "oracle.jsonl", "--no-judge-steps", "-q")
    gaps = call(
        "evaluate", "crm", "-n", "20", "--drift", "rename_tool:0.5", "--drift", "removed_tool:0.05", *kept, "--json"
    )
    (folder / "gaps.json").write_text(gaps.stdout)
    return folder


def test_the_gap_of_each_kind_is_told_and_its_evaluation_kept(folder: Path) -> None:
    told = orjson.loads((folder / "gaps.json").read_bytes())
    renamed, removed = told["drift"]
    assert told["plain"]["overall"]["success"]["value"] == 1.0
    assert (renamed["kind"], renamed["severity"], renamed["difference"]["success"]["value"]) == (
        "rename_tool",
        0.5,
        0.0,
    )
    assert len(renamed["changes"]) == 17
    assert (removed["success"]["value"] < 1.0) == (removed["difference"]["second_only"] > 0)
    assert removed["lost"]
    call("compare", folder / "oracle-rename_tool-0.5.json", folder / "oracle.json")
    assert len((folder / "oracle-removed_tool-0.05.jsonl").read_bytes().splitlines()) == 20


def test_the_table_of_gaps(tmp_path: Path) -> None:
    shown = call("evaluate", "crm", "-n", "3", "--drift", "all", "--no-judge-steps", "-q").stdout
    assert "rename_argument:0.3" in shown
    assert "minus plain [95% CI]" in shown


@pytest.mark.parametrize("logs", ["data", "prod", "oracle.jsonl"])
def test_no_drift_is_status_0(folder: Path, logs: str) -> None:
    assert "; no drift" in call("drift", "check", folder / logs, "--scenario", "crm", "-q").stdout


def test_drift_is_status_1_with_table_json_and_file(folder: Path, tmp_path: Path) -> None:
    logs = folder / "oracle-rename_tool-0.5.jsonl"
    student = tmp_path / "student"
    student.mkdir()
    (student / "toolenv.json").write_text("{}")
    options = ("--scenario", "crm", "--student", student, "-q")
    shown = call("drift", "check", logs, *options, status=1).stdout
    assert "rename_tool" in shown
    assert "its folder does not tell its tools" in shown
    kept = tmp_path / "reports" / "drift.json"
    told = orjson.loads(call("drift", "check", logs, *options, "-o", kept, "--json", status=1).stdout)
    assert told == orjson.loads(kept.read_bytes())
    assert (told["drift"], told["records"], told["executed"]) == (True, 20, 20)
    assert {finding["change"]["kind"] for finding in told["findings"]} == {"rename_tool"}
    assert told["students"][0]["tools"] is None


def test_made_tools_are_todays_tools_of_a_check(folder: Path, tmp_path: Path) -> None:
    drifts = ("--drift", "rename_argument:0.1", "--drift", "removed_tool:0.1", "--seed", "3")
    made = orjson.loads(call("drift", "make", "crm", *drifts, "-o", tmp_path / "t.json", "--json").stdout)
    assert made["lost"]
    told = call("drift", "check", folder / "prod", "--tools", tmp_path / "t.json", "-q", "--json", status=1).stdout
    planted = {(c["kind"], c["tool"], c["field"]) for c in made["changes"]}
    found = {tuple(f["change"][name] for name in ("kind", "tool", "field")) for f in orjson.loads(told)["findings"]}
    assert found == planted
    assert "rename_argument: " in call("drift", "make", "crm", *drifts).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "none"), "no such file"),
        (("check", "log.jsonl", "--scenario", "crm"), "log.jsonl:1: "),
        (("check", "log.jsonl", "--tools", "none.json"), "none.json: no such file"),
        (("check", "log.jsonl", "--tools", "log.jsonl", "--scenario", "crm"), "give one"),
        (("check", "log.jsonl", "--scenario", "crm", "--student", "."), "no student there"),
        (("make", "crm", "--drift", "rename"), "there is no drift 'rename'"),
        (("make", "crm", "--drift", "order:2"), "a severity is a number above 0 and at most 1"),
        (("make", "crm", "--drift", "all", "--drift", "order"), "the drift order is named twice"),
    ],
)
def test_bad_input_is_told_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments, message
) -> None:
    from toolenv.cli import main

    monkeypatch.chdir(tmp_path)
    Path("log.jsonl").write_text('{"schema_version": 1}\n')
    monkeypatch.setattr("sys.argv", ["toolenv", "drift", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert message in capfd.readouterr().err.replace("\n", "")
