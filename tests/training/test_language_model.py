"""The batched student: its ids are those that were sampled, and its log-probabilities are the model's own."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from toolenv.agents.language_model import (
    CHAT_STYLE,
    LanguageModelPolicy,
    ModelError,
    Prompter,
    PromptStyle,
    Student,
    ToolListing,
)
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory, messages_of_step
from toolenv.envs.actions import Answer, Call, Malformed
from toolenv.scenarios.loading import Scenario
from toolenv.tools.calls import json_text


@pytest.fixture(scope="module")
def policy(fresh_model: Path) -> LanguageModelPolicy:
    return LanguageModelPolicy(fresh_model, max_new_tokens=12, name="fresh")


@pytest.fixture(scope="module")
def episodes(crm: Scenario, policy: LanguageModelPolicy) -> list[Trajectory]:
    return list(rollout(crm, policy, [Attempt(seed) for seed in range(6)], batch=6, max_steps=3))


def ids_and_scores(policy: LanguageModelPolicy, crm: Scenario, trajectory: Trajectory) -> tuple[list[int], list[float]]:
    """The episode's ids as they were recorded, the others' text encoded; the scores of the sampled ones, else 0."""
    prompter = Prompter(policy.style, crm.toolbox)
    others, ids, scores = trajectory.messages[:2], list[int](), list[float]()
    for number, step in enumerate(trajectory.steps, 1):
        ids += policy.tokenizer(prompter.context(others))["input_ids"]
        scores += [0.0] * (len(ids) - len(scores))
        ids += step.token_ids or ()
        scores += step.logprobs or ()
        own, *others = messages_of_step(step, number)
        prompter.messages([own])
    return ids, scores


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_log_probabilities_are_those_of_a_plain_forward_pass_over_the_whole_episode(
    crm: Scenario, fresh_model: Path, batch: int, temperature: float
) -> None:
    policy = LanguageModelPolicy(fresh_model, max_new_tokens=12, temperature=temperature)
    episodes = list(rollout(crm, policy, [Attempt(seed) for seed in range(4)], batch=batch, max_steps=3))
    assert max(len(trajectory.steps) for trajectory in episodes) == 3
    for trajectory in episodes:
        ids, scores = ids_and_scores(policy, crm, trajectory)
        with torch.inference_mode():
            plain = policy.model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        expected = plain.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        own = torch.tensor(scores[1:]) != 0
        assert own.sum() == sum(len(step.token_ids or ()) for step in trajectory.steps)
        torch.testing.assert_close(torch.tensor(scores[1:])[own], expected[own], atol=1e-4, rtol=0)
        assert (plain.argmax(-1)[own].tolist() == torch.tensor(ids[1:])[own].tolist()) == (temperature == 0.0)


def test_text_is_the_decoding_of_the_ids(policy: LanguageModelPolicy, episodes: list[Trajectory]) -> None:
    for trajectory in episodes:
        for step in trajectory.steps:
            assert policy.tokenizer.decode(step.token_ids) == step.text


def test_a_sampled_episode_depends_on_its_trial_and_not_on_its_batch(crm: Scenario, fresh_model: Path) -> None:
    policy = LanguageModelPolicy(fresh_model, max_new_tokens=8, temperature=1.0)
    attempts = [Attempt(seed, trial=trial) for seed in range(2) for trial in range(2)]

    def texts(batch: int) -> dict[str, list[str]]:
        done = rollout(crm, policy, attempts, batch=batch, max_steps=2)
        return {trajectory.id: [step.text for step in trajectory.steps] for trajectory in done}

    together = texts(4)
    assert together == texts(3) == texts(1)
    assert len({str(written) for written in together.values()}) == 4


def test_a_loaded_student_acts_with_the_weights_it_has_now(crm: Scenario, fresh_model: Path) -> None:
    student = Student.load(fresh_model)
    policy = LanguageModelPolicy(student, max_new_tokens=8)

    def texts(acting: LanguageModelPolicy) -> list[str]:
        (trajectory,) = rollout(crm, acting, [Attempt(1)], max_steps=2)
        return [step.text for step in trajectory.steps]

    before = texts(policy)
    assert policy.name == "student"
    assert before == texts(LanguageModelPolicy(fresh_model, max_new_tokens=8))
    with torch.no_grad():
        student.model.model.layers[-1].mlp.down_proj.weight.normal_()
    assert texts(policy) != before


def test_a_students_aliases_are_resolved_on_the_way_back(crm: Scenario) -> None:
    prompter = Prompter(PromptStyle(), crm.toolbox)
    shown = prompter.context([{"role": "user", "content": "Where is ORD-00042 of ana@example.com?"}])
    assert shown == "<|user|>Where is <o1> of <e1>?<|end|><|assistant|>"
    call = prompter.action('Look.<|call|>get_order_status {"order_id":"<o1>"}<|end|>')
    assert call == Call("get_order_status", {"order_id": "ORD-00042"}, "Look.")
    assert prompter.action("<|answer|>Ask <e1>.<|end|>") == Answer("Ask ana@example.com.")
    assert isinstance(prompter.action("no token"), Malformed)


@pytest.mark.parametrize("dialect", ["toolenv", "hermes"])
def test_a_student_is_shown_as_much_of_the_tools_as_its_style_says(
    crm: Scenario, fresh_model: Path, dialect: str
) -> None:
    tokenizer = Student.load(fresh_model).tokenizer
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello CUS-00007."}]

    def shown(tools: str) -> str:
        style = PromptStyle(dialect=dialect, tools=ToolListing(tools))
        return Prompter(style, crm.toolbox, tokenizer).context(messages)

    assert "get_order_status" not in shown("none")
    assert "\nget_order_status\n" in shown("names")
    assert "\nget_order_status(order_id)\n" in shown("signatures")
    every = shown("schemas")
    for tool in crm.toolbox.to_openai():
        assert json_text(tool) in every, "examples of identifiers in a schema get no alias"
    assert len(shown("none")) < len(shown("names")) < len(shown("signatures")) < len(every)
    assert "Be brief." not in every
    assert "Hello <c1>." in every, "the first identifier of the conversation is the first alias"


def test_styles_from_before_there_were_several_listings_are_read(tmp_path: Path) -> None:
    for dialect, tools, listing in (
        ("toolenv", True, ToolListing.SIGNATURES),
        ("hermes", True, ToolListing.SCHEMAS),
        ("toolenv", False, ToolListing.NONE),
        ("toolenv", "names", ToolListing.NAMES),
    ):
        (tmp_path / "toolenv.json").write_text(json.dumps({"dialect": dialect, "tools": tools}))
        assert PromptStyle.load(tmp_path).tools is listing
    (tmp_path / "toolenv.json").write_text('{"tools": "most"}')
    with pytest.raises(ModelError, match="tools can not be shown as 'most'; there is: none, names"):
        PromptStyle.load(tmp_path)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path, fresh_model: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        LanguageModelPolicy(tmp_path)
    other = shutil.copytree(fresh_model, tmp_path / "other")
    (other / "toolenv.json").unlink()
    assert LanguageModelPolicy(other).style == CHAT_STYLE, "any chat model will do"
    (other / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"toolenv\.json: missing; .* no chat template"):
        LanguageModelPolicy(other)
    style = dataclasses.asdict(PromptStyle())
    PromptStyle(**style).save(tmp_path)
    assert PromptStyle.load(tmp_path) == PromptStyle()
    (tmp_path / "toolenv.json").write_text('{"dialekt": "toolenv"}')
    with pytest.raises(ModelError, match="dialekt: unknown field"):
        PromptStyle.load(tmp_path)
