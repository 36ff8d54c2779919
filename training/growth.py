"""A larger Llama that computes what a smaller one does: a start that has learnt already.

Widening is that of Net2Net (Chen, Goodfellow and Shlens 2015, arXiv 1511.05641) as bert2BERT applies it to transformers
(Chen et al. 2021, arXiv 2110.07143). Every unit comes `factor` times, the copies side by side as whole blocks: the
residual stream, the heads (whose size stays, and with it the rotary phases) and the units of the feed-forward layers.
What a unit read from another it now reads from that one's copies in random shares that sum to 1, so that copies are
equal in what they say and differ in what they learn. A layer that is added is a copy of the one before it with nothing
written back: the identity, until training moves it.

RMS normalisation does not see the copies, since a mean of squares does not change when each comes `factor` times. The
logits would be `factor` times too large, because the embeddings are tied and can not be split; so the weight of the
last normalisation is divided by it.

What this omits: factors that are no whole numbers, untied embeddings, heads that share keys and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

LEAST_SHARE, MOST_SHARE = 0.5, 1.5
"""Bounds of a copy's share before the shares of all copies are divided by their sum."""


def grow(model: LlamaForCausalLM, *, factor: int, layers: int, seed: int) -> LlamaForCausalLM:
    """A model of `factor` times the width and the heads, and of `layers` layers, with the same logits.

    Args:
        model: a Llama with tied embeddings, as many key heads as heads.
        layers: at least the model's; each that is added follows one of the last, in turn from the end.
        seed: decides the shares.

    Raises:
        ValueError: the model is of another kind, or would have to shrink.
    """
    import torch
    from transformers import LlamaForCausalLM

    old = model.config
    if not old.tie_word_embeddings or old.num_key_value_heads != old.num_attention_heads:
        raise ValueError("only a Llama with tied embeddings and a key head for each head can grow")
    if factor < 1 or not old.num_hidden_layers <= layers <= 2 * old.num_hidden_layers:
        raise ValueError(
            f"a model of {old.num_hidden_layers} layers can not have {layers} and {factor} times the width"
        )
    config = type(old).from_dict(
        old.to_dict()
        | {
            "hidden_size": factor * old.hidden_size,
            "intermediate_size": factor * old.intermediate_size,
            "num_attention_heads": factor * old.num_attention_heads,
            "num_key_value_heads": factor * old.num_key_value_heads,
            "num_hidden_layers": layers,
            "head_dim": old.head_dim,
        }
    )
    grown = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        grown.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight.repeat(1, factor))
        grown.model.norm.weight.copy_(model.model.norm.weight.repeat(factor) / factor)
        for layer, (source, added) in zip(grown.model.layers, _sources(old.num_hidden_layers, layers), strict=True):
            wide = {
                name: _widen(weight, factor, generator)
                for name, weight in model.model.layers[source].state_dict().items()
            }
            layer.load_state_dict(wide)
            if added:
                for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                    for parameter in projection.parameters():
                        parameter.zero_()
    return grown.eval()


def _sources(old: int, new: int) -> list[tuple[int, bool]]:
    """For each layer of the grown model: the layer that it copies, and whether it is an added one."""
    sources: list[tuple[int, bool]] = []
    for layer in range(old):
        sources.append((layer, False))
        if layer >= 2 * old - new:
            sources.append((layer, True))
    return sources


def _widen(weight: torch.Tensor, factor: int, generator: torch.Generator) -> torch.Tensor:
    """A weight (out, in) -> (factor * out, factor * in), its inputs' shares summing to 1; a vector is repeated."""
    import torch

    if weight.ndim == 1:
        return weight.repeat(factor)
    rows, columns = weight.shape
    shares = torch.empty(factor * rows, factor, columns).uniform_(LEAST_SHARE, MOST_SHARE, generator=generator)
    shares /= shares.sum(1, keepdim=True)
    return (shares * weight.repeat(factor, 1)[:, None]).reshape(factor * rows, factor * columns)
