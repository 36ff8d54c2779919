"""Paired comparison: known differences come out, strata add up, and what is no pair is told."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from toolenv.cli import app
from toolenv.tools.errors import RecordError
from toolenv.training.comparison import compare, holm, render_comparison
from toolenv.training.evaluate import Evaluation, evaluate


@pytest.fixture(scope="module")
def oracle() -> Evaluation:
    return evaluate("crm", "oracle", n=250, families="all")


@pytest.fixture(scope="module")
def faulty() -> Evaluation:
    return evaluate("crm", "faulty:1.0", n=250, families="all")


def test_the_oracle_beats_its_faulty_self(oracle: Evaluation, faulty: Evaluation) -> None:
    result = compare(oracle, faulty)
    assert result.overall.success.value == pytest.approx(oracle.overall.success.value - faulty.overall.success.value)
    assert 0 < result.overall.success.low < result.overall.success.value < result.overall.success.high
    assert result.overall.p_value < 1e-9
    assert (result.overall.first_only, result.overall.second_only) == (round(result.overall.success.value * 250), 0)
    mirrored = compare(faulty, oracle)
    assert mirrored.overall.success.value == -result.overall.success.value
    assert mirrored.overall.success.low == pytest.approx(-result.overall.success.high)
    assert mirrored.overall.p_value == result.overall.p_value


def test_a_policy_is_not_better_than_itself(oracle: Evaluation) -> None:
    result = compare(oracle, oracle)
    assert result.overall.p_value == 1.0
    assert result.overall.success.low < 0.0 < result.overall.success.high


def with_outcomes(evaluation: Evaluation, outcomes: Sequence[str]) -> Evaluation:
    return replace(evaluation, outcomes={f"crm/a/{seed}": letters for seed, letters in enumerate(outcomes)})


def test_with_one_trial_it_is_mcnemar_s_exact_test(oracle: Evaluation) -> None:
    first, second = with_outcomes(oracle, ["1"] * 8 + ["0"] * 2), with_outcomes(oracle, ["0"] * 8 + ["1"] * 2)
    # 8 of 10 discordant pairs: 2 * P(X >= 8), X ~ Binomial(10, 1/2).
    assert compare(first, second).overall.p_value == pytest.approx(2 * (45 + 10 + 1) / 1024)


def test_repeated_trials_count_by_task(oracle: Evaluation) -> None:
    first, second = with_outcomes(oracle, ["1111"] * 3), with_outcomes(oracle, ["0000"] * 3)
    result = compare(first, second)
    assert (result.overall.success.value, result.overall.success.n, result.overall.first_only) == (1.0, 3, 12)
    assert result.overall.p_value == pytest.approx(2 / 8)


def test_lost_pairs_are_left_out(oracle: Evaluation) -> None:
    result = compare(with_outcomes(oracle, ["1", "-", "1"]), with_outcomes(oracle, ["0", "0", "-"]))
    assert (result.overall.success.n, result.overall.first_only) == (1, 1)


def test_other_tasks_are_not_compared(oracle: Evaluation) -> None:
    other = replace(oracle, config=replace(oracle.config, scenario_version="other"))
    with pytest.raises(ValueError, match="not the same tasks"):
        compare(oracle, other)
    with pytest.raises(ValueError, match="not evaluated on any task in common"):
        compare(oracle, replace(oracle, outcomes={"crm/a/1": "1"}))


one_trial = st.lists(st.tuples(st.sampled_from("01"), st.sampled_from("01")), min_size=1, max_size=40)


@given(pairs=one_trial)
def test_a_difference_lies_within_its_interval(oracle: Evaluation, pairs: list[tuple[str, str]]) -> None:
    first, second = zip(*pairs, strict=True)
    result = compare(with_outcomes(oracle, first), with_outcomes(oracle, second))
    assert -1 <= result.overall.success.low <= result.overall.success.value <= result.overall.success.high <= 1
    assert 0 < result.overall.p_value <= 1


def signs(units: Sequence[int]) -> float:
    """The sign-flip test by brute force."""
    sums = [abs(sum(u * s for u, s in zip(units, signs, strict=True))) for signs in product((1, -1), repeat=len(units))]
    return sum(total >= abs(sum(units)) for total in sums) / len(sums)


@given(tasks=st.lists(st.text("01", min_size=6, max_size=6), min_size=1, max_size=8))
def test_the_p_value_is_that_of_all_sign_flips(oracle: Evaluation, tasks: list[str]) -> None:
    first, second = [task[:3] for task in tasks], [task[3:] for task in tasks]
    units = [a.count("1") - b.count("1") for a, b in zip(first, second, strict=True)]
    found = compare(with_outcomes(oracle, first), with_outcomes(oracle, second)).overall.p_value
    assert found == pytest.approx(signs(units))


# -- strata --------------------------------------------------------------------------------------------


def test_strata_add_up(oracle: Evaluation, faulty: Evaluation) -> None:
    result = compare(oracle, faulty)
    for groups in (result.by_family, result.by_difficulty):
        assert sum(d.success.n for d in groups.values()) == 250
        assert sum(d.first_only for d in groups.values()) == result.overall.first_only
        total = sum(d.success.value * d.success.n for d in groups.values())
        assert total / 250 == pytest.approx(result.overall.success.value)
        assert all(d.p_adjusted >= d.p_value for d in groups.values())
    assert set(result.by_difficulty) == set(oracle.by_difficulty)
    assert set(result.by_family) == set(oracle.by_family)


def test_holm_is_the_known_correction() -> None:
    # Holm (1979) by hand: 4 * .01, 3 * .02, max(.06, 2 * .03), max(.06, .04)
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(p_values=st.lists(st.floats(0, 1), max_size=12))
def test_a_corrected_p_value_is_no_smaller_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_what_is_no_pair_is_told(oracle: Evaluation, faulty: Evaluation) -> None:
    fewer = replace(faulty, outcomes=dict(list(faulty.outcomes.items())[:100]))
    result = compare(oracle, fewer)
    assert (result.overall.success.n, result.unpaired) == (100, 150)
    other = replace(fewer, config=replace(fewer.config, toolenv_version="0.0.1", trials=3))
    notes = " ".join(compare(oracle, other).notes)
    assert "toolenv_version" in notes
    assert "trials: 1 and 3" in notes
    assert not compare(oracle, faulty).notes


# -- as a command --------------------------------------------------------------------------------------


def kept(evaluation: Evaluation, path: Path) -> str:
    path.write_bytes(evaluation.to_json())
    return str(path)


def test_the_command_prints_a_table_or_json(oracle: Evaluation, faulty: Evaluation, tmp_path: Path) -> None:
    files = [kept(oracle, tmp_path / "a.json"), kept(faulty, tmp_path / "b.json")]
    told = CliRunner().invoke(app, ["compare", *files], catch_exceptions=False)
    assert told.exit_code == 0
    assert "oracle minus faulty:1" in told.output
    assert "Holm" in told.output
    result = orjson.loads(CliRunner().invoke(app, ["compare", *files, "--json"], catch_exceptions=False).output)
    assert result == orjson.loads(compare(oracle, faulty).to_json())


def test_the_command_refuses_what_can_not_be_compared(oracle: Evaluation, tmp_path: Path) -> None:
    one = kept(oracle, tmp_path / "a.json")
    other = kept(replace(oracle, config=replace(oracle.config, scenario_version="other")), tmp_path / "b.json")
    with pytest.raises(ValueError, match="not the same tasks"):
        CliRunner().invoke(app, ["compare", one, other], catch_exceptions=False)
    cut = tmp_path / "cut.json"
    cut.write_bytes(oracle.to_json()[:-9])
    with pytest.raises(RecordError, match=r"cut\.json: "):
        CliRunner().invoke(app, ["compare", one, str(cut)], catch_exceptions=False)
    with pytest.raises(FileNotFoundError):
        CliRunner().invoke(app, ["compare", one, str(tmp_path / "none.json")], catch_exceptions=False)


def test_the_table_fits_a_small_terminal(oracle: Evaluation, faulty: Evaluation) -> None:
    stream = io.StringIO()
    render_comparison(compare(oracle, faulty), Console(file=stream, width=80))
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    assert all(name[:8] in stream.getvalue() for name in oracle.by_family)
