"""Group-relative policy gradient (GRPO, arXiv 2402.03300) on what a policy sampled, wherever the samples come from.

The three recipes of this room that learn from rewards (SCoRe's short horizon, SWiRL's single steps, whole episodes)
differ in what they sample and how they score it; each hands its groups to `train_policy`, which does the rest. Ids are
those that were sampled, never encoded anew, and the loss is on them alone.

What this omits: a critic, a replay buffer, temperatures other than 1 (the policy that is sampled is the one that is
trained), sampling on other machines. On several processes (`accelerate launch`) each
samples its own groups, and gradients are averaged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from toolenv.agents.dialects import ToolenvDialect
from toolenv.agents.language_model import LanguageModelPolicy, ModelError, Prompter, Student
from toolenv.agents.records import whole_file
from toolenv.agents.trajectory import Step, Trajectory
from toolenv.scenarios.splits import mix, salt
from toolenv.tools.calls import Json
from toolenv.tools.toolbox import Toolbox
from toolenv.training.claim import claim

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


SUMMARY = "policy_gradient.json"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a policy wrote, once, and what it was worth.

    Attributes:
        input_ids: (T,) the whole text, from the first token of the context on.
        sampled: (T,) which of them the policy wrote.
        logprobs: of those that it wrote, in order, when it did; nats.
        reward: of all of it.
    """

    input_ids: list[int]
    sampled: list[bool]
    logprobs: list[float]
    reward: float


Group = Sequence[Sample]
Sampler = Callable[[LanguageModelPolicy, int], Sequence[Group]]
"""From the policy as it is, and a seed that no other step or process has, to groups of samples."""


class PolicyGradientSettings(BaseModel):
    """What a run depends on, besides what it samples. Defaults are ours: SCoRe and SWiRL publish none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(60, ge=1, description="Optimiser steps; each has fresh samples.")
    groups: int = Field(24, ge=1, description="Groups a step and process.")
    group_size: int = Field(6, ge=2, description="Samples a group.")
    max_new_tokens: int = Field(96, ge=1, description="Of one turn; a turn cut there can not be read.")
    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(3, ge=0)
    decay: bool = Field(False, description="Let the learning rate fall to 0 in a line, so that noise averages out.")
    clip: float = Field(0.2, gt=0, description="How far the probability ratio may move, each way.")
    kl: float = Field(0.0, ge=0, description="Weight of the KL divergence to the model that training began with.")
    scale: bool = Field(True, description="Divide advantages by the group's standard deviation.")
    passes: int = Field(1, ge=1, description="Passes over the samples of a step.")
    batch_tokens: int = Field(2_560, ge=16, description="Tokens a batch, padding counted.")
    max_grad_norm: float = Field(1.0, gt=0)
    save_every: int = Field(10, ge=1, description="Steps between checkpoints, from which an interrupted run goes on.")
    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)


@dataclass(frozen=True, slots=True)
class StepLog:
    """One step: mean reward of all samples, share of groups that differ in it, sampled tokens, loss, seconds."""

    step: int
    reward: float
    informative: float
    tokens: int
    loss: float
    seconds: float


def advantages(rewards: Sequence[float], *, scale: bool) -> list[float]:
    """Rewards less their mean, over their standard deviation if `scale`; zeros if all are equal."""
    mean = sum(rewards) / len(rewards)
    deviation = (sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) ** 0.5
    if deviation < 1e-6:
        return [0.0] * len(rewards)
    return [(reward - mean) / (deviation if scale else 1.0) for reward in rewards]


def clipped_loss(logprobs: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, *, clip: float) -> torch.Tensor:
    """The summed loss of tokens: (N,) log-probabilities now and when sampled, in nats, and (N,) advantages -> ()."""
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -(ratio * advantage).minimum(clipped * advantage).sum()


def divergence(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """An unbiased estimate of the KL divergence to a reference, summed: (N,) log-probabilities of both, nats -> ().

    It is r - log r - 1, r = p_reference / p, of tokens sampled from p (Schulman 2020, "Approximating KL divergence").
    """
    gap = reference - logprobs
    return (gap.exp() - gap - 1).sum()


def train_policy(
    model: str | Path,
    out: str | Path,
    sampler: Sampler,
    settings: PolicyGradientSettings,
    *,
    on_step: Callable[[StepLog], None] | None = None,
    **depends_on: Json,
) -> list[StepLog]:
    """Improve the student in the folder `model` by policy gradient; the folder `out` is then the new one.

    The same call again goes on from the last checkpoint in `out`; if it is finished, its log is returned.

    Args:
        sampler: called once a step.
        depends_on: what the sampler's groups and rewards depend on, by which a run is known again.

    Raises:
        ModelError: there is no student in `model`.
        FolderTaken: `out` holds a run from another model or with other settings.
    """
    import torch
    from accelerate import Accelerator

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    out = Path(out)
    accelerator = Accelerator()
    if accelerator.is_main_process:
        claim(out, model=str(model), policy_gradient=settings.model_dump(mode="json"), **depends_on)
    accelerator.wait_for_everyone()
    if (out / SUMMARY).is_file():
        return [StepLog(**entry) for entry in json.loads((out / SUMMARY).read_text())["steps"]]
    student = Student.load(model, device=str(accelerator.device))
    reference = Student.load(model, device=str(accelerator.device)) if settings.kl else None
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    checkpoint = out / "checkpoint.pt"
    log = _resume(checkpoint, student, optimizer)
    policy = LanguageModelPolicy(student, temperature=1.0, max_new_tokens=settings.max_new_tokens, name=out.name)
    for step in range(len(log), settings.steps):
        began = time.perf_counter()
        groups = sampler(policy, mix(settings.seed, step, accelerator.process_index, salt("policy gradient")))
        weighted = [
            (sample, advantage)
            for group in groups
            for sample, advantage in zip(group, _advantages(group, settings), strict=True)
            if advantage or settings.kl
        ]
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate(step, settings)
        loss = 0.0
        for _ in range(settings.passes):
            loss = _update(student, reference, optimizer, weighted, settings, accelerator)
        log.append(_logged(step, groups, loss, time.perf_counter() - began))
        if on_step is not None and accelerator.is_main_process:
            on_step(log[-1])
        if accelerator.is_main_process and (step + 1) % settings.save_every == 0:
            _save_checkpoint(checkpoint, student, optimizer, log)
    if accelerator.is_main_process:
        _finish(out, student, log)
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return log


def learning_rate(step: int, settings: PolicyGradientSettings) -> float:
    """Of a step, counted from 0."""
    left = (settings.steps - step) / settings.steps if settings.decay else 1.0
    return settings.learning_rate * left * min(1.0, (step + 1) / (settings.warmup_steps + 1))


def _advantages(group: Group, settings: PolicyGradientSettings) -> list[float]:
    return advantages([sample.reward for sample in group], scale=settings.scale)


def _logged(step: int, groups: Sequence[Group], loss: float, seconds: float) -> StepLog:
    rewards = [sample.reward for group in groups for sample in group]
    differing = sum(len({sample.reward for sample in group}) > 1 for group in groups)
    return StepLog(
        step=step,
        reward=round(sum(rewards) / max(1, len(rewards)), 4),
        informative=round(differing / max(1, len(groups)), 4),
        tokens=sum(len(sample.logprobs) for group in groups for sample in group),
        loss=round(loss, 5),
        seconds=round(seconds, 3),
    )


def _update(
    student: Student,
    reference: Student | None,
    optimizer: torch.optim.Optimizer,
    weighted: Sequence[tuple[Sample, float]],
    settings: PolicyGradientSettings,
    accelerator: Any,
) -> float:
    """One optimiser step on the mean loss of the tokens of all processes; this process's part of it.

    Where no group tells its samples apart there is nothing to learn, and no step is made.
    """
    import torch

    optimizer.zero_grad()
    count = torch.tensor(sum(len(sample.logprobs) for sample, _ in weighted), device=accelerator.device)
    tokens = int(accelerator.reduce(count))
    if not tokens:
        return 0.0
    total = 0.0
    for batch in _batches(weighted, settings.batch_tokens):
        samples = [sample for sample, _ in batch]
        logprobs = sampled_logprobs(student.model, samples)
        old = logprobs.new_tensor([value for sample in samples for value in sample.logprobs])
        advantage = logprobs.new_tensor([value for sample, value in batch for _ in sample.logprobs])
        loss = clipped_loss(logprobs, old, advantage, clip=settings.clip)
        if reference is not None:
            with torch.no_grad():
                theirs = sampled_logprobs(reference.model, samples)
            loss = loss + settings.kl * divergence(logprobs, theirs)
        (loss / tokens).backward()  # type: ignore[no-untyped-call]  # torch has no type for it
        total += loss.item() / tokens
    if accelerator.num_processes > 1:
        for parameter in student.model.parameters():
            mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = accelerator.reduce(mine)
    torch.nn.utils.clip_grad_norm_(student.model.parameters(), settings.max_grad_norm)
    optimizer.step()
    return total


def _batches(weighted: Sequence[tuple[Sample, float]], batch_tokens: int) -> list[list[tuple[Sample, float]]]:
    """Samples of one context together, contexts of like length together, each batch of at most `batch_tokens` tokens
    when padded (or of one sample)."""
    batches: list[list[tuple[Sample, float]]] = [[]]
    rows, width, last = 0, 0, -1
    for item in sorted(weighted, key=lambda item: (len(_context(item[0])), _context(item[0]))):
        context, length = _context(item[0]), len(item[0].input_ids)
        shared = bool(batches[-1]) and _context(batches[-1][-1][0]) == context
        last = last + length - len(context) if shared else length  # of the last row
        rows += not shared
        width = max(width, last)
        if batches[-1] and rows * width > batch_tokens:
            batches.append([])
            rows, width, last = 1, length, length
        batches[-1].append(item)
    return [batch for batch in batches if batch]


def _context(sample: Sample) -> list[int]:
    """What stood before the policy wrote its first id."""
    return sample.input_ids[: sample.sampled.index(True)]


def sampled_logprobs(model: Any, samples: Sequence[Sample]) -> torch.Tensor:
    """(N,) log-probabilities in nats of all ids that the policy wrote, sample by sample, by one forward pass.

    Of neighbours with one context, a Llama computes it once: they stand in one row behind it, and none sees another.
    """
    import torch

    rows: list[list[Sample]] = []
    for sample in samples:
        alike = rows and model.config.model_type == "llama" and _context(rows[-1][0]) == _context(sample)
        rows[-1].append(sample) if alike else rows.append([sample])
    packed = [_packed(row) for row in rows]
    width = max(len(ids) for ids, _, _, _ in packed)
    ids, positions, parts = (
        torch.tensor([row[i] + [fill] * (width - len(row[i])) for row in packed], device=model.device)
        for i, fill in ((0, 0), (1, 0), (2, -1))
    )  # (R, T) each
    # Padded on the right: under a causal mask no id that counts sees a pad.
    more: dict[str, torch.Tensor] = {}
    if len(rows) < len(samples):
        seen = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])  # (R, T, T)
        hidden = ~(seen & torch.ones(width, width, dtype=torch.bool, device=model.device).tril())
        mask = torch.zeros(hidden.shape, dtype=model.dtype, device=model.device)
        more = {"attention_mask": mask.masked_fill_(hidden, torch.finfo(model.dtype).min)[:, None]}
    logits = model(input_ids=ids, position_ids=positions, use_cache=False, **more).logits  # (R, T, V)
    at = [(i, before, column) for i, row in enumerate(packed) for before, column in row[3]]
    row, before, column = torch.tensor(at, device=model.device).T
    chosen: torch.Tensor = logits[row, before].float().log_softmax(-1).gather(1, ids[row, column][:, None])[:, 0]
    return chosen


def _packed(samples: Sequence[Sample]) -> tuple[list[int], list[int], list[int], list[tuple[int, int]]]:
    """Samples of one context as one row of T ids.

    Returns:
        (T,) ids; (T,) their positions; (T,) 0 for the context, then the sample's number from 1 on; and for each id
        that the policy wrote the columns of the one before it and its own.
    """
    ids = _context(samples[0])
    start = len(ids)
    positions, parts, written = list(range(start)), [0] * start, []
    for number, sample in enumerate(samples, 1):
        for place in range(start, len(sample.input_ids)):
            if sample.sampled[place]:
                written.append((start - 1 if place == start else len(ids) - 1, len(ids)))
            ids.append(sample.input_ids[place])
            positions.append(place)
            parts.append(number)
    return ids, positions, parts, written


def sample_of(trajectory: Trajectory, policy: LanguageModelPolicy, toolbox: Toolbox, reward: float) -> Sample:
    """A recorded episode as a sample: the ids that the policy sampled, and what it was shown between them.

    Raises:
        ModelError: the policy's chat template rewrites earlier turns; such a student learns from single steps only
            (SWiRL).
    """
    ids: list[int] = []
    sampled: list[bool] = []
    logprobs: list[float] = []
    pieces = _pieces if policy.style.dialect == ToolenvDialect.name else _template_pieces
    for text, step in pieces(trajectory, Prompter(policy.style, toolbox, policy.tokenizer), policy.tokenizer):
        if step is not None and step.token_ids is not None and step.logprobs is not None:
            ids += step.token_ids
            sampled += [True] * len(step.token_ids)
            logprobs += step.logprobs
        else:
            part = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += part
            sampled += [False] * len(part)
    return Sample(ids, sampled, logprobs, reward)


def _pieces(trajectory: Trajectory, prompter: Prompter, _: Any) -> Iterator[tuple[str, Step | None]]:
    """What the student was shown, and its steps."""
    steps = iter(trajectory.steps)
    return ((text, next(steps) if own else None) for text, own in prompter.pieces(trajectory.messages))


def _template_pieces(
    trajectory: Trajectory, prompter: Prompter, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[str, Step | None]]:
    """The same through a chat template, with what the student wrote to the letter, as when it acted."""
    done, written = "", dict[int, str]()
    for number, step in enumerate(trajectory.steps):
        if step.token_ids is None:
            continue
        text = prompter.context(replace(trajectory, steps=trajectory.steps[:number]).messages, written)
        if not text.startswith(done):
            raise ModelError("the model's chat template rewrites earlier turns; train it step by step (SWiRL)")
        yield text.removeprefix(done), None
        yield "", step
        written[number] = step.text.removesuffix(str(tokenizer.eos_token))
        done = text + step.text


def _resume(checkpoint: Path, student: Student, optimizer: torch.optim.Optimizer) -> list[StepLog]:
    import torch

    if not checkpoint.is_file():
        return []
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    student.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return [StepLog(**entry) for entry in state["log"]]


def _save_checkpoint(
    checkpoint: Path, student: Student, optimizer: torch.optim.Optimizer, log: Sequence[StepLog]
) -> None:
    import torch

    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    state = {"model": student.model.state_dict(), "optimizer": optimizer.state_dict(), "log": [asdict(e) for e in log]}
    with whole_file(checkpoint) as stream:
        torch.save(state, stream)


def _finish(out: Path, student: Student, log: Sequence[StepLog]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    student.model.save_pretrained(out)
    student.tokenizer.save_pretrained(str(out))
    student.style.save(out)
    with whole_file(out / SUMMARY) as stream:
        stream.write(json.dumps({"steps": [asdict(entry) for entry in log]}, indent=2).encode() + b"\n")
