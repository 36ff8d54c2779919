"""The policy gradient: advantages, the clipped loss, and that what is rewarded becomes likelier."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.language_model import LanguageModelPolicy, ModelError, PromptStyle, Student
from toolenv.agents.policy import Conversation, Decision
from toolenv.agents.rollout import Attempt, rollout
from toolenv.scenarios.loading import Scenario
from toolenv.training.claim import FolderTaken
from toolenv.training.policy_gradient import (
    PolicyGradientSettings,
    Sample,
    _batches,
    advantages,
    clipped_loss,
    divergence,
    learning_rate,
    sample_of,
    sampled_logprobs,
    train_policy,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAST = PolicyGradientSettings(steps=4, groups=2, group_size=2, max_new_tokens=6, threads=1, learning_rate=1e-3)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.booleans())
def test_advantages_sum_to_zero_and_equal_rewards_teach_nothing(rewards: list[float], scale: bool) -> None:
    values = advantages(rewards, scale=scale)
    assert sum(values) == pytest.approx(0, abs=1e-6)
    order = sorted(range(len(rewards)), key=lambda i: rewards[i])
    assert [values[i] for i in order] == sorted(values)
    assert advantages([rewards[0]] * 4, scale=scale) == [0.0] * 4


def test_the_loss_stops_pulling_where_the_ratio_is_clipped() -> None:
    old = torch.log(torch.tensor([0.5, 0.5, 0.5, 0.5]))
    now = torch.log(torch.tensor([0.9, 0.5, 0.1, 0.9])).requires_grad_()
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    clipped_loss(now, old, advantage, clip=0.2).backward()
    assert now.grad is not None
    assert now.grad[0] == 0, "likelier by more than the clip already"
    assert now.grad[1] == -1
    assert now.grad[2] == 0
    assert now.grad[3] > 0


def test_the_kl_estimate_is_zero_at_the_reference_and_positive_elsewhere() -> None:
    at = torch.tensor([math.log(0.3)])
    assert divergence(at, at) == 0
    assert divergence(at, at + 0.5) > 0
    assert divergence(at, at - 0.5) > 0


@pytest.fixture(scope="module")
def episodes(crm: Scenario, fresh_model: Path):  # type: ignore[no-untyped-def]  # (policy, trajectories)
    policy = LanguageModelPolicy(fresh_model, temperature=1.0, max_new_tokens=12)
    return policy, list(rollout(crm, policy, [Attempt(seed) for seed in range(4)], max_steps=3))


def test_a_recorded_episode_has_the_log_probabilities_that_it_was_sampled_with(
    crm: Scenario, episodes, fresh_model: Path
) -> None:  # type: ignore[no-untyped-def]  # see the fixture
    policy, trajectories = episodes
    samples = [sample_of(t, policy, crm.toolbox, 0.0) for t in trajectories]
    assert all(len(s.input_ids) == len(s.sampled) and sum(s.sampled) == len(s.logprobs) > 12 for s in samples)
    with torch.no_grad():
        now = sampled_logprobs(Student.load(fresh_model).model, samples)
    then = torch.tensor([value for s in samples for value in s.logprobs])
    assert torch.allclose(now, then, atol=2e-4)


def test_samples_of_one_context_are_computed_as_if_each_stood_alone(crm: Scenario, episodes, fresh_model: Path) -> None:  # type: ignore[no-untyped-def]  # see the fixture
    policy, _ = episodes
    attempts = [Attempt(seed, trial=trial) for seed in range(3) for trial in range(3)]
    samples = [sample_of(t, policy, crm.toolbox, 0.0) for t in rollout(crm, policy, attempts, max_steps=3)]
    model = Student.load(fresh_model).model
    together = sampled_logprobs(model, samples)
    apart = torch.cat([sampled_logprobs(model, [sample]) for sample in samples])
    assert torch.allclose(together, apart, atol=2e-4)
    together.exp().sum().backward()
    gradient = model.lm_head.weight.grad.clone()
    model.zero_grad()
    torch.cat([sampled_logprobs(model, [sample]) for sample in samples]).exp().sum().backward()
    assert torch.allclose(model.lm_head.weight.grad, gradient, atol=1e-4)


def test_batches_hold_a_context_once_and_no_more_than_they_may() -> None:
    def sample(context: int, tail: int) -> Sample:
        return Sample([context] * context + [1] * tail, [False] * context + [True] * tail, [0.0] * tail, 0.0)

    samples = [(sample(context, tail), 0.0) for context in (40, 10, 30) for tail in (5, 10, 15)]
    (whole,) = _batches(samples, 3 * 70)
    assert sorted(map(id, whole)) == sorted(map(id, samples))
    assert [len(batch) for batch in _batches(samples, 70)] == [3, 3, 3]
    assert [len(batch) for batch in _batches(samples, 60)] == [3, 3, 2, 1]
    assert [len(batch) for batch in _batches(samples, 16)] == [1] * 9


def test_steps_that_were_given_are_not_learned_from(crm: Scenario, fresh_model: Path) -> None:
    policy = LanguageModelPolicy(fresh_model, temperature=1.0, max_new_tokens=6)
    prefix = ({"name": "search_policies", "arguments": {"query": "returns"}, "reasoning": "I look."},)
    (trajectory,) = rollout(crm, policy, [Attempt(0, prefix=prefix)], max_steps=2)
    sample = sample_of(trajectory, policy, crm.toolbox, 0.0)
    own = [id_ for id_, sampled in zip(sample.input_ids, sample.sampled, strict=True) if sampled]
    assert tuple(own) == trajectory.steps[1].token_ids


def rewarding(token: int):  # type: ignore[no-untyped-def]  # a sampler that rewards a token
    def sample(policy: LanguageModelPolicy, seed: int) -> list[list[Sample]]:
        context = [5, 6, 7]
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([context])).logits[0, -1]
        logprobs = logits.log_softmax(-1)
        tokens = [token, 20 + seed % 50]
        return [[Sample([*context, t], [False] * 3 + [True], [float(logprobs[t])], float(t == token)) for t in tokens]]

    return sample


def chance(folder: Path, token: int) -> float:
    model = Student.load(folder).model
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].softmax(-1)[token])


def test_what_is_rewarded_becomes_likelier(fresh_model: Path, tmp_path: Path) -> None:
    log = train_policy(fresh_model, tmp_path / "out", rewarding(99), FAST)
    assert len(log) == FAST.steps
    assert [entry.reward for entry in log] == [0.5] * 4
    assert chance(tmp_path / "out", 99) > 2 * chance(fresh_model, 99)
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_the_learning_rate_warms_up_and_falls_to_nothing_if_it_is_told_to() -> None:
    settings = PolicyGradientSettings(steps=4, warmup_steps=1, learning_rate=1.0)
    assert [learning_rate(step, settings) for step in range(4)] == [0.5, 1, 1, 1]
    falling = settings.model_copy(update={"decay": True})
    assert [learning_rate(step, falling) for step in range(4)] == [0.5, 0.75, 0.5, 0.25]


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(fresh_model: Path, tmp_path: Path) -> None:
    settings = FAST.model_copy(update={"save_every": 1})
    whole = train_policy(fresh_model, tmp_path / "whole", rewarding(99), settings)
    calls = 0

    def breaking(policy: LanguageModelPolicy, seed: int) -> list[list[Sample]]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return rewarding(99)(policy, seed)

    with pytest.raises(KeyboardInterrupt):
        train_policy(fresh_model, tmp_path / "cut", breaking, settings)
    resumed = train_policy(fresh_model, tmp_path / "cut", rewarding(99), settings)
    assert [(e.step, e.reward, e.loss) for e in resumed] == [(e.step, e.reward, e.loss) for e in whole]
    assert chance(tmp_path / "cut", 99) == pytest.approx(chance(tmp_path / "whole", 99), rel=1e-5)


def test_a_finished_folder_is_kept_and_another_run_is_refused(fresh_model: Path, tmp_path: Path) -> None:
    log = train_policy(fresh_model, tmp_path, rewarding(99), FAST)

    def never(policy: LanguageModelPolicy, seed: int) -> list[list[Sample]]:
        raise AssertionError("nothing is sampled")

    assert train_policy(fresh_model, tmp_path, never, FAST) == log
    with pytest.raises(FolderTaken, match=r"policy_gradient\.learning_rate"):
        train_policy(fresh_model, tmp_path, never, FAST.model_copy(update={"learning_rate": 1e-6}))


def test_what_tells_nothing_apart_moves_nothing(fresh_model: Path, tmp_path: Path) -> None:
    def same(policy: LanguageModelPolicy, seed: int) -> list[list[Sample]]:
        return [[replace(sample, reward=1.0) for sample in group] for group in rewarding(99)(policy, seed)]

    train_policy(fresh_model, tmp_path, same, FAST)
    assert chance(tmp_path, 99) == pytest.approx(chance(fresh_model, 99), rel=1e-6)


class Looking(LanguageModelPolicy):
    """Samples as it does, but whatever it writes stands for one call, so that its episodes go on."""

    def act(self, episodes: Sequence[Conversation]) -> list[Decision]:
        looks = {"name": "get_order_status", "arguments": {"order_id": "ORD-00001"}}
        return [replace(decision, action=looks) for decision in super().act(episodes)]


@pytest.fixture(scope="module")
def chatting(fresh_model: Path) -> LanguageModelPolicy:
    """The same model behind a chat template."""
    student = Student.load(fresh_model)
    student.tokenizer.chat_template = CHATML
    style = PromptStyle(dialect="hermes", aliases=True)
    return Looking(replace(student, style=style), temperature=1.0, max_new_tokens=12)


def test_an_episode_through_a_chat_template_has_the_ids_that_were_sampled(
    crm: Scenario, chatting: LanguageModelPolicy
) -> None:
    episodes = list(rollout(crm, chatting, [Attempt(seed) for seed in range(4)], max_steps=3))
    assert max(len(trajectory.steps) for trajectory in episodes) == 3
    for trajectory in episodes:
        sample = sample_of(trajectory, chatting, crm.toolbox, 1.0)
        own = [token for token, mine in zip(sample.input_ids, sample.sampled, strict=True) if mine]
        assert own == [token for step in trajectory.steps for token in step.token_ids or ()]
        assert chatting.tokenizer.decode(sample.input_ids).count("<|im_start|>assistant") == len(trajectory.steps)
        with torch.no_grad():
            now = sampled_logprobs(chatting.model, [sample])
        torch.testing.assert_close(now, torch.tensor(sample.logprobs), atol=2e-4, rtol=0)


def test_a_template_that_rewrites_earlier_turns_is_refused(crm: Scenario, chatting: LanguageModelPolicy) -> None:
    (trajectory,) = rollout(crm, chatting, [Attempt(0)], max_steps=2)
    tokenizer = copy.deepcopy(chatting.tokenizer)
    tokenizer.chat_template = "{{ messages | length }}" + CHATML
    other = Looking(Student(chatting.model, tokenizer, chatting.style), max_new_tokens=12)
    (again,) = rollout(crm, other, [Attempt(0)], max_steps=2)
    assert len(again.steps) == 2, "it acts all the same"
    with pytest.raises(ModelError, match="step by step"):
        sample_of(trajectory, other, crm.toolbox, 1.0)
