"""The demo, on a hundredth of its work: every stage runs, and a second run only reads what is there."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from toolenv.agents.records import read_trajectories
from toolenv.demo import Size, run


def test_the_demo_runs_and_goes_on_from_what_is_there(tmp_path: Path) -> None:
    console = Console(record=True, width=120)
    size = Size(tasks=80, tokens=4_000, evaluated=4)
    first = run(tmp_path, size=size, seed=10_500, console=console)
    assert set(first) == {"base", "student", "grounded", "oracle"}
    assert {trajectory.split for trajectory in read_trajectories(tmp_path / "dataset")} == {"train"}
    assert first["oracle"].overall.success.value == 1.0
    assert set(first["student"].by_exposure) == {"train", "unseen"}
    printed = console.export_text()
    assert "families trained on" in printed
    assert "families never seen" in printed
    weights = (tmp_path / "student" / "model.safetensors").stat().st_mtime_ns
    assert run(tmp_path, size=size, seed=10_500, console=console) == first
    assert (tmp_path / "student" / "model.safetensors").stat().st_mtime_ns == weights
