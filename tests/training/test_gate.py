"""The gate: who is not worse passes; who is worse overall, or in one family, does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.faulty import FaultyPolicy
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policy import Decision
from toolenv.scenarios.loading import load_scenario
from toolenv.scenarios.splits import FIRST_TEST_SEED, Split, split_of
from toolenv.training.gate import VERDICT_FILE, GateReport, GateSettings, run_gate

FAMILIES = ("order_status", "stock_check", "customer_tier", "cancel_order", "track_number")


class WorseIn:
    """The oracle, but of one family it answers at once."""

    name = "worse"

    def __init__(self, family):
        self.family, self.oracle = family, OraclePolicy()

    def act(self, episodes):
        decisions = self.oracle.act(episodes)
        at_once = Decision({"answer": "Done."})
        return [
            at_once if episode.task.family_name == self.family else decision
            for episode, decision in zip(episodes, decisions, strict=True)
        ]


def gate(out, candidate, current, **settings):
    return run_gate(
        load_scenario("crm"),
        {"candidate": candidate, "current": current},
        out,
        GateSettings(**{"n": 100, "recheck": 16, **settings}),
        families=FAMILIES,
        number=1,
    )


def test_an_equal_candidate_passes(tmp_path):
    report = gate(tmp_path, lambda: FaultyPolicy(0.3), lambda: FaultyPolicy(0.3))
    assert report.passed
    assert report.difference.value == 0
    assert GateReport.read(tmp_path / VERDICT_FILE) == report


def test_a_worse_candidate_does_not_pass_and_a_better_one_does(tmp_path):
    worse = gate(tmp_path / "worse", lambda: FaultyPolicy(0.5), OraclePolicy, family_bound=1.0)
    assert not worse.passed
    assert "not all above -0.050" in worse.reasons[0]
    assert gate(tmp_path / "better", OraclePolicy, lambda: FaultyPolicy(0.5)).passed


def test_one_ruined_family_stops_a_candidate_that_is_sound_overall(tmp_path):
    report = gate(tmp_path, lambda: WorseIn("stock_check"), OraclePolicy, bound=0.5)
    assert not report.passed
    assert report.difference.low > -0.5
    (check,) = report.families
    assert check.family == "stock_check"
    assert check.lost == check.difference.n == 16
    assert check.p_value < 0.001
    assert "family stock_check: 16 lost and 0 won of 16 fresh tasks" in report.reasons[1]


def test_a_family_that_looks_worse_by_chance_is_acquitted_by_fresh_tasks(tmp_path):
    """Two equally faulty policies, whose faults fall on different tasks."""
    report = gate(tmp_path, lambda: FaultyPolicy(0.5), lambda: Shifted(FaultyPolicy(0.5)), bound=1.0, n=40)
    assert report.families
    assert not any(check.worse for check in report.families)
    assert report.passed


class Shifted:
    """A policy whose randomness is that of another trial."""

    name = "shifted"

    def __init__(self, policy):
        self.policy = policy

    def act(self, episodes):
        views = [type(episode)(episode.env, episode.trial + 1, episode.memory) for episode in episodes]
        return self.policy.act(views)


def test_evaluations_that_are_there_are_not_made_again(tmp_path):
    report = gate(tmp_path, OraclePolicy, OraclePolicy)

    def never():
        raise AssertionError("made")

    assert gate(tmp_path, never, never) == report


@given(st.integers(0, 10_000), st.integers(1, 2_000), st.integers(1, 100))
def test_its_tasks_are_validation_tasks_and_other_ones_in_the_next_run(number, n, recheck):
    settings = GateSettings(n=n, recheck=recheck)
    first = settings.first_seed(number)
    assert {split_of(first), split_of(first + n + recheck - 1)} == {Split.VALIDATION}
    assert first + n + recheck <= FIRST_TEST_SEED
    after = settings.first_seed(number + 1)
    assert after >= first + n + recheck or after < first


@pytest.mark.parametrize("field", ["n", "recheck"])
def test_numbers_below_one_are_refused(field):
    with pytest.raises(ValueError, match=field):
        GateSettings(**{field: 0})
