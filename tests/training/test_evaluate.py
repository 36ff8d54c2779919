"""Evaluation on the shipped scenario: the oracle is perfect, faults show where they must, and records come back."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolenv.agents.faulty import Fault, FaultyPolicy
from toolenv.agents.intervals import wilson
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policy import Decision, Episode, Policy
from toolenv.agents.random_valid import RandomValidPolicy
from toolenv.agents.records import read_trajectories
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario, load_scenario
from toolenv.scenarios.sampler import Sampler
from toolenv.tools.errors import RecordError, SandboxLost, ScenarioError
from toolenv.tools.sandbox.embedded import EmbeddedSandbox
from toolenv.training.evaluate import Evaluation, evaluate
from toolenv.training.evaluation_tables import render_evaluation, render_table, rows_of
from toolenv.training.metrics import EpisodeMeasure, measure, summarize
from toolenv.training.selection import ANSWER


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario("crm")


@pytest.fixture(scope="module")
def oracle(scenario: Scenario) -> Evaluation:
    return evaluate(scenario, OraclePolicy(), n=250, families="all")


@pytest.fixture(scope="module")
def faulty(scenario: Scenario) -> Evaluation:
    return evaluate(scenario, "faulty:1.0", n=250, families="all")


# -- known policies ------------------------------------------------------------------------------------


def test_the_oracle_is_perfect(oracle: Evaluation) -> None:
    scores = oracle.overall
    assert (scores.success.value, scores.success.n) == (1.0, 250)
    assert scores.success.low == wilson(250, 250)[0]
    metrics = (scores.schema_validity, scores.tool_precision, scores.tool_recall, scores.tool_f1, scores.hallucination)
    assert [metric.value for metric in metrics if metric] == [1, 1, 1, 1, 0]
    assert all(due == chosen for due, row in scores.confusion.items() for chosen in row)
    assert scores.steps_per_solved is not None
    assert scores.steps_per_solved.value == scores.steps.value


def test_the_oracle_is_perfect_on_every_route(scenario: Scenario) -> None:
    """Ten trials at each family draw many wordings, alternatives and routes."""
    families = Sampler(scenario, "all").names
    attempts = [Attempt(900_000 + trial, name, trial) for name in families for trial in range(10)]
    for name, scores in _by_family(scenario, rollout(scenario, OraclePolicy(), attempts, families="all")).items():
        perfect = scores.tool_f1 is None or scores.tool_f1.value == 1.0
        assert perfect, f"{name}: the oracle's calls must be acceptable: {scores.confusion}"
        assert scores.hallucination is None or scores.hallucination.value == 0.0, f"{name}: the oracle made up an id"


def _by_family(scenario: Scenario, trajectories: Any) -> dict[str, Any]:
    measures: dict[str, list[EpisodeMeasure]] = {}
    for trajectory in trajectories:
        measures.setdefault(trajectory.family, []).append(_measure(scenario, trajectory))
    return {name: summarize(group) for name, group in measures.items()}


def _measure(scenario: Scenario, trajectory: Trajectory) -> EpisodeMeasure:
    task = Sampler(scenario, "all").task_of(trajectory.family, trajectory.seed)
    return measure(trajectory, scenario.toolbox, task)


def test_faults_lower_what_they_must(oracle: Evaluation, faulty: Evaluation) -> None:
    scores, best = faulty.overall, oracle.overall
    for worse, better in (
        (scores.success, best.success),
        (scores.schema_validity, best.schema_validity),
        (scores.tool_precision, best.tool_precision),
        (scores.tool_recall, best.tool_recall),
        (scores.tool_f1, best.tool_f1),
        (best.hallucination, scores.hallucination),
    ):
        assert worse is not None
        assert better is not None
        assert worse.high < better.low


def faulted(scenario: Scenario, kind: Fault) -> list[tuple[Trajectory, EpisodeMeasure]]:
    """Episodes that the faulty policy gave this fault, and their measures."""
    attempts = [Attempt(seed) for seed in range(900_000, 900_150)]
    episodes = rollout(scenario, FaultyPolicy({kind: 1.0}), attempts, families="all")
    pairs = [(trajectory, _measure(scenario, trajectory)) for trajectory in episodes if trajectory.faults]
    assert len(pairs) > 50
    return pairs


def mistakes(measured: EpisodeMeasure) -> dict[tuple[str, str], int]:
    return {cell: count for cell, count in measured.selection.items() if cell[0] != cell[1]}


def test_an_invented_argument_is_one_hallucination(scenario: Scenario) -> None:
    for trajectory, measured in faulted(scenario, Fault.INVENTED_ARGUMENT):
        assert measured.invented == len(trajectory.faults), f"{trajectory.id}: one value was made up"
        assert measured.valid == measured.calls, "an invented id is well-formed"


def test_a_malformed_call_is_one_invalid_call(scenario: Scenario) -> None:
    for trajectory, measured in faulted(scenario, Fault.MALFORMED_CALL):
        assert measured.calls - measured.valid == 1, f"{trajectory.id}: one call was malformed"
        assert measured.invented == 0
        assert set(mistakes(measured)) <= {(due, "(unreadable)") for due, _ in measured.selection}


def test_an_early_stop_is_one_missed_call(scenario: Scenario) -> None:
    for trajectory, measured in faulted(scenario, Fault.EARLY_STOP):
        assert [chosen for _, chosen in mistakes(measured)] == [ANSWER], f"{trajectory.id}: the answer came too early"
        assert sum(mistakes(measured).values()) == 1


def test_a_wrong_tool_is_at_most_one_superfluous_call(scenario: Scenario) -> None:
    pairs = faulted(scenario, Fault.WRONG_TOOL)
    assert all(sum(mistakes(measured).values()) <= 1 for _, measured in pairs)
    assert sum(len(mistakes(measured)) for _, measured in pairs) > 0.8 * len(pairs)


def test_a_skipped_step_is_missed(scenario: Scenario) -> None:
    pairs = faulted(scenario, Fault.SKIPPED_STEP)
    missed = [any(chosen != due for due, chosen in mistakes(measured)) for _, measured in pairs]
    assert sum(missed) > 0.95 * len(pairs)


@pytest.mark.parametrize("policy", [OraclePolicy(), FaultyPolicy(1.0), RandomValidPolicy()], ids=lambda p: str(p.name))
def test_every_call_is_one_decision(scenario: Scenario, policy: Policy) -> None:
    for trajectory in rollout(scenario, policy, [Attempt(seed) for seed in range(900_000, 900_100)], families="all"):
        measured = _measure(scenario, trajectory)
        assert sum(count for (_, chosen), count in measured.selection.items() if chosen != ANSWER) == measured.calls
        answers = sum(count for (_, chosen), count in measured.selection.items() if chosen == ANSWER)
        assert (answers > 0) == (trajectory.answer is not None)


# -- what an evaluation records ------------------------------------------------------------------------


def test_groups_add_up(oracle: Evaluation) -> None:
    for groups in (oracle.by_family, oracle.by_difficulty, oracle.by_exposure):
        assert sum(scores.episodes for scores in groups.values()) == 250
    assert set(oracle.by_exposure) == {"train", "unseen"}
    assert oracle.config.splits == {"test": 250}
    assert len(oracle.outcomes) == 250
    assert set(oracle.outcomes.values()) == {"1"}


def test_it_comes_back_from_json(faulty: Evaluation) -> None:
    back = Evaluation.from_json(faulty.to_json())
    assert back == faulty
    assert back.to_json() == faulty.to_json()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda text: text[:-20], "evaluation: "),
        (lambda text: text.replace(b'"schema_version":1', b'"schema_version":9'), "this is version 9"),
        (lambda text: text.replace(b'"trials":1', b'"trials":"1"'), r"config\.trials: "),
        (lambda text: text.replace(b'"trials":1', b'"tries":1'), r"config\.tr"),
        (lambda text: b"[]", "evaluation: "),
    ],
)
def test_damage_is_named(faulty: Evaluation, damage: Any, problem: str) -> None:
    with pytest.raises(RecordError, match=rf"^run\.json: .*{problem}"):
        Evaluation.from_json(damage(faulty.to_json()), "run.json")


def test_the_same_seeds_give_the_same_numbers_in_any_batch(scenario: Scenario) -> None:
    runs = [evaluate(scenario, "faulty:0.5", n=60, batch=batch, trials=2) for batch in (1, 7)]
    assert runs[0] == runs[1]
    assert len(runs[0].overall.pass_k) == 2
    assert runs[0].overall.success.n == 120
    assert {len(letters) for letters in runs[0].outcomes.values()} == {2}


@pytest.mark.slow
def test_the_same_seeds_give_the_same_numbers_in_two_processes(scenario: Scenario) -> None:
    alone = evaluate(scenario, "faulty:0.5", n=150)
    assert evaluate(scenario, FaultyPolicy(0.5), n=150, processes=2) == alone


def test_trajectories_are_kept_where_asked(scenario: Scenario, tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    evaluation = evaluate(scenario, "oracle", n=20, trajectories=path)
    kept = list(read_trajectories(path))
    assert {trajectory.task for trajectory in kept} == set(evaluation.outcomes)
    assert list(tmp_path.iterdir()) == [path]


def test_progress_is_told(scenario: Scenario) -> None:
    told: list[tuple[int, int]] = []
    evaluate(scenario, "oracle", n=5, trials=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 10) for done in range(1, 11)]


# -- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{"n": 0}, {"n": -3}, {"trials": 0}, {"batch": 0}, {"processes": 0}])
def test_numbers_below_one_are_refused(scenario: Scenario, bad: dict[str, Any]) -> None:
    name, number = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not {number}"):
        evaluate(scenario, "oracle", **bad)


def test_other_bad_input_is_named(scenario: Scenario) -> None:
    with pytest.raises(ValueError, match="seed_start must be at least 0"):
        evaluate(scenario, "oracle", seed_start=-1)
    with pytest.raises(ValueError, match="there is no policy 'nobody'"):
        evaluate(scenario, "nobody", n=1)
    with pytest.raises(ScenarioError, match="has no family 'nothing'"):
        evaluate(scenario, "oracle", families="nothing")


class LostSandbox(EmbeddedSandbox):
    """Fails at the first call of some episodes: of all, or of every other one."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.opened = every, 0

    def open(self, image: Any, toolbox: Any) -> Any:
        self.opened += 1
        return (
            _LostSession(super().open(image, toolbox))
            if self.opened % self.every == 0
            else super().open(image, toolbox)
        )


class _LostSession:
    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def call(self, name: str, arguments: Any) -> Any:
        raise SandboxLost("gone")


def test_lost_sandboxes_are_left_out_and_told(scenario: Scenario) -> None:
    evaluation = evaluate(scenario, "oracle", n=40, families="order_status", sandbox=LostSandbox(2))
    assert (evaluation.overall.episodes, evaluation.overall.lost) == (20, 20)
    assert evaluation.overall.success.value == 1.0
    assert sorted(evaluation.outcomes.values()) == ["-"] * 20 + ["1"] * 20
    with pytest.raises(SandboxLost, match="all 5 episodes"):
        evaluate(scenario, "oracle", n=5, families="order_status", sandbox=LostSandbox(1))


class Silent:
    """Answers at once."""

    name = "silent"

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        return [Decision({"answer": "No."}) for _ in episodes]


def test_a_policy_that_never_calls_has_no_validity(scenario: Scenario) -> None:
    scores = evaluate(scenario, Silent(), n=10, families="order_status").overall
    assert scores.schema_validity is None
    assert scores.hallucination is None
    assert scores.success.value == 0.0
    assert scores.steps_per_solved is None
    assert scores.tool_f1 is not None
    assert scores.tool_f1.value == 0.0


# -- showing -------------------------------------------------------------------------------------------


def shown(render: Any, what: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    render(what, console)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_the_table_sets_policies_side_by_side(oracle: Evaluation, faulty: Evaluation) -> None:
    text = shown(render_table, {"student": faulty, "[red]oracle": oracle})
    names = [line.split("  ")[1 if line.startswith("  ") else 0].strip() for line in text.splitlines()]
    names = [name for name in names if name in ("student", "[red]oracle") or name.startswith("families")]
    section = ["student", "[red]oracle"]  # a name is text, not markup
    assert names == ["families trained on", *section, "families never seen", *section]
    trained = oracle.by_exposure["train"].episodes
    assert f"1.000 [{wilson(trained, trained)[0]:.3f}, 1.000]" in text
    assert "a quarter of the characters" in text


def test_an_evaluation_shows_every_group(oracle: Evaluation) -> None:
    text = shown(render_evaluation, oracle)
    assert all(name in text for name, _ in oracle.groups())
    assert {len(row) for row in rows_of(oracle)} == {8}


def test_a_row_is_one_line_of_a_small_terminal(oracle: Evaluation, faulty: Evaluation) -> None:
    long = replace(oracle, config=replace(oracle.config, policy="a/very/long/path/of/some/student"))
    text = shown(render_evaluation, long)
    rows = [line for line in text.splitlines() if "[" in line]
    assert len(rows) == 1 + len(rows_of(oracle))
    assert all(line.count(".") >= 4 for line in rows[1:]), "no number is cut"
    assert "…" not in "".join(rows[1:])
    text = shown(render_table, {"a policy of a very long name": oracle, "student": faulty})
    rows = [line for line in text.splitlines() if "[" in line]
    assert len(rows) == 1 + 2 * 2
    assert max(map(len, text.splitlines())) <= 80


def test_it_works_in_the_light_core() -> None:
    code = (
        "import sys; import toolenv.training.evaluate as e; e.evaluate('crm', 'oracle', n=2);"
        "print({'torch', 'transformers', 'trl', 'scipy'} & {m.split('.')[0] for m in sys.modules})"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "set()"
