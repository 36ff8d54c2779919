"""`toolenv sandbox`: what it prints, for people and for programs, and what it leaves alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from toolenv.cli import app, main
from toolenv.tools.errors import OperatorError
from toolenv.tools.sandbox import docker_image, docker_labels, docker_tree, doctor, interpreters

runner = CliRunner()


def call(*arguments: str, status: int = 0) -> str:
    result = runner.invoke(app, ["sandbox", *arguments], catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == status, result.output
    return result.stdout


@pytest.fixture
def client() -> Iterator[Any]:
    try:
        found = docker_image.connect()
    except OperatorError as error:
        pytest.skip(str(error))
    yield found
    found.close()


@pytest.fixture
def expired(client: Any) -> Iterator[str]:
    """The id of a container that has expired."""
    container = client.containers.create(
        docker_image.ensure(client),
        [docker_tree.PYTHON, "-S", "-c", "input()"],
        labels={**docker_labels.labels("test", 60), docker_labels.EXPIRES: "1"},
        network_mode="none",
    )
    yield container.id
    for left in client.containers.list(all=True, filters={"id": container.id}):
        left.remove(force=True)


def test_build_tells_what_it_made(client: Any) -> None:
    told = json.loads(call("build", "--from", "host", "--json"))
    assert told["image"] == docker_image.tag()
    assert told["bytes"] > 10_000_000
    assert told["seconds"] > 0
    assert docker_image.exists(client, told["image"])
    assert call("build").startswith(f"{docker_image.tag()}: ")


def test_list_tells_of_each_container_and_gc_removes_the_expired_one(client: Any, expired: str) -> None:
    mine = [one for one in json.loads(call("list", "--json")) if one["id"] == expired]
    assert [(one["owner"], one["image"], one["expires"], one["stale"]) for one in mine] == [
        (docker_labels.owner(), docker_image.tag(), 1, "expired")
    ]
    row = next(line for line in call("list").splitlines() if expired[:12] in line)
    assert "expired" in row
    assert docker_image.tag() in row
    assert f"({expired[:12]}): expired" in call("gc")
    assert not client.containers.list(all=True, filters={"id": expired})
    assert expired not in call("gc", "--json")


def test_gc_tells_a_program_what_it_removed(expired: str) -> None:
    removed = {one["id"]: one["reason"] for one in json.loads(call("gc", "--json"))}
    assert removed[expired] == "expired"


def test_doctor_tells_what_holds_here() -> None:
    result = runner.invoke(app, ["sandbox", "doctor", "--json"], catch_exceptions=False)
    told = json.loads(result.stdout)
    assert result.exit_code == (0 if told["embedded"] else 1)
    names = [finding["name"] for finding in told["findings"]]
    assert names[:5] == ["processor", "Landlock", "seccomp", "embedded", "docker"]
    assert names[-2:] == ["monty", "postgres"]
    assert all(finding["says"] for finding in told["findings"])


def test_doctor_s_table_says_the_same() -> None:
    findings = doctor.examine()
    status = 0 if next(finding.works for finding in findings if finding.name == "embedded") else 1
    table = call("doctor", status=status)
    assert all(finding.name in table for finding in findings)


def test_doctor_fails_where_nothing_can_be_locked_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise interpreters.SandboxUnavailable("the kernel offers no Landlock")

    monkeypatch.setattr(interpreters, "_start", refuse)
    monkeypatch.setattr(doctor.lockdown, "landlock_version", lambda: 0)
    told = json.loads(call("doctor", "--json", status=1))
    assert told["embedded"] is False
    says = {finding["name"]: finding["says"] for finding in told["findings"] if not finding["works"]}
    assert says["embedded"] == "the kernel offers no Landlock"
    assert "nothing keeps files" in says["Landlock"]


def test_doctor_names_what_is_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> str:
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", none)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    says = {finding.name: finding.says for finding in doctor.examine()}
    assert "toolenv[monty]" in says["monty"]
    assert "toolenv[postgres]" in says["postgres"]
    assert "docker image" not in says


def test_doctor_looks_for_a_server_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "3")
    monkeypatch.delenv("TOOLENV_POSTGRES_DSN", raising=False)
    assert not doctor.examine()[-1].works
    monkeypatch.setenv("TOOLENV_POSTGRES_DSN", "postgresql:///test")
    assert doctor.examine()[-1].works


@pytest.mark.parametrize("command", ["build", "list", "gc"])
def test_no_engine_is_one_line_and_status_2(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setattr(sys, "argv", ["toolenv", "sandbox", command])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("error: no docker engine answers")
