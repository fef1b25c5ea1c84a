"""The spectral density, and sums over the spectrum, by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.spectrum.estimate import Estimate, mean
from problems.spectrum.lanczos import lanczos
from problems.spectrum.trace import random_signs
from problems.validation import check_counts


@dataclass(frozen=True)
class Density:
    """Gauss quadrature of H's spectral measure from each of several random starts (Ubaru, Chen & Saad 2017).

    `nodes` and `weights`, one tensor (m,) for each start, float64; the weights of a start sum to 1.
    """

    size: int
    nodes: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    def spectral_sum(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        """Σ f(λ_i) over all p eigenvalues.

        The standard error is that of the starts' mean; m steps integrate polynomials of degree 2m − 1
        exactly, what that leaves of f is not in it.
        """
        sums = [
            self.size * (weights * function(nodes)).sum()
            for nodes, weights in zip(self.nodes, self.weights, strict=True)
        ]
        return mean(torch.stack(sums))

    def effective_dimension(self, damping: float) -> Estimate:
        """d(λ) = Tr H(H + λI)⁻¹ for H ⪰ 0: how many directions λ leaves alone."""
        return self.spectral_sum(lambda values: values.clamp_min(0) / (values.clamp_min(0) + damping))

    def cumulative(self, at: Tensor) -> Tensor:
        """The share of eigenvalues ≤ `at`, shape of `at`, the mean over the starts."""
        shares = [
            (weights * (nodes <= at[:, None])).sum(dim=1)
            for nodes, weights in zip(self.nodes, self.weights, strict=True)
        ]
        return torch.stack(shares).mean(dim=0)


def spectral_density(
    operator: CurvatureOperator, starts: int, steps: int, generator: torch.Generator
) -> Density:
    """`starts` Lanczos runs of at most `steps` products each, from vectors of random signs."""
    check_counts(starts=starts, steps=steps)
    nodes, weights = [], []
    for _ in range(starts):
        start = random_signs(operator, 1, generator)[:, 0]
        *_, last = lanczos(operator, start, steps)
        values, shares = last.measure
        nodes.append(values)
        weights.append(shares)
    return Density(operator.shape[0], tuple(nodes), tuple(weights))
