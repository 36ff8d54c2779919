"""A cascade hands over on doubt, and the record says who decided; teachers take over at any state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.cascade import (
    DOUBT,
    FRONTIER,
    IN_VAIN,
    SMALL,
    TIER,
    CascadeError,
    CascadeFile,
    CascadePolicy,
    Price,
    Prices,
    Spent,
    handed_over,
    spent_by,
)
from toolenv.agents.collect import collect
from toolenv.agents.dataset import DatasetMismatch
from toolenv.agents.doubt import FEATURES, Doubt, Familiar, features_of, request_runs
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.policies import endpoints_of, is_model, make_policy, settings_of
from toolenv.agents.policy import Decision, Episode, Policy, PolicyStopped
from toolenv.agents.replay import Replayer
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.teacher import GIVE_UP, TeacherPolicy
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import Scenario

ATTEMPTS = [Attempt(seed) for seed in range(800_000, 800_040)]


def doubt_of(**weights: float) -> Doubt:
    """Near 0 but for what is given: log-odds of -5 plus these."""
    return Doubt(intercept=-5.0, weights=dict.fromkeys(FEATURES, 0.0) | weights)


UNREADABLE = doubt_of(unreadable=10.0)


class Errs:
    """The oracle, but what it writes at the turn of a number (from 0) can not be read."""

    name = "errs"

    def __init__(self, turn: int) -> None:
        self.oracle, self.turn = OraclePolicy(vary=False), turn

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        return [self._decide(episode) for episode in episodes]

    def _decide(self, episode: Episode) -> Decision:
        turn = episode.memory["turn"] = episode.memory.get("turn", -1) + 1
        (decision,) = self.oracle.act([episode]) if turn < self.turn else [Decision("nonsense")]
        return decision


def play(scenario: Scenario, policy: Policy, attempts: Sequence[Attempt] = ATTEMPTS) -> list[Trajectory]:
    done = rollout(scenario, policy, attempts, families="all")
    return sorted(done, key=lambda trajectory: (trajectory.seed, len(trajectory.steps)))


def bare(trajectory: Trajectory) -> Trajectory:
    """What replays, without who did it and labels."""
    steps = tuple(replace(step, labels={}) for step in trajectory.steps)
    return replace(trajectory.without_timing(), steps=steps, policy="", id="")


# -- the teacher -------------------------------------------------------------------------------------------


def test_a_teacher_solves_every_task(scenario: Scenario) -> None:
    assert all(t.success for t in play(scenario, TeacherPolicy()))


def test_a_teacher_takes_over_at_any_state(scenario: Scenario) -> None:
    """After every prefix of the oracle's episodes, whose routes and words vary."""
    oracle = play(scenario, OraclePolicy())
    attempts = [
        Attempt(t.seed, t.family, prefix=tuple(step.action for step in t.steps[:k]))
        for t in oracle
        for k in range(len(t.steps))
    ]
    assert len(attempts) > len(oracle)
    assert all(t.success for t in play(scenario, TeacherPolicy(), attempts))


def test_a_teacher_says_so_where_nothing_helps_any_more(scenario: Scenario) -> None:
    order = play(scenario, OraclePolicy(), [Attempt(7, "cancel_order")])[0]
    cancel = next(step.action for step in order.steps if step.tool == "cancel_order")
    spoilt = {**cancel, "arguments": {**cancel["arguments"], "reason": _other(cancel["arguments"]["reason"])}}
    before = next(i for i, step in enumerate(order.steps) if step.tool == "cancel_order")
    prefix = (*(step.action for step in order.steps[:before]), spoilt)
    (after,) = play(scenario, TeacherPolicy(), [Attempt(7, "cancel_order", prefix=prefix)])
    assert after.answer == GIVE_UP
    assert after.steps[-1].labels == {"gave_up": True}
    assert not after.success


def _other(reason: str) -> str:
    return "late" if reason != "late" else "changed_mind"


# -- handing over ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_it_hands_over_at_the_step_in_doubt_and_before_it_is_taken(scenario: Scenario, turn: int) -> None:
    trajectories = play(scenario, CascadePolicy(Errs(turn), TeacherPolicy(), UNREADABLE, 0.5))
    assert all(t.success for t in trajectories)
    for trajectory in trajectories:
        tiers = [step.labels[TIER] for step in trajectory.steps]
        own = min(turn, len(tiers))
        assert tiers == [SMALL] * own + [FRONTIER] * (len(tiers) - own), "it keeps the rest of the episode"
        assert all(step.error != "malformed_call" for step in trajectory.steps), (
            "what can not be read was not carried out"
        )
        assert handed_over(trajectory) == (turn if turn < len(tiers) else None)
        for index, step in enumerate(trajectory.steps):
            assert (DOUBT in step.labels) == (index <= turn)
            assert (IN_VAIN in step.labels) == (index == turn)


def test_a_record_replays_after_a_hand_over(scenario: Scenario) -> None:
    trajectories = play(scenario, CascadePolicy(Errs(1), TeacherPolicy(), UNREADABLE, 0.5))
    replayer = Replayer(scenario)
    assert all(replayer.replay(trajectory).same for trajectory in trajectories)
    assert [Trajectory.from_json(t.to_json()) for t in trajectories] == trajectories


def test_threshold_0_is_the_frontier_alone(scenario: Scenario) -> None:
    cascade = play(scenario, CascadePolicy(Never(), TeacherPolicy(), UNREADABLE, 0))
    assert [bare(t).to_json() for t in cascade] == [bare(t).to_json() for t in play(scenario, TeacherPolicy())]
    assert all(step.labels[TIER] == FRONTIER for t in cascade for step in t.steps)


def test_threshold_1_is_the_small_one_alone(scenario: Scenario) -> None:
    small = make_policy("faulty:0.9")
    cascade = play(scenario, CascadePolicy(small, Never(), doubt_of(), 1))
    assert [bare(t).to_json() for t in cascade] == [bare(t).to_json() for t in play(scenario, small)]
    assert all(handed_over(t) is None for t in cascade)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(ValueError, match="within 0 to 1"):
        CascadePolicy(Never(), Never(), doubt_of(), threshold)


class Never:
    """Must not be asked."""

    name = "never"

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        raise AssertionError(f"asked about {len(episodes)} episodes")


class Stops:
    """Decides for the first episode that it is asked about and is stopped."""

    name = "stops"

    def act(self, episodes: Sequence[Episode]) -> list[Decision]:
        stopped = PolicyStopped("the budget is spent")
        stopped.decided = [*TeacherPolicy().act(episodes[:1]), *[None] * (len(episodes) - 1)]
        raise stopped


def test_where_a_tier_is_stopped_what_was_decided_is_kept(scenario: Scenario) -> None:
    envs = [ToolEnv(scenario) for _ in range(3)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    episodes = [Episode(env) for env in envs]
    with pytest.raises(PolicyStopped) as caught:
        CascadePolicy(Errs(0), Stops(), UNREADABLE, 0.5).act(episodes)
    assert [decision is not None for decision in caught.value.decided] == [True, False, False]
    with pytest.raises(PolicyStopped) as caught:
        CascadePolicy(Stops(), Never(), doubt_of(), 0.5).act([Episode(env) for env in envs])
    assert [decision is not None for decision in caught.value.decided] == [True, False, False]


# -- what is seen of a step ---------------------------------------------------------------------------------------


def seen(scenario: Scenario, action: object, familiar: Familiar = Familiar(), **decision: object) -> dict[str, float]:  # noqa: B008
    env = ToolEnv(scenario)
    env.reset(options={"family": "order_status"}, seed=3)
    return features_of(Episode(env), Decision(action, **decision), familiar)  # type: ignore[arg-type]  # by the tests


def test_features_of_bad_calls(scenario: Scenario) -> None:
    assert seen(scenario, "nonsense")["unreadable"] == 1
    assert seen(scenario, {"name": "nothing", "arguments": {}})["invalid"] == 1
    assert seen(scenario, {"name": "get_order_status", "arguments": {"order_id": 5}})["invalid"] == 1
    made_up = seen(scenario, {"name": "get_order_status", "arguments": {"order_id": "ORD-99999"}})
    assert (made_up["invalid"], made_up["unshown"]) == (0, 1)
    assert seen(scenario, {"answer": "It costs 12.34."})["unshown"] == 1
    assert seen(scenario, {"answer": "I do not know."})["unshown"] == 0


def test_odds_are_those_of_the_act(scenario: Scenario) -> None:
    logprobs = (-3.0, -0.5, -0.1, 0.0)
    found = seen(scenario, {"answer": "no"}, token_ids=(1, 2, 3, 4), logprobs=logprobs, act_token=2)
    assert found["odds_unknown"] == 0
    assert found["act_least"] == pytest.approx(0.0951626)
    assert found["act_mean"] == pytest.approx(0.05)
    assert found["reason_least"] == pytest.approx(0.9502129)
    assert seen(scenario, {"answer": "no"})["odds_unknown"] == 1, "an endpoint tells none"


def test_what_was_trained_on_is_familiar(scenario: Scenario) -> None:
    taught = play(scenario, OraclePolicy(vary=False), [Attempt(seed, "order_status") for seed in range(30)])
    familiar = Familiar.of(taught, scenario.toolbox)
    first = taught[0].steps[0]
    request = taught[0].instruction
    assert familiar.novelty(request) == 0
    assert familiar.novelty("Write me a poem about the sea, would you?") == 1
    env = ToolEnv(scenario)
    env.reset(options={"task": taught[0].task})
    assert features_of(Episode(env), Decision(first.action), familiar)["unusual"] == 0
    assert features_of(Episode(env), Decision({"answer": "Done."}), familiar)["unusual"] == 1


def test_runs_hide_what_differs_from_task_to_task() -> None:
    one = request_runs("Please refund ORD-00001 to Anna Smith.")
    assert one == request_runs("Please refund ORD-00417 to Bob Jones.")
    assert one != request_runs("Please cancel ORD-00001 of Anna Smith.")
    assert request_runs("") == ["^ $"]


@given(st.text(), st.lists(st.text(), max_size=3))
def test_novelty_is_a_share(request: str, known: list[str]) -> None:
    runs = tuple(run for text in known for run in request_runs(text))
    assert 0 <= Familiar(runs=runs).novelty(request) <= 1
    assert Familiar(runs=tuple(request_runs(request))).novelty(request) == 0


@given(st.dictionaries(st.sampled_from(FEATURES), st.floats(-1e6, 1e6)), st.floats(-1e3, 1e3))
def test_doubt_is_never_quite_sure(weights: dict[str, float], intercept: float) -> None:
    """So that 0 and 1 as thresholds are the tiers alone."""
    doubt = Doubt(intercept=intercept, weights=dict.fromkeys(FEATURES, 0.0) | weights)
    assert 0 < doubt(dict.fromkeys(FEATURES, 1.0)) < 1


# -- what it costs --------------------------------------------------------------------------------------------------

_SPENT = st.builds(Spent, *(st.integers(0, 10**6) for _ in range(4)))
_PRICE = st.builds(Price, token=st.floats(0, 100), step=st.floats(0, 100))


@given(_SPENT, _SPENT, st.builds(Prices, small=_PRICE, frontier=_PRICE))
def test_costs_add_up(one: Spent, other: Spent, prices: Prices) -> None:
    assert (one + other).cost(prices) == pytest.approx(one.cost(prices) + other.cost(prices))
    assert one.cost(prices) >= 0


def test_a_step_that_was_not_carried_out_is_paid_for(scenario: Scenario) -> None:
    (trajectory,) = play(scenario, CascadePolicy(Errs(1), TeacherPolicy(), UNREADABLE, 0.5), ATTEMPTS[:1])
    spent = spent_by(trajectory.steps)
    assert (spent.small_steps, spent.frontier_steps) == (2, len(trajectory.steps) - 1)
    assert spent.small_tokens == (len(trajectory.steps[0].text) + len("nonsense<|end|>")) / 4
    assert spent.frontier_tokens == sum(len(step.text) for step in trajectory.steps[1:]) / 4


# -- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def file() -> CascadeFile:
    return CascadeFile(
        scenario="crm",
        scenario_version="1",
        small="faulty:0.5",
        frontier="teacher",
        threshold=0.25,
        target=0.99,
        doubt=Doubt(intercept=-1.5, weights=dict.fromkeys(FEATURES, 0.125), familiar=Familiar(runs=("a b c d",))),
    )


def test_a_file_comes_back_and_acts_by_its_name(file: CascadeFile, tmp_path: Path, scenario: Scenario) -> None:
    path = tmp_path / "runs" / "cascade.json"
    file.write(path)
    assert CascadeFile.read(path) == file
    assert [other.name for other in path.parent.iterdir()] == ["cascade.json"]
    policy = make_policy(f"cascade:{path}")
    assert policy.name == "cascade:faulty:0.5+teacher@0.25"
    assert not is_model(f"cascade:{path}")
    assert len(play(scenario, policy, ATTEMPTS[:3])) == 3


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("threshold", 1.5, "threshold: Input should be less than or equal to 1"),
        ("threshold", "0.5", "threshold: Input should be a valid number"),
        ("schema_version", 2, "schema_version: Input should be 1"),
        ("more", 1, "more: Extra inputs are not permitted"),
        ("doubt", {"intercept": 0.0, "weights": {"guess": 1.0}}, "doubt: Value error, act_least: the weights are of"),
    ],
)
def test_a_damaged_file_is_refused(file: CascadeFile, tmp_path: Path, field: str, value: object, rule: str) -> None:
    path = tmp_path / "cascade.json"
    path.write_bytes(orjson.dumps(file.model_dump(mode="json") | {field: value}))
    with pytest.raises(CascadeError) as caught:
        CascadeFile.read(path)
    assert str(caught.value).startswith(f"{path}: {rule}")


def test_a_fit_is_a_setting_and_its_tiers_endpoints_are_asked(file: CascadeFile, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.yaml"
    teacher.write_text("model: big\nbase_url: http://localhost:1/v1\nbudget_tokens: 500\n")
    path = tmp_path / "cascade.json"
    file.model_copy(update={"frontier": f"llm:{teacher}"}).write(path)
    spec = f"mentored:cascade:{path}"
    assert [endpoint.model for endpoint in endpoints_of(spec)] == ["big"]
    before = settings_of(spec)
    file.model_copy(update={"frontier": f"llm:{teacher}", "threshold": file.threshold / 2}).write(path)
    assert settings_of(spec) != before


def test_a_cascade_fitted_anew_does_not_go_on_with_another_ones_episodes(
    file: CascadeFile, tmp_path: Path, scenario: Scenario
) -> None:
    path, out = tmp_path / "cascade.json", tmp_path / "data"
    acting = file.model_copy(update={"small": "oracle", "frontier": "teacher"})
    acting.write(path)
    collect(scenario, f"cascade:{path}", n=2, out=out)
    collect(scenario, f"cascade:{path}", n=2, out=out)
    acting.model_copy(update={"threshold": file.threshold / 2}).write(path)
    with pytest.raises(DatasetMismatch, match="policy_settings"):
        collect(scenario, f"cascade:{path}", n=2, out=out)


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(CascadeError, match=r"no such file; `toolenv cascade fit` writes one"):
        make_policy(f"cascade:{tmp_path / 'none.json'}")
    (tmp_path / "cut.json").write_text('{"schema_version": 1,')
    with pytest.raises(CascadeError, match=r"cut\.json: cascade: Invalid JSON"):
        CascadeFile.read(tmp_path / "cut.json")
    with pytest.raises(CascadeError, match="Is a directory"):
        CascadeFile.read(tmp_path)
