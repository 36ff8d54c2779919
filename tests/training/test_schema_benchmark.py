"""The experiment on listings of tools: what its table says."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def schema(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "learning")
    for name in ("sad", "schema"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import schema

    return schema


def test_one_seed_has_intervals_over_tasks_and_several_over_seeds(schema: ModuleType) -> None:
    def run(arm: str, seed: int, success: float) -> dict[str, object]:
        scores = {"success": success, "valid": 0.5, "invented": None, "tool F1": 0.25}
        measured = {**scores, "prompt": 1_234.5, "n": 100, "seconds": 20.0}
        return {"arm": arm, "seed": seed, "train": measured, "unseen": {**measured, "success": 0.0}}

    results = [run("none", 0, 0.5), run("none", 1, 0.7), run("schemas", 0, 0.4)]
    none, schemas, *unseen = schema.table(results).splitlines()[2:]
    # 0.6 plus or minus 12.706 * 0.1414 / sqrt(2)
    assert none == "| train | none | 2 | 0.600 [-0.671, 1.871] | – | 0.500 | – | 0.250 | 1,234 | 0.20 |"
    # Wilson's interval of 40 in 100
    assert schemas.startswith("| train | schemas | 1 | 0.400 [0.309, 0.498] | -0.100 |")
    assert [line.split(" | ")[0] for line in unseen] == ["| unseen", "| unseen"]
