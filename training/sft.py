"""Supervised fine-tuning and distillation: trajectories in, a student's folder out.

The loss is on the assistant's tokens only; how they are weighed, and whether a local teacher's distribution is learned,
is a setting (`losses.SpanLoss`), and so is the order (`curriculum.Curriculum`). A batch holds conversations of like
length up to a number of tokens, and batches come in random order. They are padded on the right without an attention
mask: under a causal mask a pad at the end is seen by no token that counts, and on a CPU attention without a mask is a
third faster.

`accelerate launch --multi_gpu` runs it on several processes, with GPUs or, over gloo, without: each takes every n-th
batch, the main one writes the student. (With `--cpu`, accelerate starts one process, however many are asked for.)
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolenv.agents.language_model import CHAT_STYLE, STYLE_FILE, ModelError, PromptStyle
from toolenv.agents.shipped_models import BASE_MODELS
from toolenv.agents.trajectory import Trajectory
from toolenv.tools.toolbox import Toolbox
from toolenv.training.base_models import base_model_path
from toolenv.training.checkpoints import CHECKPOINTS, Checkpoints
from toolenv.training.curriculum import Curriculum, draw_order
from toolenv.training.examples import Example, encode, make_batches, shared_prefix
from toolenv.training.losses import SpanLoss

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from toolenv.training.sad import SADTrainer

LEAST_SHARED: Final = 32
"""Tokens: a shorter beginning that all conversations share is computed with each of them."""

OnStep = Callable[[int, int, float], None]
"""Is told of a run: step, steps in all, loss."""


class LoraSettings(BaseModel):
    """LoRA: train low-rank additions to the weights instead of the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(16, ge=1, description="Rank of the additions.")
    alpha: float = Field(32.0, gt=0, description="Scale of the additions, times rank.")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str = Field("all-linear", description="Which layers get additions.")
    in_full: tuple[str, ...] = Field(
        (), description="Layers that are trained in full beside them, such as embed_tokens."
    )


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
    threads: int | None = Field(
        None, ge=1, description="Threads of torch; its own choice if left out. One is best for models of a few million."
    )
    bf16: bool = False
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    loss: SpanLoss = SpanLoss()
    curriculum: Curriculum | None = Field(None, description="Easy first; a random order if left out.")
    checkpoint_steps: int | None = Field(
        None, ge=1, description="Steps between checkpoints, from which an interrupted run goes on; none if left out."
    )
    style: PromptStyle | None = Field(
        None, description="What the student is shown; as the model's folder says, else tools and policy in full."
    )

    @model_validator(mode="after")
    def _has_the_teacher_it_needs(self) -> SFTSettings:
        if self.curriculum is not None and self.curriculum.gamma and self.loss.teacher is None:
            raise ModelError("gamma is the weight of the teacher's entropy, and there is no local teacher")
        return self


def train_sft(
    trajectories: Iterable[Trajectory],
    toolbox: Toolbox,
    out: str | Path,
    settings: SFTSettings | None = None,
    *,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Fine-tune a model on trajectories; the folder `out` is then a student for `LanguageModelPolicy`.

    Args:
        trajectories: all are trained on; filter them first.
        on_step: called at every log.

    Returns:
        A summary: examples, tokens, steps, first and last loss, versions of the tools that the data call; seconds and
        tokens a second of what was not done before an interruption.

    Raises:
        ModelError: there is no such model, its chat template can not be trained on, or no trajectory is short enough.
        FolderTaken: the checkpoints in `out` are another run's.
    """
    settings = settings or SFTSettings()
    out = Path(out)
    fitted = fit(trajectories, toolbox, out, settings, on_step)
    model, summary = fitted.model, fitted.summary
    if settings.lora is not None:
        model = model.float().merge_and_unload()  # bfloat16 would round small additions away
    summary["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if is_main_process():
        _save(model, fitted.tokenizer, fitted.style, out)
        (out / "training.json").write_text(json.dumps(summary, indent=2) + "\n")
        if fitted.checkpoints is not None:
            fitted.checkpoints.clear()
    return summary


@dataclass(frozen=True)
class Fitted:
    """What a training ends with; LoRA additions are still apart from the model's weights.

    Attributes:
        summary: as `train_sft` gives it.
        checkpoints: to be cleared once the model is saved.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    style: PromptStyle
    summary: dict[str, Any]
    checkpoints: Checkpoints | None


def fit(
    trajectories: Iterable[Trajectory],
    toolbox: Toolbox,
    out: Path,
    settings: SFTSettings,
    on_step: OnStep | None = None,
) -> Fitted:
    """Train a model and save nothing but checkpoints, in `out`.

    Raises:
        ModelError, FolderTaken: as `train_sft`.
    """
    import torch

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model, tokenizer, style = load_model(settings)
    teacher = load_teacher(settings, tokenizer, style)
    tools: dict[str, str] = {}
    noted = _noting_tools(trajectories, tools)
    examples = list(encode(noted, tokenizer, toolbox, style, max_length=settings.max_length))
    if not examples:
        raise ModelError(f"nothing to train on: no trajectory has at most {settings.max_length} tokens")
    batches = drawn_batches(examples, settings, teacher)
    trainer = make_trainer(model, tokenizer, teacher, batches, out, settings, on_step)
    checkpoints, last, begun = None, None, 0
    if settings.checkpoint_steps is not None:
        decisive = settings.model_dump(mode="json", exclude={"threads", "checkpoint_steps"})
        checkpoints = Checkpoints(out, batches, settings=decisive)
        last, begun = checkpoints.last()
    with warnings.catch_warnings():
        # torch warns of its own scheduler call order and pin_memory on a CPU; neither is ours to mend.
        warnings.filterwarnings("ignore", module=r"torch\..*")
        result = trainer.train(resume_from_checkpoint=last)
    losses = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    tokens, seconds = sum(map(_tokens, batches)), result.metrics["train_runtime"]
    now = batches[begun * settings.accumulation * trainer.args.world_size :]
    summary = {
        "examples": len(examples),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "tokens": tokens,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(sum(map(_tokens, now)) / seconds),
        "first_loss": losses[0][1] if losses else None,
        "last_loss": losses[-1][1] if losses else None,
        "losses": losses,
        "settings": settings.model_dump(mode="json"),
        "tools": dict(sorted(tools.items())),
    }
    return Fitted(trainer.model, tokenizer, style, summary, checkpoints)


def _noting_tools(trajectories: Iterable[Trajectory], tools: dict[str, str]) -> Iterator[Trajectory]:
    """The trajectories; `tools` gets the versions of the tools that they call."""
    for trajectory in trajectories:
        tools.update(trajectory.tool_versions)
        yield trajectory


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


def load_teacher(
    settings: SFTSettings, tokenizer: PreTrainedTokenizerBase, style: PromptStyle
) -> PreTrainedModel | None:
    """The local teacher, if there is one.

    Raises:
        ModelError: there is no such model, or it reads another vocabulary or another style than the student.
    """
    if settings.loss.teacher is None:
        return None
    model, its_tokenizer, its_style = load_model(
        settings.model_copy(update={"model": settings.loss.teacher, "style": None})
    )
    if its_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ModelError(f"{settings.loss.teacher}: a local teacher must have the student's tokenizer")
    if its_style != style:
        raise ModelError(f"{settings.loss.teacher}: the teacher reads {its_style}, the student {style}")
    return model


def drawn_batches(
    examples: list[Example], settings: SFTSettings, teacher: PreTrainedModel | None = None
) -> list[list[Example]]:
    """The batches to train on in their order, some more than once, until epochs or tokens are spent."""
    shared = _shared(examples, settings)
    batches = make_batches(examples, settings.batch_tokens, settings.seed, shared=shared)
    sizes = [_tokens(batch) for batch in batches]
    budget = settings.epochs * sum(sizes)
    if settings.max_tokens is not None:
        budget = min(budget, settings.max_tokens)
    hardness = _hardness(batches, settings.curriculum, teacher)
    return [batches[i] for i in draw_order(sizes, budget, settings.seed, settings.curriculum, hardness)]


def _shared(examples: Sequence[Example], settings: SFTSettings) -> int:
    """How many tokens at the beginning of all examples are computed once a batch; 0 if that can not be or gains little.

    Checkpointed layers keep no keys and values, and several processes expect one forward pass a batch.
    """
    if settings.gradient_checkpointing or settings.loss.observe_weight or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return 0
    shared = shared_prefix(examples)
    return shared if shared >= LEAST_SHARED else 0


def _hardness(
    batches: list[list[Example]], curriculum: Curriculum | None, teacher: PreTrainedModel | None
) -> list[float]:
    """The mean difficulty of the examples of each batch."""
    if curriculum is None:
        return []
    nats = [[0.0] * len(batch) for batch in batches]
    if teacher is not None and curriculum.gamma:
        from toolenv.training.sad import teacher_entropies

        nats = [teacher_entropies(teacher, batch) for batch in batches]
    return [
        sum(map(curriculum.difficulty, batch, each)) / len(batch) for batch, each in zip(batches, nats, strict=True)
    ]


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedModel | None,
    batches: list[list[Example]],
    out: Path,
    settings: SFTSettings,
    on_step: OnStep | None = None,
) -> SADTrainer:
    """A trainer that goes through the batches once, in their order."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig

    from toolenv.training.sad import SADTrainer, collate, row_of

    class Report(TrainerCallback):  # type: ignore[misc]  # transformers' types are skipped
        """Passes the loss on; TRL's own printing is off."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if on_step is not None and logs and "loss" in logs:
                on_step(state.global_step, state.max_steps, logs["loss"])

    config = SFTConfig(
        output_dir=str(out / CHECKPOINTS),
        num_train_epochs=1,
        per_device_train_batch_size=1,  # a row is a whole batch
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=settings.bf16,
        **{_checkpointing_field(SFTConfig): settings.gradient_checkpointing},
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        report_to="none",
        save_strategy="no" if settings.checkpoint_steps is None else "steps",
        save_steps=settings.checkpoint_steps or 1,
        save_total_limit=1,
        disable_tqdm=True,
        use_cpu=not _has_gpu(),
    )
    steps = math.ceil(len(batches) / (settings.accumulation * config.world_size))
    config.warmup_steps = round(settings.warmup_ratio * steps)
    config.logging_steps = max(1, steps // 50)
    lora = None
    if settings.lora is not None:
        lora = LoraConfig(
            r=settings.lora.rank,
            lora_alpha=settings.lora.alpha,
            lora_dropout=settings.lora.dropout,
            target_modules=settings.lora.target_modules,
            modules_to_save=list(settings.lora.in_full) or None,
            ensure_weight_tying=bool(settings.lora.in_full),
            task_type="CAUSAL_LM",
        )
    trainer = SADTrainer(
        loss=settings.loss,
        teacher=teacher,
        shared=_shared([example for batch in batches for example in batch], settings),
        model=model,
        args=config,
        train_dataset=Dataset.from_list([row_of(batch) for batch in batches]),
        processing_class=tokenizer,
        data_collator=collate,
        callbacks=[Report()],
        peft_config=lora,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _checkpointing_field(config: type[Any]) -> str:
    """transformers renamed the field in 5.2x; the old name warns there."""
    new = "activation_checkpointing"
    return new if new in config.__dataclass_fields__ else "gradient_checkpointing"


def _tokens(batch: list[Example]) -> int:
    return sum(len(example.input_ids) for example in batch)


def is_main_process() -> bool:
    """Whether this is the process that writes and tells, of those that `accelerate launch` or `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, style: PromptStyle, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(str(out))
    style.save(out)
