"""The public surface: whoever adds to it or takes from it says so here and in the changelog."""

from __future__ import annotations

import re

import gymnasium
import pytest
import typer.main

import toolenv
from toolenv.cli import app

COMMANDS = {
    "adapters list",
    "adapters use",
    "analyze",
    "audit",
    "base-model build",
    "cascade fit",
    "cascade report",
    "calibrate",
    "compare",
    "demo",
    "distill",
    "drift check",
    "drift make",
    "evaluate",
    "export",
    "filter",
    "generate",
    "import",
    "measure",
    "pipeline rollback",
    "pipeline run",
    "pipeline status",
    "play",
    "replay",
    "report",
    "sandbox build",
    "sandbox doctor",
    "sandbox gc",
    "sandbox list",
    "serve",
    "show",
    "train adapter",
    "train sad",
    "train recipe",
    "train score",
    "train swirl",
    "train sft",
}


def _commands(group, before=""):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


@pytest.fixture(scope="module")
def commands():
    return dict(_commands(typer.main.get_command(app)))


def test_names_of_the_package():
    assert toolenv.__all__ == ["__version__"]


def test_registered_environments():
    ours = {env_id for env_id, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("toolenv.")}
    names = ("CRM", "CodeInterpreter", "Database", "Support")
    assert ours == {"ToolEnv-v0", *(f"ToolEnv-{name}-v0" for name in names)}


def test_commands(commands):
    assert set(commands) == COMMANDS


def test_every_command_explains_itself(commands):
    silent = [name for name, command in commands.items() if not command.help]
    assert not silent


def test_the_readme_lists_every_command(commands, repository):
    told = re.findall(r"^\| `toolenv ([^`]+)`", (repository / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name in commands if any(f"{line} ".startswith(f"{name} ") for line in told)} == set(commands)


def test_the_readme_names_options_that_exist(commands, repository):
    unknown = []
    for line in re.findall(r"`toolenv ([^`]+)`", (repository / "README.md").read_text(encoding="utf-8")):
        name = next((name for name in commands if f"{line} ".startswith(f"{name} ")), None)
        known = {option for parameter in commands[name].params for option in parameter.opts} if name else set()
        unknown += [
            f"{name}: {option}" for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", line) if option not in known
        ]
    assert not unknown, "; ".join(unknown)
