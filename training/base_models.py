"""The base models: small Llamas that can read a tool list, match a request and copy values, and know nothing else.

No model hub is needed: ``toolenv-tiny`` ships with the package, ``toolenv-small`` is built on the spot, and both are
made by this file from generated documents alone (``documents.py``). They are a starting point for the specialists
of this room, not assistants.

How they are made. Plain next-token prediction with AdamW, warm-up and a cosine; the assistant's tokens count fully,
all others a tenth, because a tool's result is mostly noise that nobody can foresee. Small models learn to copy late,
if at all: from usual random weights this one still copied no name, date or number after five million tokens. So the
weights start as induction heads (``start_as_copier``), in the spirit of Trockman and Kolter 2023, "Mimetic
Initialization of Self-Attention Layers", of the circuit that Olsson et al. 2022 found in trained models ("In-context
Learning and Induction Heads"). Training then opens with random sequences that repeat, goes on with copying drills and
ends with episodes. Rows are sorted by length and padded on the right without an attention mask: under a causal mask a
pad at the end can be seen by no token that counts.

What this omits: multi-device training, validation-based early stopping.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from toolenv.agents.language_model import PromptStyle
from toolenv.agents.shipped_models import shipped_folder
from toolenv.training.documents import COPY_KINDS, Document, documents
from toolenv.training.growth import grow
from toolenv.training.tokenizer import (
    ANSWER,
    ASSISTANT,
    CALL,
    CONTEXT_LENGTH,
    END,
    SPECIAL_TOKENS,
    VOCABULARY_SIZE,
    build_tokenizer,
    domain_corpus,
    load_tokenizer,
)

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HELD_OUT_SEED: Final = 900_001
"""Seed of the documents that are only ever used for evaluation."""
ROPE_THETA: Final = 1e6
OTHER_WEIGHT: Final = 0.1
"""Loss weight of a token that is not the assistant's."""
_INDUCTION_SHARE: Final = 0.04
_TOKENIZER_DOCUMENTS: Final = 1500
_DOMAIN_WEIGHT: Final = 40


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a base model, and the tokens that its default build sees.

    Attributes:
        grown_from: the base model that it begins as, widened and deepened (``growth.py``); None begins anew.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    tokens: int
    peak_lr: float
    grown_from: str | None = None


ARCHITECTURES: Final = {
    "tiny": Architecture(hidden=192, layers=4, heads=4, intermediate=416, tokens=14_000_000, peak_lr=2.5e-3),
    "small": Architecture(
        hidden=576, layers=5, heads=12, intermediate=1248, tokens=2_000_000, peak_lr=5e-4, grown_from="tiny"
    ),
}


@dataclass(slots=True)
class Progress:
    """Where a build stands; saved with every checkpoint.

    Attributes:
        step: optimiser steps made. tokens: tokens seen, pads not counted. seconds: time spent in training.
        chunk, batch: position in the stream of documents; the batch is the next one to be trained on.
        chunk_fraction: share of the schedule at which the current chunk was drawn.
        log: one record an evaluation, see ``build``.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    chunk: int = 0
    batch: int = 0
    chunk_fraction: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)


def base_model_path(name: str) -> Path:
    """The folder of a base model: ``tiny`` in the package, others in ``$XDG_CACHE_HOME/toolenv``.

    Raises:
        KeyError: no base model has this name.
        FileNotFoundError: the model has not been built yet.
    """
    short = _short(name)
    folder = shipped_folder(f"toolenv-{short}")
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"toolenv-{short} is not in {folder}; build it with: toolenv base-model build {short}")
    return folder


def default_output(name: str) -> Path:
    """Where ``build`` should put a model so that ``base_model_path`` finds it."""
    return shipped_folder(f"toolenv-{_short(name)}")


def load(name: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A base model in float32, in evaluation mode, and its tokenizer.

    Raises:
        KeyError: no base model has this name.
        FileNotFoundError: the model has not been built yet.
    """
    import torch
    from transformers import LlamaForCausalLM

    folder = base_model_path(name)
    model = LlamaForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    return model.eval(), load_tokenizer(folder)


def new_tokenizer(vocabulary_size: int = VOCABULARY_SIZE) -> PreTrainedTokenizerFast:
    """Trains the shipped tokenizer anew, from documents and the words of the domain."""
    stream = documents(11, drills=0.15, without=("act",))  # `act` came later; the vocabulary stays as it was
    sample = (document.text for document in itertools.islice(stream, _TOKENIZER_DOCUMENTS))
    return build_tokenizer(itertools.chain(sample, domain_corpus(_DOMAIN_WEIGHT)), vocabulary_size)


def new_model(name: str, seed: int, vocabulary_size: int = VOCABULARY_SIZE) -> LlamaForCausalLM:
    """A base model before training, float32: one that grew from another computes what that does; the attention of
    any other starts as in ``start_as_copier``.

    Raises:
        KeyError: no base model has this name.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = ARCHITECTURES[_short(name)]
    if sizes.grown_from is not None:
        smaller, _ = load(sizes.grown_from)
        return grow(smaller, factor=sizes.hidden // smaller.config.hidden_size, layers=sizes.layers, seed=seed)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size,
            hidden_size=sizes.hidden,
            intermediate_size=sizes.intermediate,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            max_position_embeddings=CONTEXT_LENGTH,
            tie_word_embeddings=True,
            attention_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=SPECIAL_TOKENS.index(END),
        )
    )
    start_as_copier(model)
    return model


def start_as_copier(model: LlamaForCausalLM) -> None:
    """Sets some attention heads to the circuit that repeats what followed the same words before.

    In the first layer, heads 0 to 2 look back one, two and three places, by their biases and the rotary phases, and
    write what they see into a space of their own. In the second layer, heads seek the places whose one, two or three
    predecessors are the current tokens, and predict the token that stands there; a head of the third layer does so
    by two. Everything stays trainable. Before any training, this repeats random sequences with about 60% accuracy.
    """
    import torch

    width, size = model.config.hidden_size, model.config.hidden_size // model.config.num_attention_heads
    half = size // 2
    speeds = [ROPE_THETA ** (-pair / half) for pair in range(half)]  # radians a position
    slow = [pair for pair in range(half) if speeds[pair] < 0.004]  # pairs that hardly turn within a document
    dims = slow + [pair + half for pair in slow]

    def frame() -> torch.Tensor:
        """(size, width), orthonormal rows."""
        columns: torch.Tensor = torch.linalg.qr(torch.randn(width, size))[0]
        return columns.T

    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0.0, 0.04)
        spaces = [frame()]  # spaces[n]: where the token n places back can be read; 0 is the token itself
        first = model.model.layers[0].self_attn
        for head in range(3):
            rows = slice(head * size, (head + 1) * size)
            first.q_proj.weight[rows] *= 0.1
            first.k_proj.weight[rows] *= 0.1
            for pair, sharpness in enumerate((12, 8, 5, 3, 2, 1)[:half]):
                length, angle = math.sqrt(sharpness * math.sqrt(size)), -speeds[pair] * (head + 1)
                first.q_proj.bias[head * size + pair] = length * math.cos(angle)
                first.q_proj.bias[head * size + pair + half] = length * math.sin(angle)
                first.k_proj.bias[head * size + pair] = length
            spaces.append(frame())
            first.v_proj.weight[rows] = spaces[0]
            first.o_proj.weight[:, rows] = 0.056 * spaces[-1].T
        basis = torch.linalg.qr(torch.randn(width, width))[0].T
        for layer, head, length_of_match in ((1, 0, 1), (1, 1, 2), (1, 2, 3), (2, 0, 2)):
            attention = model.model.layers[layer].self_attn
            rows = slice(head * size, (head + 1) * size)
            attention.q_proj.weight[rows] = attention.k_proj.weight[rows] = 0.0
            for number, dim in enumerate(dims):
                back = number % length_of_match
                attention.q_proj.weight[rows][dim] = math.sqrt(6) * spaces[back][number]
                attention.k_proj.weight[rows][dim] = math.sqrt(6) * spaces[back + 1][number]
            attention.v_proj.weight[rows] = basis[rows]
            attention.o_proj.weight[:, rows] = 0.3 * basis[rows].T


@dataclass(frozen=True, slots=True)
class Settings:
    """What a build depends on besides its architecture.

    Attributes:
        tokens: length of the schedule in tokens. seed: decides weights and documents. threads: torch threads.
        deadline: unix time at which the schedule ends at the latest, or None.
        batch_tokens: tokens a batch, pads counted. warmup_tokens: tokens of linear warm-up.
        checkpoint_seconds, evaluate_steps: how often.
        device: where torch computes. bfloat16: products in bfloat16, weights and sums in float32; half as fast again.
        continued: the weights are trained already, so the documents are those of the end of the schedule throughout.
    """

    tokens: int
    seed: int = 0
    threads: int = 2
    deadline: float | None = None
    batch_tokens: int = 3072
    warmup_tokens: int = 150_000
    checkpoint_seconds: float = 180.0
    evaluate_steps: int = 150
    device: str = "cpu"
    bfloat16: bool = True
    continued: bool = False


def build(
    name: str,
    out: Path | str,
    *,
    tokens: int | None = None,
    seed: int = 0,
    threads: int = 2,
    resume: bool = True,
    deadline: float | None = None,
    device: str = "cpu",
    **more: Any,
) -> dict[str, Any]:
    """Trains a base model and saves it to `out`; killed at any time, it goes on from its last checkpoint.

    Args:
        name: ``tiny`` or ``small``, with or without ``toolenv-``.
        out: folder for weights (float16 safetensors), tokenizer, ``README.md`` and ``training_log.json``.
        tokens: length of the schedule; None takes the architecture's own.
        seed: decides weights and documents.
        threads: torch threads.
        resume: go on from a checkpoint in ``out`` if one is there.
        deadline: unix time; the learning rate is annealed so that training ends by then, with fewer tokens.
        device: where torch computes.
        more: other fields of ``Settings``.

    Returns:
        The last record of the log: step, tokens, seconds, loss (nats a token over the assistant's tokens of the
        held-out documents), copy accuracy by kind, exact match of calls and answers.

    Raises:
        KeyError: no base model has this name.
    """
    import torch

    sizes = ARCHITECTURES[_short(name)]
    more = {"continued": sizes.grown_from is not None, **more}
    settings = Settings(tokens or sizes.tokens, seed, threads, deadline, device=device, **more)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    tokenizer = load_tokenizer(base_model_path("tiny"))
    model = new_model(name, seed, len(tokenizer)).to(device)
    optimizer = _optimizer(model, sizes.peak_lr)
    progress = Progress()
    checkpoint = out / "checkpoint.pt"
    if resume and checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**state["progress"])
    _train(model, tokenizer, optimizer, progress, settings, sizes.peak_lr, out)
    save(model, tokenizer, out, _card(_short(name), sizes, settings, progress))
    checkpoint.unlink(missing_ok=True)
    return progress.log[-1]


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, card: str) -> None:
    """Writes weights as float16, the tokenizer and the card; the weights load as float32 unless asked otherwise."""
    import copy

    import torch

    copy.deepcopy(model).to(torch.float16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone, and wheels keep modes
    config = json.loads((out / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(str(out))
    PromptStyle().save(out)
    (out / "README.md").write_text(card)


# Data


@dataclass(frozen=True, slots=True)
class _Row:
    ids: list[int]
    weights: list[float]


def _chunk(tokenizer: PreTrainedTokenizerFast, settings: Settings, number: int, fraction: float) -> list[list[_Row]]:
    """Chunk `number` of the stream as batches of rows of like length, in random order."""
    rng = Random(f"{settings.seed}/{number}")
    drills, induction = _mixture(1.0 if settings.continued else fraction)
    texts = [document.text for document in itertools.islice(documents(rng.getrandbits(62), drills=drills), 512)]
    rows = [weighted_row(tokenizer, ids) for ids in tokenizer(texts)["input_ids"]]
    rows += [_repeating_row(rng, len(tokenizer)) for _ in range(round(512 * induction / (1 - induction)))]
    rows.sort(key=lambda row: (len(row.ids), rng.random()))
    batches: list[list[_Row]] = [[]]
    for row in rows:
        if batches[-1] and (len(batches[-1]) + 1) * len(row.ids) > settings.batch_tokens:
            batches.append([])
        batches[-1].append(row)
    rng.shuffle(batches)
    return batches


def _mixture(fraction: float) -> tuple[float, float]:
    """(share of drills among documents, share of repeating random rows among all) at a point of the schedule."""
    if fraction < 0.01:
        return 1.0, 0.6
    if fraction < 0.2:
        return 0.75, 0.15
    if fraction < 0.45:
        return 0.45, _INDUCTION_SHARE
    return 0.25, _INDUCTION_SHARE


def weighted_row(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> _Row:
    """Loss weights (T,) of a document's ids: 1 from after ``<|assistant|>`` through ``<|end|>``, else a tenth."""
    opens, closes = tokenizer.convert_tokens_to_ids([ASSISTANT, END])
    weights, inside = [], False
    for token in ids:
        weights.append(1.0 if inside else OTHER_WEIGHT)
        inside = token == opens or (inside and token != closes)
    return _Row(list(ids)[:CONTEXT_LENGTH], weights[:CONTEXT_LENGTH])


def _repeating_row(rng: Random, vocabulary_size: int) -> _Row:
    """Random tokens that come again, whole or from a point on; only what comes again counts."""
    part = [rng.randrange(len(SPECIAL_TOKENS), vocabulary_size) for _ in range(rng.randrange(6, 40))]
    ids, weights = list(part), [0.0] * len(part)
    while len(ids) < 110:
        start = rng.randrange(len(part) // 2) if rng.random() < 0.5 else 0
        gap = [rng.randrange(len(SPECIAL_TOKENS), vocabulary_size) for _ in range(rng.choice((0, 0, 2, 5)))]
        ids += gap + part[start:]
        weights += [0.0] * (len(gap) + 1) + [1.0] * (len(part) - start - 1)
    return _Row(ids, weights)


def _tensors(rows: Sequence[_Row], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids (B, T) int64 padded on the right with 0, weights (B, T) float32 padded with 0)."""
    import torch

    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows])
    weights = torch.tensor([row.weights + [0.0] * (width - len(row.weights)) for row in rows])
    return ids.to(device), weights.to(device)


# Training


def _optimizer(model: LlamaForCausalLM, lr: float) -> torch.optim.AdamW:
    import torch

    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def learning_rate(peak: float, tokens: int, fraction: float, warmup_tokens: int) -> float:
    """Linear warm-up over tokens, then a cosine over the `fraction` of the schedule, down to a twentieth of `peak`."""
    warm = min(1.0, (tokens + 1) / warmup_tokens) if warmup_tokens else 1.0
    return peak * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))))


def weighted_loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy in nats, weighted.

    Args:
        model: the model.
        ids: (B, T) int64.
        weights: (B, T), the weight of predicting ``ids[b, t]``; column 0 is unused.

    Returns:
        A scalar.
    """
    import torch.nn.functional as functional

    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (B, T-1, H)
    counted = weights[:, 1:] > 0  # (B, T-1): logits are computed only where they count
    logits = model.lm_head(hidden[counted])  # (N, V)
    losses = functional.cross_entropy(logits, ids[:, 1:][counted], reduction="none")
    wanted = weights[:, 1:][counted]
    return (losses * wanted).sum() / wanted.sum()


def _train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    optimizer: torch.optim.AdamW,
    progress: Progress,
    settings: Settings,
    peak_lr: float,
    out: Path,
) -> None:
    import torch
    from rich.progress import Progress as Bar

    held_out = list(itertools.islice(documents(HELD_OUT_SEED, drills=0.2), 160))
    started, before = time.time(), progress.seconds
    losses: list[float] = []
    checkpointed = started

    def fraction() -> float:
        by_tokens = progress.tokens / settings.tokens
        if settings.deadline is None:
            return by_tokens
        return max(by_tokens, progress.seconds / max(1.0, before + settings.deadline - started))

    def record() -> None:
        entry = {
            "step": progress.step,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 1),
            "lr": optimizer.param_groups[0]["lr"],
            "train_loss": round(sum(losses) / max(1, len(losses)), 4),
            **evaluate(model, tokenizer, held_out),
        }
        losses.clear()
        progress.log.append(entry)
        _write_json(out / "training_log.json", progress.log)
        print(time.strftime("%H:%M:%S"), json.dumps(entry), flush=True)

    model.train()
    with Bar(disable=not os.isatty(1)) as bar:
        shown = bar.add_task("training", total=1.0)
        while fraction() < 1:
            if progress.batch == 0:
                progress.chunk_fraction = fraction()
            batches = _chunk(tokenizer, settings, progress.chunk, progress.chunk_fraction)
            for rows in batches[progress.batch :]:
                ids, weights = _tensors(rows, settings.device)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(peak_lr, progress.tokens, fraction(), settings.warmup_tokens)
                with torch.autocast(torch.device(settings.device).type, torch.bfloat16, enabled=settings.bfloat16):
                    loss = weighted_loss(model, ids, weights)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                losses.append(loss.item())
                progress.step += 1
                progress.batch += 1
                progress.tokens += sum(len(row.ids) for row in rows)
                progress.seconds = before + time.time() - started
                bar.update(shown, completed=fraction())
                if progress.step % settings.evaluate_steps == 0:
                    record()
                if time.time() - checkpointed > settings.checkpoint_seconds:
                    _checkpoint(model, optimizer, progress, out)
                    checkpointed = time.time()
                if fraction() >= 1:
                    break
            else:
                progress.chunk, progress.batch = progress.chunk + 1, 0
    record()


def _checkpoint(model: LlamaForCausalLM, optimizer: torch.optim.AdamW, progress: Progress, out: Path) -> None:
    import torch

    scratch = out / "checkpoint.pt.tmp"
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": asdict(progress)}
    torch.save(state, scratch)
    os.replace(scratch, out / "checkpoint.pt")


def _write_json(path: Path, value: Any) -> None:
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(scratch, path)


def plot(logs: dict[str, Sequence[dict[str, Any]]], out: Path | str) -> None:
    """Draws held-out loss and accuracies over millions of tokens as a PNG; `logs` maps a run's name to its log."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for style, (name, log) in zip(("-", ":", "--", "-."), logs.items(), strict=False):
        millions = [entry["tokens"] / 1e6 for entry in log]
        left.plot(millions, [entry["loss"] for entry in log], style, color="black", label=name)
        for number, key in enumerate(("copy_alias", "copy_digits", "copy_name", "call_exact")):
            shares = [entry[key] for entry in log]
            right.plot(millions, shares, style, color=f"C{number}", label=f"{key}, {name}")
    left.set(xlabel="million tokens", ylabel="held-out loss, nats a token", ylim=(0, 3))
    right.set(xlabel="million tokens", ylabel="share right, teacher-forced", ylim=(-0.02, 1.02))
    left.legend()
    right.legend(fontsize="small")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


# Evaluation


def evaluate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, held_out: Sequence[Document], *, batch: int = 16
) -> dict[str, Any]:
    """Teacher-forced greedy accuracy on documents.

    A copied value, a call or an answer counts as right only if the argmax is right at each of its tokens, given the
    true tokens before it.

    Returns:
        ``loss``: nats a token over the assistant's tokens. ``copy_<kind>`` for the kinds of ``COPY_KINDS``,
        ``call_exact``, ``answer_exact``, ``act`` (call or answer, at that token): shares between 0 and 1, or None
        where nothing was counted. ``n``: how many of each were counted.
    """
    import torch

    hits: dict[str, list[bool]] = defaultdict(list)
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    ordered = sorted(held_out, key=lambda document: len(document.text))
    for start in range(0, len(ordered), batch):
        part = ordered[start : start + batch]
        encoded = tokenizer([document.text for document in part], return_offsets_mapping=True)
        rows = [weighted_row(tokenizer, ids) for ids in encoded["input_ids"]]
        ids, weights = _tensors(rows, str(model.device))
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        right = (logits.argmax(-1) == ids[:, 1:]).cpu().tolist()
        own = weights[:, 1:] == 1.0
        losses = torch.nn.functional.cross_entropy(logits[own], ids[:, 1:][own], reduction="sum")
        total, count = total + losses.item(), count + int(own.sum())
        for document, row, offsets, correct in zip(part, rows, encoded["offset_mapping"], right, strict=True):
            _count(tokenizer, document, row, offsets, [False, *correct], hits)
    model.train(was_training)
    names = [*(f"copy_{kind}" for kind in COPY_KINDS), "call_exact", "answer_exact", "act"]
    shares = {name: round(sum(hits[name]) / len(hits[name]), 4) if hits[name] else None for name in names}
    return {"loss": round(total / max(1, count), 4), **shares, "n": {name: len(hits[name]) for name in names}}


def _count(
    tokenizer: PreTrainedTokenizerFast,
    document: Document,
    row: _Row,
    offsets: Sequence[tuple[int, int]],
    correct: Sequence[bool],
    hits: dict[str, list[bool]],
) -> None:
    call, answer, end = tokenizer.convert_tokens_to_ids([CALL, ANSWER, END])
    for start, stop, kind in document.copies:
        inside = [i for i, (a, b) in enumerate(offsets[: len(row.ids)]) if a < stop and b > start]
        if inside:
            hits[f"copy_{kind}"].append(all(correct[i] for i in inside))
    for position, token in enumerate(row.ids):
        if token in (call, answer) and row.weights[position] == 1.0:
            hits["act"].append(correct[position])
            last = next((i for i in range(position, len(row.ids)) if row.ids[i] == end), len(row.ids) - 1)
            name = "call_exact" if token == call else "answer_exact"
            hits[name].append(all(correct[position + 1 : last + 1]))


# The card


def _card(short: str, sizes: Architecture, settings: Settings, progress: Progress) -> str:
    last = progress.log[-1]
    start = "some heads are set to repeat what followed the same tokens before (`start_as_copier`); the rest is random."
    if sizes.grown_from is not None:
        start = f"`toolenv-{sizes.grown_from}`, widened and deepened with the same logits (`toolenv.training.growth`)."
    shares = "\n".join(f"| {name} | {last[name]} | {count} |" for name, count in last["n"].items())
    return f"""---
license: apache-2.0
library_name: transformers
---
# toolenv-{short}

A base model for tool use, made by `toolenv.training.base_models` from generated documents alone. It continues
documents in the toolenv dialect: it reads a tool list, matches a request, copies values. It knows no world and is no
assistant.

- Architecture: Llama, hidden {sizes.hidden}, {sizes.layers} layers, {sizes.heads} heads,
  intermediate {sizes.intermediate}, tied embeddings, context {CONTEXT_LENGTH}; stored in float16.
- Start: {start}
- Data: generated documents (`toolenv.training.documents`), seed {settings.seed}; no shipped tool occurs in them.
- Recipe: AdamW, peak learning rate {sizes.peak_lr}, cosine to a twentieth, {settings.batch_tokens} tokens a batch,
  clip 1.0; assistant tokens weigh 1, others {OTHER_WEIGHT}.
- Seen: {progress.tokens:,} tokens in {progress.step:,} steps, {progress.seconds / 60:.0f} minutes of training on
  {settings.threads} threads.
- Rebuild: `toolenv base-model build {short}`.

Held-out loss {last["loss"]} nats a token of the assistant. Teacher-forced greedy accuracy on held-out documents:

| what | share | n |
|---|---|---|
{shares}
"""


def _short(name: str) -> str:
    short = name.removeprefix("toolenv-")
    if short not in ARCHITECTURES:
        raise KeyError(f"no base model {name!r}; there are {', '.join(ARCHITECTURES)}")
    return short
