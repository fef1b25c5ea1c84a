"""Mini-batches counted in tokens: independent draws of sequences, or of positions in them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """Sequences, shape (m,), and of each the tokens that count, by their rank among all that could."""

    sequences: Tensor
    ranks: tuple[Tensor, ...]


def draw_tokens(counts: Tensor, size: int, generator: torch.Generator) -> Draw:
    """About `size` tokens of sequences drawn uniformly with replacement, of `counts` (s,) tokens each.

    As few sequences as hold that many tokens on average; of each an equal share of its tokens, at random
    positions: all of them where `size` is a multiple of the length, and `size` itself where it is less.
    """
    mean = float(counts.double().mean())
    number = max(1, math.ceil(size / mean - 1e-9))
    sequences = torch.randint(len(counts), (number,), generator=generator)
    lengths = counts[sequences]
    share = size / (number * mean)
    # Rounded along the way, so that the shares of equal lengths add up to `size`.
    ends = (lengths.double().cumsum(0) * share).round().long()
    kept = ends.diff(prepend=ends.new_zeros(1)).clamp_min(1).minimum(lengths)
    ranks = [
        torch.randperm(int(length), generator=generator)[: int(keep)].sort().values
        for length, keep in zip(lengths, kept, strict=True)
    ]
    return Draw(sequences, tuple(ranks))


def token_weights(counted: Tensor, mean_count: float, draw: Draw | None) -> Tensor:
    """Weights (m, T), float64, of the tokens of m sequences, of which those `counted` (m, T) could count.

    A sequence's weights sum to its tokens over the mean number of tokens, whether all of them are kept or
    some: so the mean over sequences drawn uniformly is unbiased for the mean over all tokens.
    """
    if draw is None:
        return counted.double() / mean_count
    weights = torch.zeros(counted.shape, dtype=torch.float64)
    for row, (count, ranks) in enumerate(zip(counted.cpu(), draw.ranks, strict=True)):
        positions = count.nonzero()[:, 0]
        weights[row, positions[ranks]] = len(positions) / max(1, len(ranks)) / mean_count
    return weights.to(counted.device)
