"""Decoding: each row's text depends on its context and generator alone; log-probabilities are the model's own."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from toolenv.agents.decoding import choose, decode

END = 7


@pytest.fixture(scope="module")
def model(fresh_model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(fresh_model, dtype=torch.float32)


@pytest.fixture(scope="module")
def contexts(fresh_model: Path) -> list[list[int]]:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(fresh_model)
    texts = ("<|user|>Hi<|end|><|assistant|>", "<|user|>A longer one, 12<|end|>", "<|user|>")
    return [tokenizer(text)["input_ids"] for text in texts]


def plain_logits(model: LlamaForCausalLM, context: list[int], ids: list[int]) -> torch.Tensor:
    """Logits (N, V) from which the N `ids` after `context` were chosen, by one forward pass."""
    with torch.inference_mode():
        return model(torch.tensor([context + ids])).logits[0, len(context) - 1 : -1]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_the_batch_does_not_change_what_is_decoded(
    model: LlamaForCausalLM, contexts: list[list[int]], temperature: float
) -> None:
    def run(chosen: list[int]) -> list[list[int]]:
        rngs = [Random(number) for number in chosen]
        given = [contexts[number] for number in chosen]
        out = decode(model, given, end=END, max_new_tokens=10, temperature=temperature, rngs=rngs)
        return [ids for ids, _ in out]

    together = run([0, 1, 2])
    assert together == [run([number])[0] for number in range(3)]
    assert together[::-1] == run([2, 1, 0])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_log_probabilities_are_those_of_the_untempered_model(
    model: LlamaForCausalLM, contexts: list[list[int]], temperature: float
) -> None:
    rngs = [Random(number) for number in range(3)]
    out = decode(model, contexts, end=END, max_new_tokens=10, temperature=temperature, rngs=rngs)
    for context, (ids, logprobs) in zip(contexts, out, strict=True):
        logits = plain_logits(model, context, ids)
        expected = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-4, rtol=0)
        assert (logits.argmax(-1).tolist() == ids) == (temperature == 0.0)


def test_a_row_ends_with_the_end_or_at_the_limit(model: LlamaForCausalLM, contexts: list[list[int]]) -> None:
    free = decode(model, contexts, end=END, max_new_tokens=10)
    assert all(len(ids) == 10 for ids, _ in free)  # fresh weights do not end
    end = free[0][0][4]
    for (ids, _), (whole, _) in zip(decode(model, contexts, end=end, max_new_tokens=10), free, strict=True):
        stop = whole.index(end) + 1 if end in whole else 10
        assert ids == whole[:stop]


def test_tokens_are_drawn_as_often_as_the_tempered_softmax_says() -> None:
    logits, n, temperature = torch.tensor([2.0, -1.0, 0.5, float("-inf"), 1.0]), 10_000, 0.7
    draws = [(i + 0.5) / n for i in range(n)]
    chosen, logprobs = choose(logits.expand(n, 5), temperature, draws)
    expected = (logits / temperature).softmax(-1) * n
    torch.testing.assert_close(chosen.bincount(minlength=5).float(), expected, atol=1.0, rtol=0)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[chosen])


def test_the_extremes_of_a_draw_are_tokens_that_can_occur() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 1.0, float("-inf")]] * 2)
    chosen, _ = choose(logits, 1.0, [0.0, 1 - 2**-53])
    assert chosen.tolist() == [1, 2]


def test_sampling_without_generators_is_refused(model: LlamaForCausalLM, contexts: list[list[int]]) -> None:
    for more in ({"temperature": 1.0}, {"temperature": 1.0, "rngs": [Random(0)]}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match="a generator for each context"):
            decode(model, contexts, end=END, max_new_tokens=2, **more)


def test_the_model_is_left_in_the_mode_it_was_in(model: LlamaForCausalLM, contexts: list[list[int]]) -> None:
    model.train()
    decode(model, contexts, end=END, max_new_tokens=2)
    assert model.training
    model.eval()
