"""The speed benchmark runs and prints each figure beside its floor. How fast it is, is not asserted here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("form", [["--json"], []])
def test_it_prints_every_figure(monkeypatch, capsys, form):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None, raising=False)
    import env_speed

    monkeypatch.setattr(sys, "argv", ["env_speed.py", "--repeats", "1", *form])
    env_speed.main()
    printed = capsys.readouterr().out
    for name in ("read step", "write step", "mix 70/30", "reset(seed=)", "fork", "snapshot", "restore", "episode"):
        assert name in printed
    if form:
        figures = json.loads(printed)["figures"]
        assert all(0 < figure["best_us"] <= figure["median_us"] and figure["floor_us"] > 0 for figure in figures)
