"""`import toolenv` stays light. Time depends on the machine, so the test holds what decides it: the list of modules."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Each takes a tenth of a second or more, or belongs to an extra that the light core is installed without.
HEAVY = {
    "accelerate",
    "datasets",
    "docker",
    "faker",
    "fastapi",
    "matplotlib",
    "openai",
    "pandas",
    "prometheus_client",
    "psycopg",
    "peft",
    "pyarrow",
    "pydantic_monty",
    "ray",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
    "trl",
    "uvicorn",
}


def _loaded_by(statement):
    """The top-level packages loaded in a fresh interpreter after `statement`."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(finished.stdout.splitlines()[-1]))


@pytest.mark.parametrize("statement", ["import toolenv", "import toolenv, toolenv.cli"])
def test_import_loads_no_heavy_library(statement):
    assert not _loaded_by(statement) & HEAVY


def test_an_episode_needs_no_extra():
    statement = "import gymnasium, toolenv; gymnasium.make('ToolEnv-CRM-v0').reset(seed=0)"
    assert not _loaded_by(statement) & (HEAVY - {"faker", "pyarrow"})
