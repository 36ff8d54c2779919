"""Decoding: each row's text depends on its context and generator alone; log-probabilities are the model's own."""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerBase

from toolenv.agents.decoding import choose, decode
from toolenv.agents.decoding_batch import Past, weights_of

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


# What is kept between turns. The second turn of each row goes on from what the first one left.


def second_turn(contexts: list[list[int]], out: list[tuple[list[int], list[float]]]) -> list[list[int]]:
    return [
        [*context, *ids, 8, 9, 10 + i][: -i or None]
        for i, (context, (ids, _)) in enumerate(zip(contexts, out, strict=True))
    ]


def test_a_turn_that_goes_on_decodes_what_a_fresh_one_would(model: LlamaForCausalLM, contexts: list[list[int]]) -> None:
    pasts = [Past() for _ in contexts]
    longer = second_turn(contexts, decode(model, contexts, end=END, max_new_tokens=8, pasts=pasts))
    fresh = decode(model, longer, end=END, max_new_tokens=8)
    going_on = decode(model, longer, end=END, max_new_tokens=8, pasts=pasts)
    for context, (ids, logprobs), (expected, _), past in zip(longer, going_on, fresh, pasts, strict=True):
        assert ids == expected
        assert past.ids == [*context, *ids[:-1]]
        assert past.states is not None
        assert past.states.shape[-2] == len(past.ids)
        plain = plain_logits(model, context, ids).log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logprobs), plain, atol=1e-4, rtol=0)


def test_only_what_is_new_is_computed(
    model: LlamaForCausalLM, contexts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pasts = [Past() for _ in contexts]
    longer = second_turn(contexts, decode(model, contexts, end=END, max_new_tokens=8, pasts=pasts))
    seen: list[int] = []
    forward = model.model.forward

    def counting(input_ids: torch.Tensor, **more: object) -> object:
        seen.append(input_ids.shape[1])
        return forward(input_ids, **more)

    monkeypatch.setattr(model.model, "forward", counting)
    decode(model, longer, end=END, max_new_tokens=1, pasts=pasts)
    assert seen == [4]  # the last sampled token, and the three that were added


def test_a_past_is_reused_only_as_far_as_it_holds(model: LlamaForCausalLM, contexts: list[list[int]]) -> None:
    past = Past()
    context = contexts[1]
    ((ids, _),) = decode(model, [context], end=END, max_new_tokens=8, pasts=[past])
    forked = [[*context, *ids, 9], [*context, *ids[:3], 11, 12, 13], context[:4], context[1:]]
    assert [past.common(other, weights_of(model)) for other in forked] == [len(context) + 7, len(context) + 3, 3, 0]
    shared = decode(model, forked, end=END, max_new_tokens=8, pasts=[past] * len(forked))
    assert [ids for ids, _ in shared] == [ids for ids, _ in decode(model, forked, end=END, max_new_tokens=8)]


def test_a_past_of_other_weights_is_not_used(model: LlamaForCausalLM, contexts: list[list[int]]) -> None:
    learning = copy.deepcopy(model)
    past, context = Past(), contexts[1]
    decode(learning, [context], end=END, max_new_tokens=8, pasts=[past])
    assert past.common([*context, 1], weights_of(model)) == len(context)
    optimizer = torch.optim.AdamW(learning.parameters(), lr=1e-4, fused=True)
    learning(torch.tensor([context]), labels=torch.tensor([context])).loss.backward()
    optimizer.step()
    assert past.common([*context, 1], weights_of(learning)) == 0


@pytest.mark.parametrize("window", [None, 8])
def test_models_that_share_heads_or_look_back_a_window_only_go_on_too(window: int | None) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MistralConfig(vocab_size=64, num_hidden_layers=2, initializer_range=0.5, sliding_window=window, **sizes)
    model = MistralForCausalLM(config).eval()
    contexts = [[5, 6, 11, 20], [5, 30, 31, 32, 33, 34, 9, 12, 13, 14, 15], [40] * 5]
    pasts = [Past() for _ in contexts]
    longer = second_turn(contexts, decode(model, contexts, end=END, max_new_tokens=8, pasts=pasts))
    assert all(past.common(ids, weights_of(model)) > 8 for past, ids in zip(pasts, longer, strict=True))
    for context, (ids, logprobs) in zip(
        longer, decode(model, longer, end=END, max_new_tokens=8, pasts=pasts), strict=True
    ):
        plain = plain_logits(model, context, ids)
        assert plain.argmax(-1).tolist() == ids
        expected = plain.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-4, rtol=0)
