"""SCoRe and the whole path, in small: every stage runs, leaves what it says, and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolenv.agents.mentor import KeyStep
from toolenv.agents.rollout import Attempt, rollout
from toolenv.envs.tool_env import ToolEnv
from toolenv.scenarios.loading import Scenario
from toolenv.training.claim import FolderTaken
from toolenv.training.distill import DistillError, DistillSettings, distill
from toolenv.training.policy_gradient import PolicyGradientSettings
from toolenv.training.score import KeyStepRewards, MentoringSettings, ScoreSettings, episode_reward, train_score
from toolenv.training.sft import SFTSettings
from toolenv.training.swirl import SWiRLSettings

RL = PolicyGradientSettings(steps=1, groups=2, group_size=2, max_new_tokens=8, threads=1)


@pytest.fixture(scope="module")
def tiny_steps(fresh_model: Path) -> ScoreSettings:
    sft = SFTSettings(model=str(fresh_model), max_tokens=1_500, epochs=50, threads=1)
    return ScoreSettings(tasks=8, cold_share=0.5, repairs=9, cold=sft, sft=sft, policy_gradient=RL)


class Acts:
    """Plays given actions."""

    name = "acts"

    def __init__(self, *actions: object) -> None:
        self.actions = actions

    def act(self, episodes):  # type: ignore[no-untyped-def]  # a policy's
        from toolenv.agents.policy import Decision

        return [Decision(self.actions[min(len(self.actions), len(e.messages) // 2) - 1]) for e in episodes]


def test_rewards_are_the_papers(crm: Scenario) -> None:
    env = ToolEnv(crm, families="all")
    env.reset(options={"task": "crm/order_status/17"})
    order = env.task.variables["order"]
    look = {"name": "get_order_status", "arguments": {"order_id": order["id"]}}
    error = {"name": "get_order_status", "arguments": {}, "reasoning": "Hm."}
    key = KeyStep("crm/order_status/17", (), look, error, solved=True)
    worth = {}
    for name, actions in {
        "solved": (look, {"answer": f"Order {order['id']} is {order['status']}."}),
        "key step": (look, {"answer": "I do not know."}),
        "the error": ({**error, "reasoning": "Well."}, {"answer": "I do not know."}),
        "another": ({"answer": "I do not know."},),
    }.items():
        (episode,) = rollout(crm, Acts(*actions), [Attempt(17, "order_status")])
        worth[name] = episode_reward(env, key, episode, KeyStepRewards())
    assert worth == {"solved": 1.0, "key step": 0.5, "the error": 0.0, "another": 0.1}


def test_the_stages_leave_what_they_say(crm: Scenario, tiny_steps: ScoreSettings, tmp_path: Path) -> None:
    told: list[str] = []
    report = train_score(crm, tmp_path, tiny_steps, notify=told.append)
    assert len(told) == 5
    assert report.mentored == 4
    assert report.corrected > 0
    assert report.solved + report.hard == report.mentored
    pairs = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    assert len(pairs) == report.key_steps
    for pair in pairs:
        assert pair["prompt"][0]["role"] == "system"
        assert pair["prompt"][-1]["role"] in ("user", "tool")
        assert pair["chosen"][0]["role"] == pair["rejected"][0]["role"] == "assistant"
        assert pair["chosen"] != pair["rejected"]
    hard = (tmp_path / "hard.jsonl").read_text().splitlines()
    assert len(hard) == report.hard
    before = (tmp_path / "student" / "model.safetensors").stat().st_mtime_ns
    again: list[str] = []
    assert train_score(crm, tmp_path, tiny_steps, notify=again.append) == report
    assert (tmp_path / "student" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_whole_path_runs_and_resumes(crm: Scenario, tiny_steps: ScoreSettings, tmp_path: Path) -> None:
    settings = DistillSettings(
        tasks=12,
        mentored_tasks=10,
        evaluated=2,
        evaluated_early=1,
        max_new_tokens=8,
        sad=tiny_steps.sft,
        score=MentoringSettings(sft=tiny_steps.sft, policy_gradient=RL),
        model=tiny_steps.sft.model,
        swirl=SWiRLSettings(policy_gradient=RL),
    )
    first = distill(crm, tmp_path, settings)
    assert list(first.evaluations) == ["base", "SAD", "SCoRe-SFT", "SCoRe-RL", "SWiRL", "grounded", "teacher"]
    assert first.evaluations["teacher"].overall.success.value == 1.0
    assert {"data", "SAD", "SCoRe", "SWiRL", "evaluating SAD"} < set(first.seconds)
    second = distill(crm, tmp_path, settings)
    assert second.seconds == {}
    assert second.evaluations == first.evaluations
    with pytest.raises(FolderTaken, match=r"distill\.seed"):
        distill(crm, tmp_path, settings.model_copy(update={"seed": 1}))


def test_settings_that_can_not_be_read_are_told(tmp_path: Path) -> None:
    file = tmp_path / "distill.yaml"
    file.write_text("tasks: 20\nsad: {learning_rate: fast}\n")
    with pytest.raises(DistillError, match=r"distill.yaml: sad.learning_rate: Input should be a valid number"):
        DistillSettings.read(file)
    file.write_text("tasks: [")
    with pytest.raises(DistillError, match="not YAML"):
        DistillSettings.read(file)
    file.write_text("tasks: 20\nsad: {loss: {act_weight: 3}}\nscore: {repairs: 2}\n")
    read, default = DistillSettings.read(file), DistillSettings()
    assert (read.tasks, read.sad.loss.act_weight, read.score.repairs) == (20, 3, 2)
    assert read.sad.max_tokens == default.sad.max_tokens, "what is not named stays"
    assert read.score.sft == default.score.sft
    file.write_text("tasks: 500000\nmentored_tasks: 400000\n")
    with pytest.raises(DistillError, match="validation begins"):
        DistillSettings.read(file)


def test_tasks_of_other_splits_are_refused(crm: Scenario, tiny_steps: ScoreSettings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validation begins"):
        train_score(crm, tmp_path, tiny_steps.model_copy(update={"first_seed": 799_999}))
