"""Structured agent distillation on top of TRL's SFTTrainer: a loss for reasoning, one for actions.

The losses themselves are in `losses`, with what the paper (arXiv 2505.13820) leaves open. Plain fine-tuning is this
trainer with equal weights. It imports torch and TRL; import it within functions.

A step's loss is that of all its tokens, over accumulated batches and processes. The load-balancing loss of
mixture-of-experts models is left out. What all conversations begin with, such as the schemas of the tools, is computed
once a batch: its keys and values serve every row, and its gradient is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from trl import SFTTrainer

from toolenv.agents.dialects import SpanKind
from toolenv.training.examples import Example
from toolenv.training.losses import SpanLoss, cross_entropy, entropy, forward_kl, span_factors
from toolenv.training.spans import KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SADTrainer(SFTTrainer):  # type: ignore[misc]  # trl's types are skipped
    """Trains on batches of `row_of` in their order, each a row of the dataset.

    Args:
        loss: weights, reduction, share of the KL.
        shared: with how many tokens all rows begin that carry no loss; they are computed once a batch.
        teacher: whose distribution is learned; without one, the loss is cross-entropy.
        given: SFTTrainer's arguments.
    """

    def __init__(
        self, *, loss: SpanLoss, teacher: PreTrainedModel | None = None, shared: int = 0, **given: Any
    ) -> None:
        super().__init__(**given)
        self.shared = shared
        self.reduction, self.kl_weight = loss.reduction, loss.kl_weight
        self.span_weights = torch.tensor(loss.weights, device=self.accelerator.device)  # (K,)
        self.teacher = None if teacher is None else teacher.to(self.accelerator.device).eval()
        self.model_accepts_loss_kwargs = True  # the loss is the step's already: it is not divided by its batches again

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[Any, Tensor]:
        """A step's batches, and (K,) how many tokens of each kind they hold on all processes together."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.stack([count_kinds(batch["kinds"]) for batch in batches]).sum(0)
        return batches, self.accelerator.reduce(counts.to(device))

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """The batch's part of the step's loss, in nats a token; `num_items_in_batch` is of `get_batch_samples`."""
        ids, kinds = inputs["input_ids"], inputs["kinds"][:, self.shared :]  # (B, S + T), (B, T)
        counts = count_kinds(kinds) if num_items_in_batch is None else num_items_in_batch  # (K,)
        trained = self.span_weights[kinds[:, 1:]] > 0  # (B, T - 1), N of them
        outputs = forward(model, ids, self.shared)
        student = logprobs(outputs.logits, trained)  # (N, V)
        losses = cross_entropy(student, ids[:, self.shared + 1 :][trained])  # (N,)
        if self.teacher is not None:
            with torch.no_grad():
                teacher = logprobs(forward(self.teacher, ids, self.shared).logits, trained)  # (N, V)
            losses = (1 - self.kl_weight) * losses + self.kl_weight * forward_kl(teacher, student)
        factors = span_factors(counts, self.span_weights, self.reduction)  # (K,)
        # Gradients are averaged over processes, while `counts` are of all of them.
        loss = (factors[kinds[:, 1:][trained]] * losses).sum() * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


def forward(model: PreTrainedModel, ids: Tensor, shared: int = 0) -> Any:
    """The model's output for (B, S + T) ids, of which the first S are the same in all rows; logits are (B, T, V)."""
    if not shared:
        return model(input_ids=ids, use_cache=False)
    past = model(input_ids=ids[:1, :shared], use_cache=True, logits_to_keep=1).past_key_values
    past.batch_repeat_interleave(len(ids))
    return model(input_ids=ids[:, shared:], past_key_values=past, use_cache=True)


def count_kinds(kinds: Tensor) -> Tensor:
    """How many tokens of each kind can be predicted, which the first of a row can not: (B, T) -> (K,)."""
    return kinds[:, 1:].flatten().bincount(minlength=len(KINDS))


def logprobs(logits: Tensor, where: Tensor) -> Tensor:
    """Log-probabilities of the next token at N places: logits (B, T, V), mask (B, T - 1) -> (N, V), in float32."""
    return logits[:, :-1][where].float().log_softmax(-1)


def row_of(batch: Sequence[Example]) -> dict[str, list[list[int]]]:
    """A batch as a row of a dataset."""
    return {
        "input_ids": [example.input_ids for example in batch],
        "kinds": [[KINDS.index(kind) for kind in example.kinds] for example in batch],
    }


def collate(rows: Sequence[dict[str, list[list[int]]]]) -> dict[str, Tensor]:
    """The one row as tensors (B, T), padded on the right; there is no mask, since no token sees what comes after it."""
    (row,) = rows
    width = max(map(len, row["input_ids"]))
    return {name: torch.tensor([line + [0] * (width - len(line)) for line in lines]) for name, lines in row.items()}


@torch.no_grad()
def teacher_entropies(teacher: PreTrainedModel, batch: Sequence[Example]) -> list[float]:
    """The teacher's entropy summed over the assistant's tokens, in nats, of each example of a batch."""
    inputs = {name: tensor.to(teacher.device) for name, tensor in collate([row_of(batch)]).items()}
    own = inputs["kinds"][:, 1:] > KINDS.index(SpanKind.OBSERVE)  # (B, T - 1)
    nats = torch.zeros(own.shape, device=teacher.device)
    nats[own] = entropy(logprobs(teacher(input_ids=inputs["input_ids"], use_cache=False).logits, own))
    return [float(value) for value in nats.sum(-1)]
