"""Whether a proximal objective is convex near θˢ: the smallest eigenvalue of H + λ + ε∇²L_m."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.operators.ggn import GaussNewton
from problems.operators.hessian import Hessian
from problems.operators.network import NetworkOperator
from problems.spectrum.lanczos import extreme_eigenvalues

MOST_PRODUCTS, TOLERANCE = 30, 1e-2


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
    """λ_min(H + ε∇²L_m) lies between `least` and `most`, up to what Lanczos missed."""

    least: float
    most: float


class Convexity:
    """What is known of H + ε∇²L_m for the examples m of a network's operator, at θˢ."""

    def __init__(self, operator: NetworkOperator) -> None:
        is_ours = isinstance(operator.curvature, GaussNewton)
        self._curvature = operator if is_ours else operator.with_curvature(GaussNewton())
        self._hessian = operator.with_curvature(Hessian())
        self._extremes: dict[int, tuple[float, float]] = {}

    def floor(self, example: int, epsilon: float, damping: float) -> Floor:
        """Of the example alone where that suffices to see that λ is enough, since H ⪰ 0; else of the sum.

        Costs up to thirty products of one example, and so many of all data where those do not suffice.
        """
        alone = self._hessian.subset(torch.tensor([example]))
        if example not in self._extremes:
            self._extremes[example] = _range(alone)
        least = min(epsilon * extreme for extreme in self._extremes[example])
        if least + damping > 0:
            return Floor(min(least, 0.0), float("inf"))
        generator = torch.Generator().manual_seed(0)
        found = extreme_eigenvalues(
            _Shifted(self._curvature, epsilon, alone), generator,
            tolerance=TOLERANCE, max_products=MOST_PRODUCTS,
        )  # fmt: skip
        smallest = found.smallest.value
        return Floor(smallest - found.smallest_residual, smallest)


def _range(operator: CurvatureOperator) -> tuple[float, float]:
    found = extreme_eigenvalues(
        operator, torch.Generator().manual_seed(0), tolerance=TOLERANCE, max_products=MOST_PRODUCTS
    )
    return (
        found.smallest.value - found.smallest_residual,
        found.largest.value + found.largest_residual,
    )
