"""A student with fresh weights, and a few solved episodes: enough to see that the parts fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolenv.agents.language_model import PromptStyle
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.training.base_models import base_model_path, load_tokenizer, new_model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two threads of a small model wait for each other more than they compute, all the more beside other work."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def crm() -> Scenario:
    return load_scenario("crm")


@pytest.fixture(scope="session")
def solved(crm: Scenario) -> list[Trajectory]:
    """The shortest of the solved: training on them takes seconds."""
    episodes = rollout(crm, OraclePolicy(), [Attempt(seed) for seed in range(64)])
    return sorted((t for t in episodes if t.success), key=lambda t: len(t.to_json()))[:16]


@pytest.fixture(scope="session")
def fresh_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained student of the tiny architecture."""
    folder = tmp_path_factory.mktemp("fresh")
    tokenizer = load_tokenizer(base_model_path("tiny"))
    new_model("tiny", 0, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    PromptStyle().save(folder)
    return folder
