"""Two simulated weeks: the pipeline follows tools that drift, and its gate keeps out what poisoned logs teach."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

for _library in ("matplotlib", "phonenumbers", "stdnum", "email_validator"):
    pytest.importorskip(_library)


@pytest.fixture
def weeks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.delitem(sys.modules, "weeks", raising=False)
    import weeks

    return weeks


@pytest.mark.slow
def test_two_weeks_with_drift_and_then_with_poison(weeks: ModuleType, tmp_path: Path) -> None:
    plan = weeks.Plan(
        weeks=2,
        tokens=30_000,
        first_tokens=60_000,
        requests=40,
        tasks=50,
        learning_rate=2e-3,
        families=("track_number", "order_total"),
        drifts={1: ("rename_tool",)},
        poisoned=2,
        lies=800,
        logs=0.8,
    )
    drifted, poisoned = weeks.Weeks(tmp_path, plan).run()
    # Tools have other names: nobody can call them, until the pipeline has run.
    assert drifted["without"]["value"] < 0.7
    assert drifted["verdict"] == "promoted"
    assert drifted["candidate"]["low"] > drifted["without"]["value"]
    assert drifted["counts"]["filter"]["quarantined_by"]["outcome"] > 0
    # Poisoned logs pass the filters; what they teach does not pass the gate.
    assert poisoned["counts"]["filter"]["kept"] > 30
    assert poisoned["verdict"] == "rejected"
    assert poisoned["candidate"]["value"] < poisoned["with"]["value"] - 0.1
    assert weeks.Weeks(tmp_path, plan).registry.current == "0002"

    weeks.plot([drifted, poisoned], tmp_path / "weeks.svg")
    text = (tmp_path / "weeks.svg").read_text()
    assert "poisoned logs" in text
    assert "rename_tool" in text
