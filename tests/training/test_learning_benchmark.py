"""The experiment on SAD: what is run first, what a silent trajectory is, and what its table says."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from toolenv.agents.trajectory import Trajectory


@pytest.fixture
def sad(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "learning")
    monkeypatch.delitem(sys.modules, "sad", raising=False)
    import sad

    return sad


def test_the_core_arms_come_first_from_the_smallest_size_on(sad: ModuleType) -> None:
    runs = sad.runs([1_000, 250], 4, list(sad.ARMS))
    assert len({run.name for run in runs}) == len(runs) == 2 * 4 * len(sad.ARMS)
    core = [name for name, arm in sad.ARMS.items() if arm.core]
    assert runs[: len(core)] == [sad.Run(arm, 250, 0) for arm in core]
    assert all(run.arm in core and run.seed < 3 for run in runs[: 2 * 3 * len(core)])
    assert {run.seed for run in runs[-2 * len(sad.ARMS) :]} == {3}


def test_without_reasoning_the_deeds_are_the_same(sad: ModuleType, solved: list[Trajectory]) -> None:
    for trajectory in solved:
        silent = sad.without_reasoning(trajectory)
        assert silent.tool_sequence == trajectory.tool_sequence
        assert silent.answer == trajectory.answer
        assert any(step.parsed.reasoning for step in trajectory.steps)
        assert not any(step.parsed.reasoning for step in silent.steps)


def test_the_table_has_intervals_over_seeds_and_differences_paired_by_seed(sad: ModuleType) -> None:
    def result(arm: str, seed: int, success: float) -> dict[str, object]:
        scores = {"success": success, "tool F1": 0.5, "reasoning": 30.0, "valid": None, "invented": 0.0}
        return {"arm": arm, "size": 250, "seed": seed, "scores": scores, "training": {"tokens": 200_123}}

    results = [result("flat", seed, 0.1 * seed) for seed in (1, 2, 3)]
    results += [result("span 1:1", seed, 0.1 * seed + 0.05) for seed in (1, 2, 3, 4)]
    flat, span = sad.table(results).splitlines()[2:]
    # 0.2 plus or minus 4.303 * 0.1 / sqrt(3)
    assert flat == "| 250 | 200,123 | flat | 3 | 0.200 [-0.048, 0.448] | – | – | 0.500 | 30.000 | – | 0.000 |"
    assert span.startswith("| 250 | 200,123 | span 1:1 | 4 | 0.300 [")
    assert "| 0.050 [0.050, 0.050] |" in span
    assert sad.with_interval([0.25]) == "0.250"
