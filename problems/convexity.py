"""Whether a proximal objective is convex near θˢ: the smallest eigenvalue of H + λ + ε∇²L_m."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.operators.ggn import GaussNewton
from problems.operators.hessian import Hessian
from problems.operators.network import NetworkOperator
from problems.spectrum.lanczos import extreme_eigenvalues, lanczos

# Of one example: products for its extreme eigenvalues, and for a vector near one of theirs.
MOST_PRODUCTS, TOLERANCE, POWERS = 30, 1e-2, 15
# Of all data, from that vector on.
STEPS = 6


class _Shifted(CurvatureOperator):
    """H + ε∇²L_m."""

    is_psd = False

    def __init__(self, curvature: CurvatureOperator, epsilon: float, example: CurvatureOperator) -> None:
        size = curvature.shape[0]
        super().__init__(size, curvature.num_examples, curvature.dtype, curvature.device, curvature.work)
        self._parts = (curvature, epsilon, example)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        curvature, epsilon, example = self._parts
        return curvature @ vectors + epsilon * (example @ vectors)

    def _product(self, columns: Tensor) -> Tensor:
        return self @ columns

    def subset(self, indices: Tensor) -> CurvatureOperator:
        curvature, epsilon, example = self._parts
        return _Shifted(curvature.subset(indices), epsilon, example)

    def to(self, dtype: torch.dtype) -> CurvatureOperator:
        curvature, epsilon, example = self._parts
        return _Shifted(curvature.to(dtype), epsilon, example.to(dtype))


@dataclass(frozen=True)
class Floor:
    """λ_min(H + ε∇²L_m) lies between `least`, that of ε∇²L_m alone or 0, and `most`, a Rayleigh quotient."""

    least: float
    most: float


class Convexity:
    """What is known of H + ε∇²L_m at θˢ for the examples m of a network's operator, H Gauss–Newton's."""

    def __init__(self, operator: NetworkOperator) -> None:
        is_ours = isinstance(operator.curvature, GaussNewton)
        self._curvature = operator if is_ours else operator.with_curvature(GaussNewton())
        self._hessian = operator.with_curvature(Hessian())
        self._extremes: dict[int, tuple[float, float]] = {}

    def floor(self, example: int, epsilon: float, damping: float) -> Floor:
        """Of the example alone where that suffices to see that λ is enough, since H ⪰ 0: `most` is then ∞.

        Costs some dozens of products of one example and, where those do not suffice, a few of all data.
        """
        alone = self._hessian.subset(torch.tensor([example]))
        if example not in self._extremes:
            self._extremes[example] = _range(alone)
        low, high = self._extremes[example]
        least = min(epsilon * low, epsilon * high, 0.0)
        if least + damping > 0:
            return Floor(least, math.inf)
        # Where H + ε∇²L_m is negative, ε∇²L_m is: from its lowest direction Lanczos has not far to go.
        start = _direction(alone, low if epsilon < 0 else high)
        shifted = _Shifted(self._curvature, epsilon, alone)
        most = math.inf
        for found in lanczos(shifted, start, STEPS):
            most = float(found.eigen[0][0])
            if most + damping <= 0:
                break
        return Floor(least, most)


def _range(operator: CurvatureOperator) -> tuple[float, float]:
    """The extreme eigenvalues, with what the Ritz values may be short of them."""
    found = extreme_eigenvalues(
        operator, torch.Generator().manual_seed(0), tolerance=TOLERANCE, max_products=MOST_PRODUCTS
    )
    return (
        found.smallest.value - found.smallest_residual,
        found.largest.value + found.largest_residual,
    )


def _direction(operator: CurvatureOperator, other: float) -> Tensor:
    """A vector near the eigenvector at the end of the spectrum that is not `other`, by power iteration."""
    drawn = torch.randn(operator.shape[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vector = drawn.to(operator.device, operator.dtype)
    for _ in range(POWERS):
        moved = operator @ vector - other * vector
        vector = moved / moved.norm()
    return vector
