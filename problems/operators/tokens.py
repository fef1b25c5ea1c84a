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


def sequences_for(size: int, mean: float) -> tuple[int, float]:
    """As few sequences of `mean` tokens as hold `size`, and the share of each one's tokens that is kept.

    The share is 1 where whole sequences hold less than one token more.
    """
    number = max(1, math.ceil(size / mean - 1e-9))
    return number, 1.0 if number * mean - size < 1 - 1e-9 else size / (number * mean)


def draw_tokens(counts: Tensor, size: int, generator: torch.Generator) -> Draw:
    """About `size` tokens of sequences drawn uniformly with replacement, of `counts` (s,) tokens each.

    As few sequences as hold that many tokens on average; of each an equal share of its tokens, at random
    positions: all of them where `size` is a multiple of the length, and `size` itself where it is less.
    """
    number, share = sequences_for(size, float(counts.double().mean()))
    sequences = torch.randint(len(counts), (number,), generator=generator)
    lengths = counts[sequences]
    # Rounded along the way, so that the shares of equal lengths add up to `size`.
    ends = (lengths.double().cumsum(0) * share).round().long()
    kept = ends.diff(prepend=ends.new_zeros(1)).clamp_min(1).minimum(lengths)
    ranks = [
        torch.randperm(int(length), generator=generator)[: int(keep)].sort().values
        for length, keep in zip(lengths, kept, strict=True)
    ]
    return Draw(sequences, tuple(ranks))


def every_sequence(counts: Tensor, size: int, repeats: int, generator: torch.Generator) -> Draw:
    """Each sequence `repeats` times, as one of the sequences that `draw_tokens` draws of it for `size`.

    A mean over them is one over draws: over sequences exactly, over positions by sampling, of which the
    repetitions take others as long as there are any. Of k tokens of N, h_t, the expected square of the mean
    is h̄² + c (mean h_t² − h̄²), h̄ = mean h_t, c = (N − k)/(k(N − 1)), since two different ones are drawn with
    probability k(k − 1)/(N(N − 1)).
    """
    number, share = sequences_for(size, float(counts.double().mean()))
    ranks = []
    for length in counts.tolist():
        order, first = torch.randperm(length, generator=generator), 0
        for _ in range(repeats):
            # Of several sequences each is rounded from where the ones before it ended: up or down by chance.
            up = 0.5 if number == 1 else float(torch.rand((), generator=generator))
            kept = min(length, max(1, math.floor(length * share + up)))
            ranks.append(order[(first + torch.arange(kept)) % max(1, length)].sort().values)
            first += kept
    return Draw(torch.arange(len(counts)).repeat_interleave(repeats), tuple(ranks))


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
