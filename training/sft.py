"""Supervised fine-tuning with TRL's SFTTrainer: the loss is on the assistant's tokens only.

A batch holds conversations of like length up to a number of tokens, and batches come in random order. They are padded
on the right without an attention mask: under a causal mask a pad at the end is seen by no token that counts, and on a
CPU attention without a mask is a third faster.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from toolenv.agents.language_model import STYLE_FILE, ModelError, PromptStyle
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.toolbox import Toolbox
from toolenv.training.base_models import base_model_path
from toolenv.training.examples import IGNORED, Example, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE_MODELS = ("toolenv-tiny", "toolenv-small")
CHAT_STYLE = PromptStyle(dialect="hermes", aliases=False, system=True, tools=True)


class LoraSettings(BaseModel):
    """LoRA: train low-rank additions to the weights instead of the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(16, ge=1, description="Rank of the additions.")
    alpha: float = Field(32.0, gt=0, description="Scale of the additions, times rank.")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str = Field("all-linear", description="Which layers get additions.")


class SFTSettings(BaseModel):
    """What a fine-tuning run depends on, besides its data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("toolenv-tiny", description="A base model of toolenv, or any transformers causal model's path.")
    epochs: float = Field(1.0, gt=0, description="Passes over the data; less if `max_tokens` is reached before.")
    max_tokens: int | None = Field(None, gt=0, description="Budget in tokens, all roles counted.")
    batch_tokens: int = Field(1_280, ge=16, description="Tokens a batch and device, padding counted.")
    accumulation: int = Field(1, ge=1, description="Batches a step.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak of the schedule.")
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    schedule: str = Field("cosine", description="Any schedule of transformers.")
    weight_decay: float = Field(0.01, ge=0)
    max_length: int = Field(1_024, ge=16, description="Longer conversations are left out, in tokens.")
    seed: int = Field(0, ge=0)
    bf16: bool = False
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    style: PromptStyle | None = Field(
        None, description="What the student is shown; as the model's folder says, else tools and policy in full."
    )


def train_sft(
    trajectories: Iterable[Trajectory],
    toolbox: Toolbox,
    out: str | Path,
    settings: SFTSettings | None = None,
    *,
    on_step: Callable[[int, int, float], None] | None = None,
) -> dict[str, Any]:
    """Fine-tune a model on trajectories; the folder `out` is then a student for `LanguageModelPolicy`.

    Args:
        trajectories: all are trained on; filter them first.
        on_step: called with (step, steps in all, loss) at every log.

    Returns:
        A summary: examples, tokens, steps, seconds, tokens a second, first and last loss.

    Raises:
        ModelError: there is no such model, its chat template can not be trained on, or no trajectory is short enough.
    """
    settings = settings or SFTSettings()
    out = Path(out)
    model, tokenizer, style = load_model(settings)
    examples = list(encode(trajectories, tokenizer, toolbox, style, max_length=settings.max_length))
    if not examples:
        raise ModelError(f"nothing to train on: no trajectory has at most {settings.max_length} tokens")
    trainer = _make_trainer(model, tokenizer, examples, out, settings, on_step)
    with warnings.catch_warnings():
        # torch warns of its own scheduler call order and pin_memory on a CPU; neither is ours to mend.
        warnings.filterwarnings("ignore", module=r"torch\..*")
        result = trainer.train()
    model = trainer.model
    if settings.lora is not None:
        model = model.merge_and_unload()
    _save(model, tokenizer, style, out)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = round(_tokens(examples) * trainer.state.epoch)
    seconds = result.metrics["train_runtime"]
    summary = {
        "examples": len(examples),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": tokens,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "losses": [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry],
        "settings": settings.model_dump(mode="json"),
    }
    (out / "training.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def load_model(settings: SFTSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, PromptStyle]:
    """The model to begin from, its tokenizer, and what it is shown.

    Raises:
        ModelError: there is no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bars for loading and saving weights
    folder = base_model_path(settings.model) if settings.model in BASE_MODELS else Path(settings.model)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{settings.model}: no model there; name a folder, or one of {', '.join(BASE_MODELS)}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dtype = torch.bfloat16 if settings.bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    if settings.style is not None:
        return model, tokenizer, settings.style
    if settings.model in BASE_MODELS or (folder / STYLE_FILE).is_file():
        return model, tokenizer, PromptStyle.load(folder)
    return model, tokenizer, CHAT_STYLE


def _make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Example],
    out: Path,
    settings: SFTSettings,
    on_step: Callable[[int, int, float], None] | None,
) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Report(TrainerCallback):  # type: ignore[misc]  # transformers' types are skipped
        """Passes the loss on; TRL's own printing is off."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if on_step is not None and logs and "loss" in logs:
                on_step(state.global_step, state.max_steps, logs["loss"])

    batches = make_batches(examples, settings.batch_tokens, settings.seed)
    steps = math.ceil(settings.epochs * len(batches) / settings.accumulation)
    if settings.max_tokens is not None:
        tokens_a_step = _tokens(examples) / len(batches) * settings.accumulation
        steps = max(1, min(steps, round(settings.max_tokens / tokens_a_step)))
    config = SFTConfig(
        output_dir=str(out / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=1,  # a row is a whole batch
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=settings.bf16,
        **{_checkpointing_field(SFTConfig): settings.gradient_checkpointing},
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        logging_steps=max(1, steps // 50),
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=not _has_gpu(),
    )
    lora = None
    if settings.lora is not None:
        lora = LoraConfig(
            r=settings.lora.rank,
            lora_alpha=settings.lora.alpha,
            lora_dropout=settings.lora.dropout,
            target_modules=settings.lora.target_modules,
            task_type="CAUSAL_LM",
        )
    rows = [{"input_ids": [e.input_ids for e in batch], "labels": [e.labels for e in batch]} for batch in batches]
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=_collator(tokenizer),
        callbacks=[Report()],
        peft_config=lora,
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def _checkpointing_field(config: type[Any]) -> str:
    """transformers renamed the field in 5.2x; the old name warns there."""
    new = "activation_checkpointing"
    return new if new in config.__dataclass_fields__ else "gradient_checkpointing"


def make_batches(examples: list[Example], batch_tokens: int, seed: int) -> list[list[Example]]:
    """Batches of examples of like length, each of at most `batch_tokens` tokens when padded (or of one example)."""
    rng = Random(seed)
    batches: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda example: (len(example.input_ids), rng.random())):
        # Sorted by length, so the newest is the longest of its batch.
        if batches[-1] and (len(batches[-1]) + 1) * len(example.input_ids) > batch_tokens:
            batches.append([])
        batches[-1].append(example)
    return batches


def _collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Pads a batch on the right to (B, T). Positions stand in for the mask, so that TRL can count tokens."""
    import torch

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        (batch,) = rows
        width = max(len(ids) for ids in batch["input_ids"])
        ids = [ids + [pad] * (width - len(ids)) for ids in batch["input_ids"]]
        labels = [labels + [IGNORED] * (width - len(labels)) for labels in batch["labels"]]
        positions = torch.arange(width).expand(len(ids), width)
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "position_ids": positions}

    return collate


def _tokens(examples: list[Example]) -> int:
    return sum(len(example.input_ids) for example in examples)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, style: PromptStyle, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(str(out))
    style.save(out)
