"""Step-wise RL: which states are trained on, what a step is worth, and that a run does what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from torch import Tensor

from toolenv.agents.equivalence import earliest_error, label_steps
from toolenv.agents.faulty import FaultyPolicy
from toolenv.agents.judge import LLMJudge, NoisyJudge, Opinion, Verdict
from toolenv.agents.language_model import LanguageModelPolicy
from toolenv.agents.oracle import OraclePolicy
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import Scenario
from toolenv.training.claim import FolderTaken
from toolenv.training.policy_gradient import PolicyGradientSettings
from toolenv.training.states import State, states_of
from toolenv.training.swirl import (
    States,
    StepFilter,
    StepRewards,
    SWiRLSettings,
    select_states,
    step_sampler,
    train_swirl,
)

FAST = PolicyGradientSettings(steps=2, groups=3, group_size=2, max_new_tokens=8, threads=1)


@pytest.fixture(scope="module")
def faulty(crm: Scenario) -> list[Trajectory]:
    return list(rollout(crm, FaultyPolicy(0.7), [Attempt(seed) for seed in range(60)]))


def test_a_state_is_where_the_episode_was(crm: Scenario, faulty: list[Trajectory]) -> None:
    env = ToolEnv(crm, families="all")
    for trajectory in faulty[:20]:
        states = list(states_of(trajectory))
        assert [len(state.prefix) for state in states] == list(range(len(trajectory.steps)))
        states[-1].enter(env)
        assert env.messages == trajectory.messages[: len(env.messages)]


def test_filters_keep_what_they_say(crm: Scenario, faulty: list[Trajectory]) -> None:
    counts = {kind: len(select_states(crm, faulty, kind)) for kind in StepFilter}
    assert counts[StepFilter.NONE] > counts[StepFilter.OUTCOME] > counts[StepFilter.BOTH] > 0
    assert counts[StepFilter.NONE] > counts[StepFilter.PROCESS] == counts[StepFilter.BOTH], "all right is solved"
    solved = [t for t in faulty if t.success]
    assert counts[StepFilter.OUTCOME] <= sum(len(t.steps) for t in solved)
    clean = list(rollout(crm, OraclePolicy(), [Attempt(seed) for seed in range(20)]))
    states = select_states(crm, clean, StepFilter.PROCESS)
    assert states.others == [state for t in clean for state in states_of(t)]
    assert not states.errors


def test_states_until_the_earliest_error_leave_out_what_comes_after_it(crm: Scenario, faulty: list[Trajectory]) -> None:
    env = ToolEnv(crm, families="all")
    for trajectory in faulty:
        error = earliest_error(label_steps(env, trajectory))
        kept = select_states(crm, [trajectory], StepFilter.UNTIL_ERROR)
        assert kept.others == list(states_of(trajectory))[:error]
        assert kept.errors == ([] if error is None else [list(states_of(trajectory))[error]])


def test_so_many_errors_are_drawn_as_are_asked_for() -> None:
    states = States([State("right", ({},) * i) for i in range(10)], [State("wrong", ({},) * i) for i in range(3)])

    def errors(count: int, share: float | None) -> int:
        drawn = states.draw(count, share, Random(0))
        assert len(drawn) == len({(state.task, len(state.prefix)) for state in drawn}) == min(count, 13)
        return sum(state.task == "wrong" for state in drawn)

    assert [errors(4, share) for share in (0, 0.5, 1)] == [0, 2, 3]
    assert errors(12, 0) == 2, "the others are not enough"
    assert errors(20, None) == errors(20, 0.5) == 3


def test_steps_are_worth_what_their_label_is(crm: Scenario) -> None:
    env = ToolEnv(crm, families="all")
    guide = State("crm/order_status/17").enter(env)
    order = env.task.variables["order"]["id"]
    rewards = StepRewards()
    worth = {
        name: rewards(env, guide, {"name": name, "arguments": {"order_id": order}})
        for name in ("get_order_status", "get_order_by_id", "get_invoice_by_order")
    }
    assert worth == {"get_order_status": 1.0, "get_order_by_id": 0.9, "get_invoice_by_order": 0.2}
    assert rewards(env, guide, "nonsense") == 0.0


def test_a_judge_without_labels_pays_by_its_verdict(crm: Scenario) -> None:
    env = ToolEnv(crm, families="all")
    guide = State("crm/order_status/17").enter(env)
    right = {"name": "get_order_status", "arguments": {"order_id": env.task.variables["order"]["id"]}}
    rewards = StepRewards(good=0.8, bad=0.1, abstain=0.4)
    assert rewards.by(NoisyJudge(1, 1))(env, guide, right) == 0.8
    assert rewards.by(NoisyJudge(0, 0))(env, guide, right) == 0.1
    assert rewards.by(NoisyJudge(1, 1, abstain=1))(env, guide, right) == 0.4


def test_groups_share_a_state_and_differ_in_what_was_sampled(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path
) -> None:
    states = select_states(crm, solved, StepFilter.PROCESS)
    sampler = step_sampler(crm, states, StepRewards(), FAST)
    policy = LanguageModelPolicy(fresh_model, temperature=1.0, max_new_tokens=8)
    groups = sampler(policy, 5)
    assert [len(group) for group in groups] == [2, 2, 2]
    for first, second in groups:
        length = first.sampled.index(True)
        assert first.input_ids[:length] == second.input_ids[:length]
        assert first.input_ids != second.input_ids
    assert [[s.input_ids for s in g] for g in sampler(policy, 5)] == [[s.input_ids for s in g] for g in groups]


def test_a_context_is_encoded_once_a_group(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = select_states(crm, solved, StepFilter.PROCESS)
    policy = LanguageModelPolicy(fresh_model, temperature=1.0, max_new_tokens=1)
    encoded = []
    forward = type(policy.model).forward

    def counting(self: object, input_ids: Tensor, attention_mask: Tensor, **given: object) -> object:
        encoded.append(int((attention_mask[:, -input_ids.shape[1] :]).sum()))
        return forward(self, input_ids=input_ids, attention_mask=attention_mask, **given)

    monkeypatch.setattr(type(policy.model), "forward", counting)
    groups = step_sampler(crm, states, StepRewards(), FAST.model_copy(update={"group_size": 4}))(policy, 5)
    contexts = [len(group[0].input_ids) - 1 for group in groups]
    assert sum(encoded) == sum(contexts) + 3 * len(groups), "of the others in a group, the last token alone"


def test_a_run_asks_the_judge_and_leaves_a_student(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    asked = []

    class InTurns:
        """Finds every other step good."""

        name = "in turns"

        def judge(self, env: ToolEnv, guide: object, action: object) -> Opinion:
            asked.append(action)
            return Opinion(Verdict.GOOD if len(asked) % 2 else Verdict.BAD, "its turn")

    settings = SWiRLSettings(policy_gradient=FAST)
    log = train_swirl(crm, solved, fresh_model, tmp_path, settings, judge=InTurns())
    assert len(asked) == 12
    assert [entry.reward for entry in log] == [0.5, 0.5]
    assert LanguageModelPolicy(tmp_path).model.num_parameters() > 1e6
    assert train_swirl(crm, solved, fresh_model, tmp_path, settings, judge=InTurns()) == log
    assert len(asked) == 12, "what is finished is not done again"
    other = replace(solved[0], scenario_version="other")
    with pytest.raises(ValueError, match="of version other of the scenario"):
        select_states(crm, [other], StepFilter.NONE)
    with pytest.raises(ValueError, match="leaves no episode"):
        train_swirl(crm, [], fresh_model, tmp_path / "none", settings)


def test_a_run_is_not_resumed_with_another_judge_or_at_other_states(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    settings = SWiRLSettings(policy_gradient=FAST)

    def stop(log: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_swirl(crm, solved, fresh_model, tmp_path, settings, judge=NoisyJudge(0.9, 0.9), on_step=stop)
    for judge, data, differing in (
        (None, solved, "judge.name, judge.settings"),
        (NoisyJudge(0.9, 0.8), solved, "judge.name"),
        (NoisyJudge(0.9, 0.9, seed=1), solved, "judge.settings.seed"),
        (LLMJudge(Silent(), "m", {"temperature": 0}), solved, "judge.name, judge.settings.seed, judge.settings.temp"),
        (NoisyJudge(0.9, 0.9), solved[1:], "states"),
    ):
        with pytest.raises(FolderTaken, match=f"a run with other settings: {differing}"):
            train_swirl(crm, data, fresh_model, tmp_path, settings, judge=judge)
    log = train_swirl(crm, solved, fresh_model, tmp_path, settings, judge=NoisyJudge(0.9, 0.9))
    assert len(log) == FAST.steps


class Silent:
    def complete(self, messages: object) -> str:
        raise AssertionError("a refused run asks no judge")
