"""Growth: the larger model computes what the smaller one does, and its copies part as soon as it is trained."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import LlamaForCausalLM

from toolenv.training.base_models import HELD_OUT_SEED, load, new_model, weighted_loss
from toolenv.training.documents import documents
from toolenv.training.growth import grow


@pytest.fixture(scope="module")
def tiny() -> LlamaForCausalLM:
    return load("tiny")[0]


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    tokenizer = load("tiny")[1]
    rows = [tokenizer.encode(document.text)[:120] for document in itertools.islice(documents(HELD_OUT_SEED), 8)]
    return torch.tensor([row for row in rows if len(row) == 120])


@pytest.mark.parametrize(("factor", "layers"), [(1, 4), (1, 7), (2, 4), (3, 5)])
def test_a_grown_model_has_the_logits_of_the_one_it_grew_from(
    tiny: LlamaForCausalLM, text: torch.Tensor, factor: int, layers: int
) -> None:
    grown = grow(tiny, factor=factor, layers=layers, seed=0)
    assert (grown.config.hidden_size, grown.config.num_hidden_layers) == (192 * factor, layers)
    assert grown.lm_head.weight is grown.model.embed_tokens.weight
    with torch.inference_mode():
        torch.testing.assert_close(grown(text).logits, tiny(text).logits, atol=2e-4, rtol=0)


def test_the_small_base_model_begins_as_tiny(tiny: LlamaForCausalLM, text: torch.Tensor) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(new_model("small", 0)(text).logits, tiny(text).logits, atol=2e-4, rtol=0)


def test_copies_part_and_added_layers_move_in_training(tiny: LlamaForCausalLM, text: torch.Tensor) -> None:
    grown = grow(tiny, factor=2, layers=5, seed=0).train()
    optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = weighted_loss(grown, text, torch.ones_like(text, dtype=torch.float32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.inference_mode():
        stream = grown.model(text).last_hidden_state
    first, second = stream.chunk(2, -1)
    assert (first - second).abs().max() > 0.01
    assert all(parameter.abs().max() > 0 for parameter in grown.model.layers[-1].parameters())


def test_shares_depend_on_the_seed(tiny: LlamaForCausalLM) -> None:
    weights = [grow(tiny, factor=2, layers=4, seed=seed).model.layers[0].mlp.up_proj.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_what_can_not_grow_is_refused(tiny: LlamaForCausalLM) -> None:
    for factor, layers in ((0, 4), (2, 3), (2, 9)):
        with pytest.raises(ValueError, match=f"can not have {layers} and {factor} times the width"):
            grow(tiny, factor=factor, layers=layers, seed=0)
