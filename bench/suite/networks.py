"""A small transformer of plain torch modules, on which products are measured beside a ResNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCABULARY, CONTEXT = 2000, 128


class TransformerLayer(nn.Module):
    """Causal attention, written out so that it has a forward mode, and a feed-forward network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attend(self.attention_norm(hidden))
        return hidden + self.feed_forward(self.feed_forward_norm(hidden))

    def attend(self, hidden: Tensor) -> Tensor:
        count, length, width = hidden.shape
        query, key, value = (
            layer(hidden).view(count, length, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        future = torch.ones(length, length, dtype=torch.bool, device=hidden.device).triu(1)
        scores = (query @ key.mT * query.shape[-1] ** -0.5).masked_fill(future, float("-inf"))
        return self.out((scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(count, length, width))


class Transformer(nn.Module):
    """A causal language model, p ≈ 4.2M, in evaluation mode."""

    def __init__(self, width: int = 256, heads: int = 8, layers: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(CONTEXT, width)
        self.layers = nn.Sequential(*(TransformerLayer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.layers(hidden)))
