"""OPT (Zhang et al. 2022) from its sizes alone, with fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from problems.models.causal_lm_library import library


@dataclass(frozen=True)
class OptSizes:
    """Layers of `width` with attention by `heads` and `hidden` units, for `positions` tokens at most."""

    width: int
    layers: int
    heads: int
    hidden: int
    positions: int

    def __str__(self) -> str:
        return f"OPT, {self.layers} layers of width {self.width}"


PUBLISHED: Mapping[str, OptSizes] = {
    "opt-125m": OptSizes(width=768, layers=12, heads=12, hidden=3072, positions=2048),
    "opt-1.3b": OptSizes(width=2048, layers=24, heads=32, hidden=8192, positions=2048),
}
PUBLISHED_VOCABULARY = 50272
PUBLISHED_PADDING, PUBLISHED_START = 1, 2


def opt(sizes: OptSizes, seed: int, *, vocabulary: int, padding: int, start: int) -> nn.Module:
    """OPTForCausalLM in float32, in evaluation mode, with weights as OPT's training begins with.

    Without dropout, and with attention whose forward mode exists.
    """
    transformers = library("transformers")
    config = transformers.OPTConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.width,
        word_embed_proj_dim=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        ffn_dim=sizes.hidden,
        max_position_embeddings=sizes.positions,
        dropout=0.0,
        pad_token_id=padding,
        bos_token_id=start,
        eos_token_id=start,
        attn_implementation="eager",
    )
    return fresh(lambda: transformers.OPTForCausalLM(config), seed)


def fresh(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What `make` draws with `seed`; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
    return model.eval()
