"""Fitting a cascade on policies whose errors are known: doubt, thresholds and costs against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from toolenv.agents.cascade import CascadeFile, CascadePolicy, Prices, Spent, handed_over, spent_by
from toolenv.agents.doubt import FEATURES, Familiar
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policies import make_policy
from toolenv.agents.policy import Decision, Episode
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.teacher import TeacherPolicy
from toolenv.cli import app
from toolenv.scenarios.loading import Scenario
from toolenv.training.cascade import CascadeSettings, fit_cascade
from toolenv.training.doubt import (
    NothingToFit,
    Observation,
    Observed,
    doubt_quality,
    fit_doubt,
    observations,
    risk_coverage,
)
from toolenv.training.sweep import Outcome, Sweep, choose, swept, tried

FIRST = 800_000


class Wavers:
    """The oracle; in one task of four it answers wrongly at its second turn, and its odds tell of it."""

    name = "wavers"

    def __init__(self) -> None:
        self.oracle = OraclePolicy(vary=False)

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        return [self._decide(episode) for episode in episodes]

    def _decide(self, episode: Episode) -> Decision:
        turn = episode.memory["turn"] = episode.memory.get("turn", -1) + 1
        if turn == 1 and errs(episode.task.seed):
            return Decision({"answer": "No."}, token_ids=(1,), logprobs=(-1.0,))
        (decision,) = self.oracle.act([episode])
        return Decision(decision.action, token_ids=(1,), logprobs=(-0.01,))


def errs(seed: int) -> bool:
    return Random(seed).random() < 0.25


def failing(crm: Scenario, seeds: range) -> set[int]:
    """Where `Wavers` does not succeed; a task of one step has no second turn to err at."""
    return {t.seed for t in rollout(crm, Wavers(), map(Attempt, seeds), families="all") if not t.success}


def test_a_fit_keeps_the_frontiers_success_at_the_price_of_the_errors(crm: Scenario, tmp_path: Path) -> None:
    tiers = ("wavers", Wavers()), ("teacher", TeacherPolicy())
    fitted = fit_cascade(crm, *tiers, tmp_path, CascadeSettings(FIRST, 120, taught=50))
    frontier, *_, small = fitted.table
    wrong = len(failing(crm, range(FIRST + 60, FIRST + 120))) / 60
    assert (frontier.success.value, frontier.relative.value) == (1, 1)
    assert small.success.value == pytest.approx(1 - wrong)
    assert fitted.chosen.success.value == 1
    assert fitted.chosen.episodes.value == pytest.approx(wrong), "just those that err"
    assert fitted.chosen.relative.value < wrong + 0.05
    assert fitted.quality.auc == 1
    file = CascadeFile.read(tmp_path / "cascade.json")
    assert file.threshold == fitted.chosen.threshold
    others = range(FIRST + 200, FIRST + 260)
    failed = failing(crm, others)
    for t in rollout(crm, file.policy(Wavers(), TeacherPolicy()), map(Attempt, others), families="all"):
        assert t.success
        assert handed_over(t) == (1 if t.seed in failed else None)


def test_a_sweep_tells_what_the_cascade_does_when_it_is_run(crm: Scenario) -> None:
    """At every threshold, for a policy whose faults are of all kinds."""
    small = make_policy("faulty:0.9")
    attempts = [Attempt(seed) for seed in range(FIRST, FIRST + 60)]
    observed = list(rollout(crm, Observed(small, Familiar()), attempts, families="all"))
    doubt = fit_doubt(observations(observed), Familiar())
    sweep = Sweep(crm, [(t, [doubt(s.labels["features"]) for s in t.steps]) for t in observed], TeacherPolicy())
    thresholds = sweep.thresholds(6)
    assert len(thresholds) > 3
    for threshold in thresholds:
        expected = sweep.outcomes(threshold)
        run = rollout(crm, CascadePolicy(small, TeacherPolicy(), doubt, threshold), attempts, families="all")
        for t in run:
            told = expected[t.task, t.trial]
            assert (told.success, told.spent) == (t.success, spent_by(t.steps))
            assert told.handed == (handed_over(t) is not None)


def test_the_table_is_in_order_and_the_choice_is_the_cheapest_that_does(crm: Scenario) -> None:
    attempts = [Attempt(seed) for seed in range(FIRST, FIRST + 60)]
    observed = list(rollout(crm, Observed(make_policy("faulty:0.9"), Familiar()), attempts, families="all"))
    doubt = fit_doubt(observations(observed), Familiar())
    sweep = Sweep(crm, [(t, [doubt(s.labels["features"]) for s in t.steps]) for t in observed], TeacherPolicy())
    table = swept(sweep, sweep.thresholds(8), Prices(), 0.9)
    assert [row.name for row in table] == ["frontier", *["cascade"] * (len(table) - 2), "small"]
    handed = [row.episodes.value for row in table]
    assert handed == sorted(handed, reverse=True), "a higher threshold hands over no more"
    chosen = choose(table)
    assert chosen.reached
    assert all(row.cost >= chosen.cost for row in table if row.reached)


def test_steps_that_come_after_an_end_of_all_hope_are_not_counted(crm: Scenario) -> None:
    attempts = [Attempt(seed) for seed in range(FIRST, FIRST + 40)]
    right = list(rollout(crm, Observed(OraclePolicy(), Familiar()), attempts, families="all"))
    assert all(step.right for step in observations(right))
    assert len(observations(right)) == sum(len(t.steps) for t in right)


def test_nothing_is_fitted_to_a_policy_without_error(crm: Scenario, tmp_path: Path) -> None:
    tiers = ("oracle", OraclePolicy()), ("teacher", TeacherPolicy())
    with pytest.raises(NothingToFit, match="all are right"):
        fit_cascade(crm, *tiers, tmp_path, CascadeSettings(FIRST, 20, taught=5))
    with pytest.raises(NothingToFit, match="there are none"):
        fit_doubt([], Familiar())


def test_doubt_is_calibrated_where_the_model_is_right() -> None:
    """Steps whose chance to be wrong is logistic in one feature: it is found again."""
    rng = np.random.default_rng(0)
    values = rng.random(6_000)
    wrong = rng.random(6_000) < 1 / (1 + np.exp(3 - 4 * values))
    steps = [
        Observation(dict.fromkeys(FEATURES, 0.0) | {"novelty": float(v)}, not w)
        for v, w in zip(values, wrong, strict=True)
    ]
    doubt = fit_doubt(steps[:4_000], Familiar())
    assert doubt.intercept == pytest.approx(-3, abs=0.3)
    assert doubt.weights["novelty"] == pytest.approx(4, abs=0.4)
    quality = doubt_quality([doubt(s.features) for s in steps[4_000:]], [not s.right for s in steps[4_000:]])
    assert quality.calibration_error < 0.03
    assert quality.brier < quality.brier_of_rate
    assert sum(bin_.wrong.n for bin_ in quality.bins) == quality.steps == 2_000


def test_a_fit_to_steps_that_can_be_told_apart_stays_finite() -> None:
    rows = [Observation(dict.fromkeys(FEATURES, 0.0) | {"invalid": float(i % 2)}, i % 2 == 0) for i in range(50)]
    doubt = fit_doubt(rows, Familiar())
    assert doubt(rows[0].features) < 0.1 < 0.9 < doubt(rows[1].features)


_STEPS = st.lists(st.tuples(st.sampled_from((0.0, 0.1, 0.2, 0.5, 0.9)), st.booleans()), min_size=1, max_size=60)


@given(_STEPS)
def test_risk_coverage_ends_in_the_rate_and_counts_errors_up(steps: list[tuple[float, bool]]) -> None:
    doubts, wrong = zip(*steps, strict=True)
    curve = risk_coverage(doubts, wrong)
    coverages = [coverage for coverage, _ in curve]
    assert coverages == sorted(set(coverages))
    assert curve[-1] == (1.0, sum(wrong) / len(wrong))
    errors = [coverage * risk for coverage, risk in curve]
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(errors))


@given(st.integers(0, 30), st.integers(1, 30))
def test_the_curve_of_perfect_doubt_never_falls(wrong: int, right: int) -> None:
    outcomes = [False] * right + [True] * wrong
    risks = [risk for _, risk in risk_coverage([i / 100 for i in range(len(outcomes))], outcomes)]
    assert risks == sorted(risks)
    assert risks[right - 1] == 0


def test_cost_beside_the_frontiers() -> None:
    frontier = {i: Outcome(True, Spent(0, 0, 100, 2), True, 2.0) for i in range(10)}
    mine = {i: Outcome(i > 0, Spent(100, 2), False, 0.5) for i in range(9)}
    row = tried("cascade", 0.5, mine, frontier, Prices(), 0.9)
    assert row.relative.value == pytest.approx(0.01)
    assert (row.success.value, row.success.n) == (pytest.approx(8 / 9), 9)
    assert (row.episodes.value, row.steps.value, row.seconds) == (0, 0, 0.5)
    assert not row.reached
    with pytest.raises(NothingToFit, match="no episode kept its sandbox"):
        tried("cascade", 0.5, {}, frontier, Prices(), 0.9)


@pytest.mark.parametrize(("changes", "rule"), [({"n": 0}, "n must be at least 1"), ({"target": 2.0}, "within 0 to 1")])
def test_settings_that_make_no_sense(changes: dict[str, float], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        CascadeSettings(FIRST, **changes)  # type: ignore[arg-type]  # by name


def test_the_commands_write_what_they_say(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = str(tmp_path / "cascade")
    run = CliRunner()
    fitted = run.invoke(app, ["cascade", "fit", "crm", "--small", "faulty:0.5", "-n", "80", "-o", folder])
    assert fitted.exit_code == 0, fitted.output
    assert "calibration error" in fitted.output
    file = ["--cascade", f"{folder}/cascade.json"]
    told = run.invoke(app, ["cascade", "report", "crm", *file, "-n", "20", "--thresholds", "3"])
    assert told.exit_code == 0, told.output
    for place in ("pareto.svg", "doubt.svg", "fit.json", "report/report.json", "report/pareto.svg", "report/doubt.svg"):
        assert (tmp_path / "cascade" / place).stat().st_size > 0
    evaluated = run.invoke(app, ["evaluate", "crm", "--policy", f"cascade:{folder}/cascade.json", "-n", "4", "--json"])
    assert evaluated.exit_code == 0, evaluated.output
    assert "+teacher@" in evaluated.output
