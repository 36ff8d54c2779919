"""The student's speed benchmark runs and prints each figure beside its floor. How fast it is, is not asserted here."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import pytest
import torch


def test_it_prints_every_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fresh_model: Path
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    import student_speed

    monkeypatch.setattr(student_speed, "rollout", functools.partial(student_speed.rollout, max_steps=1))
    sizes = [str(fresh_model), "--json", "-n", "2", "--batch", "2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["student_speed.py", *sizes])
    student_speed.main()
    rates = json.loads(capsys.readouterr().out)["tokens_per_cpu_s"]
    loops = [f"{way}, {turns} turns" for turns in ("first", "any") for way in ("bare loop", "decode")]
    assert list(rates) == [*loops, "episodes", "episodes, nothing kept", "episodes, grounded"]
    assert min(rates.values()) > 0
