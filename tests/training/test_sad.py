"""SADTrainer: with equal weights it is TRL's SFTTrainer to the digit; each arm trains; two processes are like one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import SFTTrainer
from typer.testing import CliRunner

from toolenv.agents.dialects import SpanKind
from toolenv.agents.language_model import LanguageModelPolicy, ModelError, PromptStyle, ToolListing
from toolenv.agents.records import write_jsonl
from toolenv.agents.trajectory import Trajectory
from toolenv.cli import app
from toolenv.scenarios.loading import Scenario
from toolenv.training import sft
from toolenv.training.curriculum import Curriculum
from toolenv.training.examples import Example, encode
from toolenv.training.losses import SpanLoss, entropy
from toolenv.training.reduction import Reduction
from toolenv.training.sad import SADTrainer, collate, count_kinds, logprobs, row_of, teacher_entropies
from toolenv.training.sft import LoraSettings, SFTSettings, drawn_batches, load_model, make_trainer, train_sft
from toolenv.training.spans import KINDS

REASON, ACT = KINDS.index(SpanKind.REASON), KINDS.index(SpanKind.ACT)


@pytest.fixture(scope="module")
def examples(crm: Scenario, solved: list[Trajectory], fresh_model: Path) -> list[Example]:
    _, tokenizer, style = load_model(SFTSettings(model=str(fresh_model)))
    return list(encode(solved, tokenizer, crm.toolbox, style, max_length=1_024))


def trainer_of(examples: list[Example], model: Path, out: Path, **loss: object) -> SADTrainer:
    settings = SFTSettings(model=str(model), loss=SpanLoss.model_validate(loss), batch_tokens=512)
    student, tokenizer, _ = load_model(settings)
    return make_trainer(student, tokenizer, None, drawn_batches(examples, settings), out, settings)


def test_equal_weights_are_trls_own_loss(examples: list[Example], fresh_model: Path, tmp_path: Path) -> None:
    trainer = trainer_of(examples, fresh_model, tmp_path)
    for start in (0, 4):
        inputs = collate([row_of(examples[start : start + 4])])
        ids, own = inputs["input_ids"], inputs["kinds"] >= REASON
        ours = trainer.compute_loss(trainer.model, inputs)
        theirs = SFTTrainer.compute_loss(
            trainer,
            trainer.model,
            {
                "input_ids": ids,
                "labels": ids.where(own, -100),
                "position_ids": torch.arange(ids.shape[1]).expand(ids.shape),
            },
        )
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
        gradients = []
        for loss in (ours, theirs):
            trainer.model.zero_grad()
            loss.backward()
            gradients.append([parameter.grad.clone() for parameter in trainer.model.parameters()])
        for mine, other in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_weighted_sum_over_both_masks(
    examples: list[Example], fresh_model: Path, tmp_path: Path
) -> None:
    inputs = collate([row_of(examples[:3])])
    kinds, ids = inputs["kinds"][:, 1:], inputs["input_ids"][:, 1:]
    trainer = trainer_of(examples, fresh_model, tmp_path, reason_weight=1, act_weight=3, reduction="span")
    logits = trainer.model(input_ids=inputs["input_ids"]).logits[:, :-1]
    each = -logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    expected = (each[kinds == REASON].mean() + 3 * each[kinds == ACT].mean()) / 4
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(expected.item(), rel=1e-5)
    alone = trainer_of(examples, fresh_model, tmp_path, reason_weight=0)
    assert alone.compute_loss(alone.model, inputs).item() == pytest.approx(each[kinds == ACT].mean().item(), rel=1e-5)


def test_padding_changes_no_loss_even_where_observations_count(
    examples: list[Example], fresh_model: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(examples, fresh_model, tmp_path, observe_weight=0.5)
    short, long = examples[0], max(examples, key=lambda example: len(example.input_ids))
    counts = count_kinds(collate([row_of([short, long])])["kinds"])
    assert counts.sum() - counts[0] == len(short.input_ids) + len(long.input_ids) - 2
    parts = [trainer.compute_loss(trainer.model, collate([row_of([one])]), False, counts) for one in (short, long)]
    together = trainer.compute_loss(trainer.model, collate([row_of([short, long])]))
    assert sum(part.item() for part in parts) == pytest.approx(together.item(), rel=1e-5)


def losses_of(crm: Scenario, solved: list[Trajectory], model: Path, out: Path, **more: object) -> list[float]:
    settings = SFTSettings.model_validate({"model": str(model), "batch_tokens": 512, "epochs": 8, **more})
    return [loss for _, loss in train_sft(solved, crm.toolbox, out, settings)["losses"]]


@pytest.mark.parametrize(
    "loss",
    [{"reason_weight": 0}, {"reduction": "span", "act_weight": 3}, {"observe_weight": 0.1}],
    ids=["action-only", "sad", "observations"],
)
def test_each_arm_trains(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path, loss: dict[str, object]
) -> None:
    losses = losses_of(crm, solved, fresh_model, tmp_path, loss=loss, curriculum={})
    assert losses[-1] < losses[0] - 1


def test_lora_bf16_and_checkpointing_go_with_it(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    settings = {"lora": LoraSettings(rank=4), "bf16": True, "gradient_checkpointing": True, "epochs": 4}
    losses = losses_of(crm, solved, fresh_model, tmp_path, loss={"reduction": "span"}, **settings)
    assert losses[-1] < losses[0]
    assert LanguageModelPolicy(tmp_path).model.config.model_type == "llama"


def test_a_student_of_a_local_teacher_comes_near_its_distribution(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    losses_of(crm, solved, fresh_model, teacher)
    losses = losses_of(
        crm, solved, fresh_model, tmp_path / "student", loss={"teacher": str(teacher), "reduction": "span"}, epochs=12
    )
    assert 0 < losses[-1] < losses[0] / 2
    itself = losses_of(crm, solved, teacher, tmp_path / "same", loss={"teacher": str(teacher)}, max_tokens=600)
    assert itself[0] == pytest.approx(0, abs=1e-5)
    halved = losses_of(
        crm, solved, teacher, tmp_path / "half", loss={"teacher": str(teacher), "kl_weight": 0.5}, max_tokens=600
    )
    plain = losses_of(crm, solved, teacher, tmp_path / "plain", max_tokens=600)
    assert halved[0] == pytest.approx(plain[0] / 2, rel=1e-3)


def test_a_teacher_that_can_not_teach_is_told(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no model there"):
        losses_of(crm, solved, fresh_model, tmp_path, loss={"teacher": str(tmp_path / "nowhere")})
    other = shutil.copytree(fresh_model, tmp_path / "other")
    replace(PromptStyle(), aliases=False).save(other)
    with pytest.raises(ModelError, match="the teacher reads"):
        losses_of(crm, solved, fresh_model, tmp_path, loss={"teacher": str(other)})
    PromptStyle().save(other)
    _, tokenizer, _ = load_model(SFTSettings(model=str(other)))
    tokenizer.add_tokens(["one more"])
    tokenizer.save_pretrained(str(other))
    with pytest.raises(ModelError, match="must have the student's tokenizer"):
        losses_of(crm, solved, fresh_model, tmp_path, loss={"teacher": str(other)})
    with pytest.raises(ModelError, match="there is no local teacher"):
        SFTSettings(curriculum=Curriculum(gamma=1))


def test_the_teachers_entropy_is_over_the_assistants_tokens(examples: list[Example], fresh_model: Path) -> None:
    teacher, _, _ = load_model(SFTSettings(model=str(fresh_model)))
    together = teacher_entropies(teacher, examples[:3])
    assert together == pytest.approx([teacher_entropies(teacher, [one])[0] for one in examples[:3]], rel=1e-4)
    own = len(examples[0].kinds) - examples[0].kinds.count(SpanKind.OBSERVE)
    ids = torch.tensor([examples[0].input_ids])
    places = torch.tensor([[kind is not SpanKind.OBSERVE for kind in examples[0].kinds[1:]]])
    nats = entropy(logprobs(teacher(input_ids=ids).logits, places))
    assert len(nats) == own
    assert together[0] == pytest.approx(nats.sum().item(), rel=1e-4)


def test_the_easy_comes_first(examples: list[Example]) -> None:
    settings = SFTSettings(batch_tokens=16, curriculum=Curriculum(start=0, end=1))
    own = [sum(kind is not SpanKind.OBSERVE for kind in batch[0].kinds) for batch in drawn_batches(examples, settings)]
    third = len(own) // 3
    assert len(own) >= len(examples)
    assert max(own[:third]) <= min(own[-third:])


@pytest.mark.parametrize("reduction", Reduction)
def test_accumulated_batches_are_one_batch(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path, reduction: Reduction
) -> None:
    """Two batches of one step weigh every token as one batch of both does."""
    pair, loss = solved[:2], SpanLoss(reduction=reduction, act_weight=3)
    shared = {"model": str(fresh_model), "loss": loss, "learning_rate": 1e-2, "warmup_ratio": 0, "epochs": 4}
    summaries = [
        train_sft(pair, crm.toolbox, tmp_path / name, SFTSettings.model_validate({**shared, **sizes}))
        for name, sizes in {"one": {"batch_tokens": 2_048}, "two": {"batch_tokens": 16, "accumulation": 2}}.items()
    ]
    assert summaries[0]["steps"] == summaries[1]["steps"] == 4
    for (_, first), (_, second) in zip(summaries[0]["losses"], summaries[1]["losses"], strict=True):
        assert first == pytest.approx(second, rel=1e-3)


def test_the_command_passes_its_options_on(
    solved: list[Trajectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[SFTSettings] = []

    def train(
        trajectories: Iterable[Trajectory], toolbox: object, out: Path, settings: SFTSettings, **_: object
    ) -> dict:
        assert len(list(trajectories)) == len(solved)
        trained.append(settings)
        return {"parameters": 1, "tokens": 1, "seconds": 1, "tokens_per_second": 1, "first_loss": 1, "last_loss": 1}

    monkeypatch.setattr(sft, "train_sft", train)
    write_jsonl(solved, tmp_path / "data.jsonl")
    for words in (
        "sft",
        "sad",
        "sad --reason-weight 0.5 --act-weight 3 --observe-weight 0.1 --reduction token --teacher there "
        "--kl-weight 0.25 --curriculum --alpha 2 --beta 3 --gamma 4 --pace-start 0.1 --pace-end 0.9 --seed 7 "
        "--lora-rank 4",
    ):
        command, *options = words.split()
        line = ["train", command, str(tmp_path / "data.jsonl"), "--scenario", "crm", "-o", str(tmp_path), *options]
        result = CliRunner().invoke(app, line, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert trained == [
        SFTSettings(),
        SFTSettings(loss=SpanLoss(reduction=Reduction.SPAN)),
        SFTSettings(
            loss=SpanLoss(reason_weight=0.5, act_weight=3, observe_weight=0.1, teacher="there", kl_weight=0.25),
            curriculum=Curriculum(alpha=2, beta=3, gamma=4, start=0.1, end=0.9),
            lora=LoraSettings(rank=4, alpha=8),
            seed=7,
        ),
    ]


def on_two_processes(*command: str) -> Any:
    """What `toolenv ... --json` prints under accelerate, from the main process alone."""
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    finished = subprocess.run(
        [sys.executable, *launch, "-m", "toolenv", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    return json.loads(line)


@pytest.mark.slow
def test_two_processes_sample_apart_and_learn_together(
    solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    data, student = tmp_path / "data.jsonl", tmp_path / "student"
    write_jsonl(solved, data)
    options = ["--scenario", "crm", "--model", str(fresh_model), "--steps", "2", "--groups", "2", "--json"]
    log = on_two_processes("train", "swirl", str(data), "-o", str(student), *options)
    assert [entry["step"] for entry in log] == [0, 1]
    assert LanguageModelPolicy(student, max_new_tokens=4).name == "student"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sft", "sad"])
def test_two_processes_train_one_student(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path, command: str
) -> None:
    """As one process does with two batches a step: the same steps, the same losses."""
    data, student = tmp_path / "data.jsonl", tmp_path / "student"
    write_jsonl(solved, data)
    options = ["--scenario", "crm", "--model", str(fresh_model), "--batch-tokens", "512", "--epochs", "4", "--json"]
    summary = on_two_processes("train", command, str(data), "-o", str(student), *options)
    assert summary["last_loss"] < summary["first_loss"] - 1
    assert LanguageModelPolicy(student, max_new_tokens=4).name == "student"
    loss = SpanLoss(reduction=Reduction.SPAN if command == "sad" else Reduction.TOKEN)
    alone = train_sft(
        solved,
        crm.toolbox,
        tmp_path / "alone",
        SFTSettings(model=str(fresh_model), batch_tokens=512, epochs=4, accumulation=2, loss=loss),
    )
    assert {path.name for path in student.iterdir()} == {path.name for path in (tmp_path / "alone").iterdir()}
    assert summary["steps"] == alone["steps"]
    for (_, mine), (_, other) in zip(summary["losses"], alone["losses"], strict=True):
        assert mine == pytest.approx(other, rel=2e-2)


def test_what_all_conversations_begin_with_is_computed_once_and_the_gradient_is_the_same(
    crm: Scenario, solved: list[Trajectory], fresh_model: Path, tmp_path: Path
) -> None:
    style = PromptStyle(tools=ToolListing.SIGNATURES)
    settings = SFTSettings(model=str(fresh_model), style=style, batch_tokens=512, max_length=1_024)
    gradients, losses = [], []
    for shared in (None, 0):
        model, tokenizer, _ = load_model(settings)
        listed = list(encode(solved, tokenizer, crm.toolbox, style, max_length=1_024))
        batches = drawn_batches(listed, settings)
        trainer = make_trainer(model, tokenizer, None, batches, tmp_path, settings)
        assert trainer.shared > 300, "the listing of the tools"
        if shared is not None:
            trainer.shared = shared
        loss = trainer.compute_loss(trainer.model, collate([row_of(batches[0])]))
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert len(batches[0]) > 1
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
