"""The pipeline: from logs to a version, whatever it is killed at; and what it keeps out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolenv.agents.exports import export
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.records import read_trajectories, write_jsonl
from toolenv.agents.rollout import Attempt, rollout
from toolenv.cli import app
from toolenv.scenarios.loading import load_scenario
from toolenv.training.pipeline import run_pipeline
from toolenv.training.pipeline_settings import PipelineError, PipelineSettings
from toolenv.training.registry import LAST_STAGE, MARKS, POINTER, Registry, RegistryError

for _library in ("phonenumbers", "stdnum", "email_validator"):
    pytest.importorskip(_library)

SETTINGS = """
scenario: crm
families: customer_tier
logs:
  - {path: logs, form: openai}
  - {path: ours.jsonl, form: toolenv}
general: [general.jsonl]
mix: {tokens: 3000}
train: {threads: 1, checkpoint_steps: 1}
gate: {n: 4, recheck: 2, max_new_tokens: 16, bound: 1, family_bound: 1}
"""


def episodes(seeds, families=("customer_tier",)):
    return list(rollout(load_scenario("crm"), OraclePolicy(), map(Attempt, seeds), families=families))


def write_logs(path, seeds, **more):
    """Episodes as a production log would have them."""
    played, tools = episodes(seeds), load_scenario("crm").toolbox.to_openai()
    rows = [{**row, "success": True, **more} for row in export(played, "openai", tools)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return played


@pytest.fixture
def folder(tmp_path):
    """Settings, two files of logs with a line that is broken in each, and general data."""
    write_logs(tmp_path / "logs" / "monday.jsonl", range(8))
    with (tmp_path / "logs" / "monday.jsonl").open("a") as stream:
        stream.write('{"messages": 3}\n')
    write_jsonl(episodes(range(20, 24)), tmp_path / "ours.jsonl")
    with (tmp_path / "ours.jsonl").open("a") as stream:
        stream.write('{"schema_version": 1, "id": "cut')
    write_jsonl(episodes(range(40, 60), ["thanks"]), tmp_path / "general.jsonl")
    (tmp_path / "pipeline.yaml").write_text(SETTINGS)
    return tmp_path


def settings_in(folder: Path, **update) -> PipelineSettings:
    return PipelineSettings.read(folder / "pipeline.yaml").model_copy(update=update)


def command(folder: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "toolenv", "pipeline", "run", str(folder / "pipeline.yaml")]


# -- one run -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_from_logs_to_a_version(folder):
    stages: list[str] = []
    version = run_pipeline(settings_in(folder), notify=stages.append)
    assert [stage for stage in stages if ":" not in stage] == [*MARKS, LAST_STAGE]
    registry = Registry(folder / "registry")
    assert registry.current == version.name == "0001"
    run = registry.folder_of("0001")

    # What can not be read is named, and kept apart.
    problems = version.counts["ingest"]["problems"]
    assert len(problems) == 2
    assert problems[0].endswith("monday.jsonl:9: messages: not a list")
    assert "ours.jsonl:5: record: Invalid JSON" in problems[1]
    kept = {path.name for path in (run / "ingested" / "unreadable").iterdir()}
    assert kept == {"00000-monday.jsonl", "00001-ours.jsonl"}

    # The people of the logs are nowhere in the run, but in what could not be read.
    originals = {step.action["arguments"]["email"] for e in episodes(range(8)) for step in e.steps[:1]}
    for path in run.rglob("*"):
        if path.is_file() and path.suffix in (".jsonl", ".json", ".md") and "unreadable" not in path.parts:
            assert not [mail for mail in originals if mail in path.read_text()], path
    assert version.counts["filter"] == {"kept": 12, "quarantined": 0, "quarantined_by": {}}

    # The mix has all three, and its hash is that of its records.
    parts = version.counts["mix"]
    assert parts["logs"]["episodes"] == 12
    assert parts["general"]["tokens"] >= 300
    assert 3000 <= sum(part["tokens"] for part in parts.values()) < 3600
    assert len(list(read_trajectories(run / "mix"))) == sum(part["episodes"] for part in parts.values())
    assert "# Version 0001: promoted" in (run / "report.md").read_text()

    # The same again is nothing new; a log that grows is.
    assert run_pipeline(settings_in(folder)) is None
    write_logs(folder / "logs" / "tuesday.jsonl", range(60, 62))
    second = run_pipeline(settings_in(folder))
    assert second.parent == "0001"
    assert second.counts["ingest"]["episodes"] == 2
    assert _commands_tell(folder) == second.name


def _commands_tell(folder):
    registry = str(folder / "registry")
    told = json.loads(CliRunner().invoke(app, ["pipeline", "status", registry, "--json"]).output)
    assert [version["name"] for version in told["versions"]] == ["0000", "0001", "0002"]
    assert told["unfinished"] is None
    back = CliRunner().invoke(app, ["pipeline", "rollback", registry, "--reason", "to see"])
    assert "current: 0001 (to see)" in back.output
    table = CliRunner().invoke(app, ["pipeline", "status", registry]).output
    assert "0001 <" in table
    assert "rollback to 0001: to see" in table
    return told["current"]


# -- killed --------------------------------------------------------------------------------------------


def _kill_at(stage: str, folder: Path) -> None:
    """Run until a stage is under way, then kill -9."""
    with subprocess.Popen(command(folder), stderr=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(stage):
                break
        else:
            raise AssertionError(f"{stage} was never reached")
        if stage == "retrain":
            _wait_for(folder / "registry" / "versions" / "0001" / "model" / "checkpoints", "checkpoint-*")
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def _wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not any(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} in {folder}"
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_at_every_stage_it_comes_to_the_same_end(folder, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    for name in ("logs", "ours.jsonl", "general.jsonl", "pipeline.yaml"):
        (whole / name).symlink_to(folder / name)
    for stage in (*MARKS, "gate: current"):
        _kill_at(stage, folder)
        registry = Registry(folder / "registry")
        assert registry.unfinished() == "0001"
        assert registry.current == "0000"
    done = subprocess.run(command(folder), capture_output=True, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if line.startswith("gate")][1].startswith("gate: current on all")
    resumed = Registry(folder / "registry").version("0001")

    key = Registry(folder / "registry").key()
    (whole / "registry").mkdir()
    (whole / "registry" / "key").write_bytes(key)
    straight = run_pipeline(settings_in(whole))
    differing = {name for name in straight.data if not name.startswith("log ")}
    assert {name: straight.data[name] for name in differing} == {name: resumed.data[name] for name in differing}
    assert straight.success == resumed.success
    assert straight.counts["mix"] == resumed.counts["mix"]

    # Killed between the verdict and the pointer: the pointer is moved by the next run.
    pointer = folder / "registry" / POINTER
    pointer.write_text(json.dumps(json.loads(pointer.read_text())[:1]))
    assert Registry(folder / "registry").unfinished() == "0001"
    assert run_pipeline(settings_in(folder)).name == "0001"
    assert Registry(folder / "registry").current == "0001"


def test_a_run_that_was_killed_goes_on_with_its_settings_or_is_given_up(folder):
    settings = settings_in(folder)

    def killed(stage):
        if stage == "filter":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(settings, notify=killed)
    told = json.loads(CliRunner().invoke(app, ["pipeline", "status", str(settings.registry), "--json"]).output)
    assert told["unfinished"] == {"version": "0001", "next_stage": "filter"}
    other = settings.model_copy(update={"seed": 1})
    with pytest.raises(RegistryError, match=r"settings\.seed; take another folder.*--fresh"):
        run_pipeline(other, notify=killed)
    stages: list[str] = []

    def noted(stage):
        stages.append(stage)
        killed(stage)

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(other, fresh=True, notify=noted)
    assert stages == ["ingest", "redact", "filter"]


def test_a_second_run_at_once_is_refused(folder):
    registry = Registry(folder / "registry")
    with registry.running():
        second = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "another process is writing to this folder" in second.stderr


# -- settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("scenario: [", "not YAML"),
        ("registry: x", "scenario: Field required"),
        ("scenario: crm\nmix: {tokens: 0}", "mix.tokens: "),
        ("scenario: crm\nmix: {logs: 0, synthetic: 0, general: 0}", "mix: Value error, logs, synthetic and general"),
        ("scenario: crm\nlogs: [{path: x, form: csv}]", "logs.0.form: Value error, there is no form 'csv'; there is:"),
        ("scenario: crm\ndrift: {kinds: [renamed]}", "drift.kinds: Value error, there is no drift 'renamed'"),
        ("scenario: crm\nredact: {region: usa}", "redact.region: Value error, a region is two capitals"),
        ("scenario: crm\ngates: {}", "gates: Extra inputs are not permitted"),
    ],
)
def test_settings_that_can_not_be_read_are_told_with_file_and_field(tmp_path, line, told):
    path = tmp_path / "pipeline.yaml"
    path.write_text(line)
    with pytest.raises(PipelineError) as caught:
        PipelineSettings.read(path)
    assert str(caught.value).startswith(f"{path}: {told}")


def test_logs_that_are_not_there_are_told_before_anything_is_written(tmp_path):
    (tmp_path / "pipeline.yaml").write_text("scenario: crm\nlogs: [{path: nowhere}]")
    result = CliRunner().invoke(app, ["pipeline", "run", str(tmp_path / "pipeline.yaml")])
    assert isinstance(result.exception, PipelineError)
    assert "nowhere: logs: no such file or folder" in str(result.exception)
    assert not (tmp_path / "registry").exists()


def test_settings_keep_their_defaults_and_paths_are_beside_the_file(tmp_path):
    (tmp_path / "pipeline.yaml").write_text("scenario: crm\ntrain: {epochs: 2}\nredact: {key: secret}")
    settings = PipelineSettings.read(tmp_path / "pipeline.yaml")
    assert settings.registry == tmp_path / "registry"
    assert settings.redact.key == tmp_path / "secret"
    assert (settings.train.epochs, settings.train.checkpoint_steps) == (2, 50)
    assert settings.tools_of_today(load_scenario("crm")) is None
