"""The first page is true: its program runs, its plan solves its scenario, its links lead somewhere."""

from __future__ import annotations

import re

import gymnasium
import pytest

from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.rollout import Attempt, rollout
from toolenv.scenarios.loading import parse_scenario

SEEDS = range(20)


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def _block(readme, language):
    return re.search(rf"```{language}\n(.*?)```", readme, re.DOTALL)[1]


def test_the_program_runs(readme, capsys):
    exec(compile(_block(readme, "python"), "README.md", "exec"), {})
    request, error, verdict = capsys.readouterr().out.strip().splitlines()
    assert request
    assert "order_id" in error
    assert verdict == "0.0 False"


def test_the_scenario_is_solved_by_its_plan_and_not_by_idling(readme):
    scenario = parse_scenario(_block(readme, "yaml").encode(), "README.md")
    assert all(trajectory.success for trajectory in rollout(scenario, OraclePolicy(), map(Attempt, SEEDS)))
    env = gymnasium.make("ToolEnv-v0", scenario=scenario)
    for seed in SEEDS:
        env.reset(seed=seed)
        assert env.step({"answer": "It is on its way."})[1] == 0.0


def test_links_lead_to_files(repository):
    broken = []
    for page in [*repository.glob("*.md"), *(repository / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(repository)}: {target}")
    assert not broken, "; ".join(broken)
