"""Judges: what an LLM's reply is read as, what it is shown, and that noise is what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.equivalence import Guide, Label
from toolenv.agents.judge import (
    ExactJudge,
    LLMJudge,
    LocalModel,
    NoisyJudge,
    Opinion,
    Verdict,
    judge_prompt,
    make_judge,
    read_verdict,
    verdict_of,
)
from toolenv.agents.language_model import ModelError
from toolenv.envs.tool_env import ToolEnv
from toolenv.envs.turn import Message

GOOD, BAD, ABSTAIN = Verdict.GOOD, Verdict.BAD, Verdict.ABSTAIN


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("GOOD: it looks the order up.", GOOD),
        ("BAD", BAD),
        ("bad - the id is invented", BAD),
        ("**GOOD**", GOOD),
        ("# Verdict: BAD\nThe id was never shown.", BAD),
        ("Final verdict: good", GOOD),
        ("The step is BAD, since it repeats a call.", BAD),
        ("I looked at it closely.\n\nGOOD: it fits.", GOOD),
        ("This call is clearly GOOD.", GOOD),
        ('{"verdict": "BAD", "reason": "too early"}', BAD),
        ('```json\n{"verdict": "good"}\n```', GOOD),
        ("<think>It could be BAD, but no.</think>GOOD: fine", GOOD),
        ("GOOD or BAD? BAD: it guesses.", BAD),
        ("GOOD/BAD: GOOD", GOOD),
        ("", ABSTAIN),
        ("I can not tell.", ABSTAIN),
        ("This is not a good step.", ABSTAIN),
        ("It is not GOOD.", ABSTAIN),
        ("GOOD at first.\nBAD in the end.", ABSTAIN),
        ("Is it GOOD? Is it BAD?", ABSTAIN),
        ('{"verdict": "maybe"}', ABSTAIN),
        ('{"verdict": 5}', ABSTAIN),
        ("goodness", ABSTAIN),
        ("<think>GOOD", ABSTAIN),
    ],
)
def test_a_reply_is_read_as_it_is_meant(reply: str, verdict: Verdict) -> None:
    assert read_verdict(reply).verdict is verdict


@given(reply=st.text())
def test_any_reply_is_read(reply: str) -> None:
    opinion = read_verdict(reply)
    assert opinion.verdict in Verdict
    assert len(opinion.why) < 400


@given(reply=st.text(st.characters(exclude_characters="gGbB")))
def test_a_reply_without_a_verdict_is_an_abstention(reply: str) -> None:
    assert read_verdict(reply).verdict is ABSTAIN


# -- at a state ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state(scenario: Any) -> tuple[ToolEnv, Guide, dict[str, Any]]:
    env = ToolEnv(scenario, families="all")
    env.reset(options={"task": "crm/order_status/17"})
    right = {"name": "get_order_status", "arguments": {"order_id": env.task.variables["order"]["id"]}}
    return env, Guide.start(env), right


class Scripted:
    """Replies with a text, and keeps what it was asked."""

    def __init__(self, reply: str) -> None:
        self.reply, self.asked = reply, list[Sequence[Message]]()

    def complete(self, messages: Sequence[Message]) -> str:
        self.asked.append(messages)
        return self.reply


def test_the_exact_judge_knows_the_label(state: Any) -> None:
    env, guide, right = state
    assert ExactJudge().judge(env, guide, right).label is Label.PREFERRED
    assert ExactJudge().judge(env, guide, {"answer": "?"}).verdict is BAD
    assert [verdict_of(label) for label in Label] == [GOOD, GOOD, BAD, BAD]


def test_a_model_is_shown_what_the_agent_saw_and_no_answer(state: Any) -> None:
    env, guide, right = state
    model = Scripted("BAD: no.")
    assert LLMJudge(model, "scripted").judge(env, guide, right) == Opinion(BAD, "BAD: no.")
    (system, user) = model.asked[0]
    assert "GOOD" in system["content"]
    shown = user["content"]
    assert env.task.system in shown
    assert f"USER: {env.task.instruction}" in shown
    assert all(name in shown for name in env.toolbox.names)
    assert f'AGENT calls get_order_status {{"order_id":"{right["arguments"]["order_id"]}"}}' in shown
    assert "preferred" not in shown


def test_calls_results_and_texts_are_shown(scenario: Any, state: Any) -> None:
    _, _, right = state
    env = ToolEnv(scenario, families="all")
    env.reset(options={"task": "crm/order_status/17"})
    env.step(right)
    env.step("nonsense")
    shown = judge_prompt(env.messages, env.toolbox, {"answer": "Paid."})[1]["content"]
    assert "AGENT calls get_order_status" in shown
    assert f"RESULT: {env.messages[3]['content']}" in shown
    assert "AGENT: nonsense" in shown
    assert "AGENT answers: Paid." in shown
    assert "AGENT writes: [1]" in judge_prompt(env.messages, env.toolbox, [1])[1]["content"]


def test_what_a_model_raises_is_no_verdict(state: Any) -> None:
    class Down:
        def complete(self, messages: Sequence[Message]) -> str:
            raise ConnectionError("down")

    env, guide, right = state
    with pytest.raises(ConnectionError):
        LLMJudge(Down(), "down").judge(env, guide, right)


def test_noise_follows_from_seed_and_step(state: Any) -> None:
    env, guide, right = state
    verdicts = [NoisyJudge(0.5, 0.5, seed=seed).judge(env, guide, right).verdict for seed in range(200)]
    assert verdicts == [NoisyJudge(0.5, 0.5, seed=seed).judge(env, guide, right).verdict for seed in range(200)]
    assert 70 < verdicts.count(GOOD) < 130
    assert NoisyJudge(1, 1).judge(env, guide, right).verdict is GOOD
    assert NoisyJudge(0, 0).judge(env, guide, right).verdict is BAD
    assert NoisyJudge(1, 1, abstain=1).judge(env, guide, right).verdict is ABSTAIN


def test_judges_by_name() -> None:
    assert make_judge("exact").name == "exact"
    assert make_judge("noisy:0.9").name == "noisy:good=0.9,bad=0.9,abstain=0"
    assert make_judge("noisy:bad=0.7").name == "noisy:good=1,bad=0.7,abstain=0"
    for spec, problem in {
        "nobody": "there is no judge 'nobody'; there is: exact, noisy",
        "noisy:": "write noisy:CHANCE",
        "noisy:maybe=1": "write noisy:CHANCE",
        "noisy:2": "chances lie within 0 to 1",
    }.items():
        with pytest.raises(ValueError, match=problem):
            make_judge(spec)


def test_a_local_model_can_be_asked(state: Any) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from toolenv.training.base_models import base_model_path

    env, guide, right = state
    folder = base_model_path("tiny")
    model = LocalModel(folder, max_new_tokens=4)
    assert isinstance(model.complete([{"role": "user", "content": "Hello"}]), str)
    opinion = make_judge(str(folder)).judge(env, guide, right)
    assert opinion.verdict in Verdict
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        LocalModel(folder.parent / "none")
    with pytest.raises(ModelError, match="leave no room"):
        LocalModel(folder, max_new_tokens=100_000)
