"""Rejection sampling, DAgger and on-policy distillation go round, keep what they should, and resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolenv.agents.mentor import CORRECTED
from toolenv.agents.records import read_trajectories
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario
from toolenv.training.recipes import Recipe, RecipeSettings, best, run_recipe
from toolenv.training.sft import SFTSettings


def settings(recipe: Recipe, model: Path, **more: object) -> RecipeSettings:
    sft = SFTSettings(model=str(model), max_tokens=600, epochs=9, threads=1)
    given = {"rounds": 1, "tasks": 3, "validation": 2, "max_new_tokens": 6, "repairs": 12, "sft": sft, **more}
    return RecipeSettings.model_validate({"recipe": recipe, **given})


@pytest.mark.parametrize("recipe", list(Recipe))
def test_a_round_trains_on_what_the_recipe_says(
    recipe: Recipe, crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    rounds = run_recipe(
        crm, fresh_model, tmp_path, settings(recipe, fresh_model, teacher=str(fresh_model)), taught=solved[:4]
    )
    assert rounds[0].episodes == 0
    episodes = list(read_trajectories(tmp_path / "round-1.jsonl"))
    own = rounds[1].episodes - 4
    if recipe is Recipe.REJECTION_SAMPLING:
        assert own == sum(t.success for t in episodes) == 0, "fresh weights solve nothing"
    elif recipe is Recipe.DAGGER:
        assert own == sum(t.success for t in episodes) == 3
        assert any(CORRECTED in step.labels for t in episodes for step in t.steps)
    else:
        assert own == len(episodes) == 3
    assert (best(rounds) / "config.json").is_file()
    before = (tmp_path / "round-1" / "training.json").stat().st_mtime_ns
    again = run_recipe(
        crm, fresh_model, tmp_path, settings(recipe, fresh_model, teacher=str(fresh_model)), taught=solved[:4]
    )
    assert again == rounds
    assert (tmp_path / "round-1" / "training.json").stat().st_mtime_ns == before


def test_what_a_recipe_lacks_is_told(crm: Scenario, fresh_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name its folder"):
        run_recipe(crm, fresh_model, tmp_path, settings(Recipe.ON_POLICY, fresh_model))
    with pytest.raises(ValueError, match="begin with a better student"):
        run_recipe(crm, fresh_model, tmp_path, settings(Recipe.REJECTION_SAMPLING, fresh_model))
