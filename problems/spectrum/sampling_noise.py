"""How far mini-batches stray from H: traces of E H̃² − H² and of H², from pairs of independent batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from problems.operators.base import CurvatureOperator
from problems.spectrum.estimate import Estimate, mean
from problems.spectrum.trace import random_signs
from problems.validation import check_counts


@dataclass(frozen=True)
class SamplingNoise:
    """Moments of H̃ for mini-batches of `batch_size` units: V = E H̃² − H² ⪰ 0 is their covariance."""

    batch_size: int
    # Tr(H²) = ‖H‖_F²
    trace_of_square: Estimate
    # Tr(V); proportional to 1/batch_size where units are drawn independently, as examples are and the tokens
    # of one sequence are not
    trace_of_noise: Estimate


def sampling_noise(
    operator: CurvatureOperator, batch_size: int, samples: int, generator: torch.Generator
) -> SamplingNoise:
    """Both traces from `samples` pairs of mini-batches H̃₁, H̃₂, each with a vector v of random signs.

    Tr(H²) = E⟨H̃₁v, H̃₂v⟩ and Tr(V) = E ½‖(H̃₁ − H̃₂)v‖²: unbiased, the second never negative. Costs two
    mini-batch products a sample. Where few examples carry the curvature the draws are heavy-tailed, and the
    standard errors too small.
    """
    check_counts(batch_size=batch_size, samples=samples)
    squares, noises = [], []
    for _ in range(samples):
        v = random_signs(operator, 1, generator)[:, 0]
        first, second = (operator.minibatch(batch_size, generator) @ v for _ in range(2))
        squares.append((first.double() * second.double()).sum())
        noises.append((first.double() - second.double()).square().sum() / 2)
    return SamplingNoise(batch_size, mean(torch.stack(squares).cpu()), mean(torch.stack(noises).cpu()))
