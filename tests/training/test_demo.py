"""The demo, on a hundredth of its work: every stage runs, and a second run only reads what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from toolenv.agents.records import read_trajectories
from toolenv.demo import QUICK, demo


@pytest.mark.slow
def test_the_demo_runs_and_goes_on_from_what_is_there(tmp_path: Path) -> None:
    console = Console(record=True, width=120)
    rl = QUICK.swirl.policy_gradient.model_copy(update={"steps": 1, "groups": 2, "max_new_tokens": 8})
    score = QUICK.score.model_copy(
        update={"sft": QUICK.score.sft.model_copy(update={"max_tokens": 4_000}), "policy_gradient": rl}
    )
    settings = QUICK.model_copy(
        update={
            "tasks": 80,
            "mentored_tasks": 10,
            "evaluated": 4,
            "evaluated_early": 2,
            "max_new_tokens": 8,
            "sad": QUICK.sad.model_copy(update={"max_tokens": 4_000}),
            "score": score,
            "swirl": QUICK.swirl.model_copy(update={"policy_gradient": rl}),
        }
    )
    first = demo(tmp_path, settings=settings, seed=10_500, console=console)
    assert list(first.evaluations) == ["base", "SAD", "SCoRe-SFT", "SCoRe-RL", "SWiRL", "grounded", "teacher"]
    assert {trajectory.split for trajectory in read_trajectories(tmp_path / "dataset")} == {"train"}
    assert first.evaluations["teacher"].overall.success.value == 1.0
    assert set(first.evaluations["SWiRL"].by_exposure) == {"train", "unseen"}
    printed = console.export_text()
    assert "families trained on" in printed
    assert "families never seen" in printed
    weights = (tmp_path / "student" / "model.safetensors").stat().st_mtime_ns
    again = demo(tmp_path, settings=settings, seed=10_500, console=console)
    assert again.evaluations == first.evaluations
    assert again.seconds == {}
    assert (tmp_path / "student" / "model.safetensors").stat().st_mtime_ns == weights
