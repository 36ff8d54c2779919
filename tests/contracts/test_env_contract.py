"""The environments that ship, and those made of one's own scenario, keep the contract of `envs/conformance.py`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gymnasium
import pytest

import toolenv  # noqa: F401  # registers the environments
from toolenv.envs.conformance import EXPECTATIONS, check_tool_env
from toolenv.envs.wrappers import DiscreteActions, EntityAliases, TextActions

DESK = Path(__file__).parents[1] / "data" / "desk.yaml"

ENVIRONMENTS = {
    "crm": partial(gymnasium.make, "ToolEnv-CRM-v0"),
    "crm, unseen families": partial(gymnasium.make, "ToolEnv-CRM-v0", families="unseen"),
    "database": partial(gymnasium.make, "ToolEnv-Database-v0"),
    "database, unseen families": partial(gymnasium.make, "ToolEnv-Database-v0", families="unseen"),
    "code": partial(gymnasium.make, "ToolEnv-CodeInterpreter-v0"),
    "code, unseen families": partial(gymnasium.make, "ToolEnv-CodeInterpreter-v0", families="unseen"),
    "support": partial(gymnasium.make, "ToolEnv-Support-v0"),
    "support, unseen families": partial(gymnasium.make, "ToolEnv-Support-v0", families="unseen"),
    "own scenario": partial(gymnasium.make, "ToolEnv-v0", scenario=DESK),
    "ansi": partial(gymnasium.make, "ToolEnv-v0", scenario=DESK, render_mode="ansi"),
}
WRAPPED = {
    "text": lambda: TextActions(gymnasium.make("ToolEnv-CRM-v0")),
    "aliases": lambda: EntityAliases(gymnasium.make("ToolEnv-CRM-v0")),
    "aliases on a database": lambda: EntityAliases(gymnasium.make("ToolEnv-Database-v0")),
    "aliases on a toolbox of four families": lambda: EntityAliases(gymnasium.make("ToolEnv-Support-v0")),
    "aliases in text": lambda: TextActions(EntityAliases(gymnasium.make("ToolEnv-v0", scenario=DESK))),
    "discrete": lambda: DiscreteActions(gymnasium.make("ToolEnv-CRM-v0")),
}


@pytest.mark.parametrize("expectation", EXPECTATIONS, ids=str)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment(name, expectation):
    expectation.check(ENVIRONMENTS[name])


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_environment(name):
    check_tool_env(WRAPPED[name], seeds=[5])
