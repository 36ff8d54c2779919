"""The report about judges: of a judge whose errors are known it tells them, and of an exact one it finds none."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from rich.console import Console
from typer.testing import CliRunner

from toolenv.agents.equivalence import Label
from toolenv.agents.faulty import FaultyPolicy
from toolenv.agents.judge import ExactJudge, LLMJudge, NoisyJudge, Verdict
from toolenv.agents.records import write_jsonl
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.cli import app
from toolenv.envs.turn import Message
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.tools.errors import RecordError
from toolenv.training.calibration import Calibration, calibrate, render_calibration


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario("crm")


@pytest.fixture(scope="module")
def recorded(scenario: Scenario) -> list[Trajectory]:
    return list(rollout(scenario, FaultyPolicy(0.8), [Attempt(seed) for seed in range(400)]))


@pytest.fixture(scope="module")
def noisy(scenario: Scenario, recorded: list[Trajectory]) -> Calibration:
    return calibrate(scenario, recorded, NoisyJudge(0.9, 0.6, abstain=0.1))


def test_an_exact_judge_is_perfect(scenario: Scenario, recorded: list[Trajectory]) -> None:
    report = calibrate(scenario, recorded[:100], ExactJudge())
    for metric in (report.agreement, report.kappa, report.bad_precision, report.bad_recall):
        assert metric is not None
        assert metric.value == 1.0
    assert report.abstained.value == 0.0
    assert all(s.bias is not None and s.bias.value == 0 for s in report.by_tool.values())
    assert report.steps + report.unsolvable == sum(len(t.steps) for t in recorded[:100])


def test_known_errors_come_out(noisy: Calibration) -> None:
    counts = noisy.confusion
    bad = [counts[label.value] for label in Label if not label.right]
    good = [counts[label.value] for label in Label if label.right]
    n_bad, n_good = sum(sum(row.values()) for row in bad), sum(sum(row.values()) for row in good)
    assert n_bad > 150
    assert noisy.abstained.low <= 0.1 <= noisy.abstained.high
    assert noisy.bad_recall is not None
    assert noisy.bad_recall.n == n_bad
    assert noisy.bad_recall.low <= 0.9 * 0.6 <= noisy.bad_recall.high
    # What the chances make of precision, agreement and kappa at the share of bad steps that there is.
    share = n_bad / (n_bad + n_good)
    caught, false = 0.6 * share, 0.1 * (1 - share)
    agreement = caught + 0.9 * (1 - share)
    chance = share * (caught + false) + (1 - share) * (1 - caught - false)
    for metric, truth in (
        (noisy.bad_precision, caught / (caught + false)),
        (noisy.agreement, agreement),
        (noisy.kappa, (agreement - chance) / (1 - chance)),
    ):
        assert metric is not None
        assert metric.low <= truth <= metric.high


def test_the_numbers_follow_from_the_confusion(noisy: Calibration) -> None:
    counts = noisy.confusion
    tp, fn = (sum(counts[x][v] for x in ("wasteful", "wrong")) for v in ("bad", "good"))
    fp, tn = (sum(counts[x][v] for x in ("preferred", "acceptable")) for v in ("bad", "good"))
    n = tp + fn + fp + tn
    observed, chance = (tp + tn) / n, ((tp + fn) * (tp + fp) + (fp + tn) * (fn + tn)) / n**2
    assert noisy.agreement is not None
    assert noisy.agreement.value == pytest.approx(observed)
    assert noisy.kappa is not None
    assert noisy.kappa.value == pytest.approx((observed - chance) / (1 - chance))
    assert noisy.bad_precision is not None
    assert noisy.bad_precision.value == pytest.approx(tp / (tp + fp))
    assert sum(sum(row.values()) for row in counts.values()) == noisy.steps


def test_strata_hold_every_step_once(noisy: Calibration) -> None:
    for strata in (noisy.by_position, noisy.by_length, noisy.by_tool):
        assert sum(stratum.steps for stratum in strata.values()) == noisy.steps
        assert noisy.agreement is not None
        right = sum(s.agreement.value * s.agreement.n for s in strata.values() if s.agreement)
        assert right / noisy.agreement.n == pytest.approx(noisy.agreement.value)
    assert list(noisy.by_position) == ["1", "2", "3", "4", "5+"]
    assert 2 <= len(noisy.by_length) <= 4


class EndsAreBad:
    """Calls every answer bad and everything else good: a bias by position and by kind of step."""

    def complete(self, messages: Sequence[Message]) -> str:
        step = messages[1]["content"].split("# The step to judge\n")[1]
        return "BAD: an answer." if step.startswith("AGENT answers") else "GOOD"


def test_a_bias_shows_where_it_is(scenario: Scenario, recorded: list[Trajectory]) -> None:
    report = calibrate(scenario, recorded, LLMJudge(EndsAreBad(), "ends are bad"))
    answers = report.by_tool["(answer)"].bias
    assert answers is not None
    assert answers.low > 0.3, "too strict on answers"
    unreadable = report.by_tool["(unreadable)"].bias
    assert unreadable is not None
    assert unreadable.value == -1.0, "every unreadable text is bad, and it calls each good"


def test_a_judge_that_talks_nonsense_abstains(scenario: Scenario, recorded: list[Trajectory]) -> None:
    class Nonsense:
        def complete(self, messages: Sequence[Message]) -> str:
            return "\x00}{ ??? 🤖"

    report = calibrate(scenario, recorded[:20], LLMJudge(Nonsense(), "nonsense"))
    assert report.abstained.value == 1.0
    assert (report.agreement, report.kappa, report.bad_precision) == (None, None, None)
    assert report.bad_recall is not None
    assert report.bad_recall.value == 0.0
    assert all(s.agreement is None and s.bias is None for s in report.by_tool.values())
    assert "–" in shown(report)


def test_always_good_has_no_kappa_beyond_chance(scenario: Scenario, recorded: list[Trajectory]) -> None:
    report = calibrate(scenario, recorded[:100], LLMJudge(Always("GOOD"), "always good"))
    assert report.kappa is not None
    assert report.kappa.value == pytest.approx(0, abs=1e-12)
    clean = [t for t in recorded if not t.faults][:20]
    assert calibrate(scenario, clean, LLMJudge(Always("GOOD"), "always good")).kappa is None, "nothing varies"


class Always:
    """Says one thing; keeps how many were asked at once."""

    def __init__(self, reply: str, at_once: int = 1) -> None:
        self._reply, self._together = reply, threading.Barrier(at_once)

    def complete(self, messages: Sequence[Message]) -> str:
        self._together.wait(timeout=20)
        return self._reply


def test_a_judge_can_be_asked_about_several_steps_at_once(scenario: Scenario, recorded: list[Trajectory]) -> None:
    two_steps = [t for t in recorded if len(t.steps) == 2][:8]
    report = calibrate(scenario, two_steps, LLMJudge(Always("GOOD", at_once=4), "four"), concurrency=4)
    assert report.steps == 16
    alone = calibrate(scenario, recorded[:60], NoisyJudge(0.8, 0.8))
    assert calibrate(scenario, recorded[:60], NoisyJudge(0.8, 0.8), concurrency=3) == alone


def test_what_can_not_be_calibrated_is_named(scenario: Scenario, recorded: list[Trajectory]) -> None:
    with pytest.raises(RecordError, match="of crm at version other; here is crm"):
        calibrate(scenario, [replace(recorded[0], scenario_version="other")], ExactJudge())
    with pytest.raises(ValueError, match="no step to judge: 0 episodes"):
        calibrate(scenario, [], ExactJudge())
    lost = replace(recorded[0], steps=(), success=False, truncated=True, sandbox_lost=True)
    with pytest.raises(ValueError, match="no step to judge: 1 episodes"):
        calibrate(scenario, [lost], ExactJudge())
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        calibrate(scenario, recorded, ExactJudge(), concurrency=0)


def shown(report: Calibration) -> str:
    stream = io.StringIO()
    render_calibration(report, Console(file=stream, width=80))
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    return stream.getvalue()


def test_the_report_is_shown(noisy: Calibration) -> None:
    text = shown(noisy)
    assert all(
        name in text for name in ("Cohen's kappa", "recall of BAD", "exact label", "bias", "step 5+", "(answer)")
    )
    assert noisy.agreement is not None
    assert f"{noisy.agreement.value:.2f} [{noisy.agreement.low:.2f}" in text
    assert set(noisy.confusion["wrong"]) == {verdict.value for verdict in Verdict}


def test_the_command_keeps_and_prints(recorded: list[Trajectory], tmp_path: Path) -> None:
    data, kept = tmp_path / "data.jsonl", tmp_path / "reports" / "judge.json"
    write_jsonl(recorded[:60], data)
    arguments = ["calibrate", str(data), "--judge", "noisy:0.9", "-n", "40", "--json", "-o", str(kept)]
    told = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert told.exit_code == 0
    assert orjson.loads(told.output) == orjson.loads(kept.read_bytes())
    assert orjson.loads(told.output)["episodes"] == 40
    with pytest.raises(ValueError, match="there is no judge"):
        CliRunner().invoke(app, ["calibrate", str(data), "--judge", "nobody"], catch_exceptions=False)
