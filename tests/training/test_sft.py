"""Fine-tuning with TRL: the loss falls, and what comes out is a student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv.agents.dialects import SpanKind
from toolenv.agents.language_model import LanguageModelPolicy, ModelError, PromptStyle
from toolenv.agents.rollout import Attempt, rollout
from toolenv.agents.trajectory import Trajectory
from toolenv.scenarios.loading import Scenario
from toolenv.training.claim import FolderTaken
from toolenv.training.examples import Example, make_batches
from toolenv.training.sft import LoraSettings, SFTSettings, train_sft


def settings(model: Path, **more: object) -> SFTSettings:
    return SFTSettings.model_validate({"model": str(model), "batch_tokens": 512, "epochs": 8, **more})


def test_the_loss_falls_and_the_student_acts(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int, float]] = []
    summary = train_sft(solved, crm.toolbox, tmp_path, settings(fresh_model), on_step=lambda *args: seen.append(args))
    assert summary["last_loss"] < summary["first_loss"] - 1
    assert seen[-1][0] == seen[-1][1] == summary["steps"]
    assert json.loads((tmp_path / "training.json").read_text())["examples"] == len(solved)
    policy = LanguageModelPolicy(tmp_path, max_new_tokens=8)
    episodes = list(rollout(crm, policy, [Attempt(900_000)], max_steps=2))
    assert episodes[0].policy == tmp_path.name


def test_a_budget_in_tokens_is_kept(crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path) -> None:
    summary = train_sft(solved, crm.toolbox, tmp_path, settings(fresh_model, max_tokens=2_500, epochs=50))
    assert 0 < summary["tokens"] < 3_500


def test_lora_leaves_the_base_weights_be_and_is_merged(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    summary = train_sft(
        solved, crm.toolbox, tmp_path, settings(fresh_model, lora=LoraSettings(rank=4), max_tokens=4_000)
    )
    assert summary["last_loss"] < summary["first_loss"]
    assert LanguageModelPolicy(tmp_path).model.config.model_type == "llama"


class Killed(Exception):
    """Stands for whatever ends a run."""


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_an_interrupted_run_goes_on_to_the_same_end(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path, lora: LoraSettings | None
) -> None:
    given = settings(fresh_model, max_tokens=6_000, lora=lora, checkpoint_steps=3)

    def killed(step: int, steps: int, loss: float) -> None:
        if step == 8:
            raise Killed

    whole = train_sft(solved, crm.toolbox, tmp_path / "whole", given)
    assert whole["steps"] > 8
    with pytest.raises(Killed):
        train_sft(solved, crm.toolbox, tmp_path / "cut", given, on_step=killed)
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["checkpoints"]
    half = tmp_path / "cut" / "checkpoints" / "checkpoint-7"  # killed again, while it was written
    half.mkdir()
    (half / "config.json").write_text("{}")
    seen: list[int] = []
    summary = train_sft(solved, crm.toolbox, tmp_path / "cut", given, on_step=lambda step, *_: seen.append(step))
    assert min(seen) == 7
    assert summary["losses"] == whole["losses"]
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert first == second
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_another_runs_checkpoints_are_refused(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    given = settings(fresh_model, max_tokens=3_000, checkpoint_steps=2)
    with pytest.raises(Killed):
        train_sft(solved, crm.toolbox, tmp_path, given, on_step=killed)
    with pytest.raises(FolderTaken, match="data"):
        train_sft(solved[1:], crm.toolbox, tmp_path, given)
    with pytest.raises(FolderTaken, match=r"settings\.learning_rate"):
        train_sft(solved, crm.toolbox, tmp_path, given.model_copy(update={"learning_rate": 1e-3}))


def test_the_same_seed_gives_the_same_student(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    first, second = (
        train_sft(solved, crm.toolbox, tmp_path / name, settings(fresh_model, max_tokens=2_000))["losses"]
        for name in "ab"
    )
    assert first == second


def test_what_can_not_be_trained_is_told(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no model there"):
        train_sft(solved, crm.toolbox, tmp_path, settings(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="nothing to train on"):
        train_sft([], crm.toolbox, tmp_path, settings(fresh_model))
    with pytest.raises(ModelError, match="at most 16 tokens"):
        train_sft(solved, crm.toolbox, tmp_path, settings(fresh_model, max_length=16))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(16, 200), st.integers(0, 3))
def test_batches_hold_every_example_once_and_keep_to_their_size(lengths: list[int], size: int, seed: int) -> None:
    examples = [Example([i] * length, [SpanKind.ACT] * length) for i, length in enumerate(lengths)]
    batches = make_batches(examples, size, seed)
    assert sorted(e.input_ids[0] for batch in batches for e in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(len(e.input_ids) for e in batch) <= size for batch in batches)


def test_any_chat_model_can_be_trained_and_acts(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    """A model without `toolenv.json` is shown tools and policy through its own chat template."""
    foreign = tmp_path / "foreign"
    shutil.copytree(fresh_model, foreign)
    (foreign / "toolenv.json").unlink()
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16_384}))
    short = [t for t in solved if len(t.steps) == 1][:2]
    student = tmp_path / "student"
    train_sft(short, crm.toolbox, student, settings(foreign, max_tokens=1, max_length=16_000))
    assert PromptStyle.load(student).dialect == "hermes"
    policy = LanguageModelPolicy(student, max_new_tokens=4)
    (episode,) = rollout(crm, policy, [Attempt(900_000)], max_steps=1)
    assert episode.steps[0].token_ids is not None
