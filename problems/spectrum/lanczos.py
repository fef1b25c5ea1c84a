"""Extreme eigenvalues, and the spectral measure of a vector, by Lanczos; power iteration as its oracle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.spectrum.estimate import Estimate
from problems.validation import check_counts


@dataclass(frozen=True)
class Tridiagonal:
    """H on the Krylov space of a start vector after m steps, float64 on the CPU (Lanczos 1950).

    `diagonal` (m,), `off_diagonal` (m,) of which the last leads out of the space; 0 where it is invariant.
    """

    diagonal: Tensor
    off_diagonal: Tensor
    start_norm: float

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Ritz values (m,) ascending and their coordinates (m, m)."""
        inner = self.off_diagonal[:-1]
        matrix = torch.diag(self.diagonal) + torch.diag(inner, 1) + torch.diag(inner, -1)
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors

    @property
    def residuals(self) -> Tensor:
        """‖H y − θ y‖ of every Ritz pair, shape (m,): some eigenvalue lies within it of θ."""
        return (self.off_diagonal[-1] * self.eigen[1][-1]).abs()

    @property
    def measure(self) -> tuple[Tensor, Tensor]:
        """Nodes and weights (m,), which sum to 1, of Gauss quadrature in the start's spectral measure."""
        values, vectors = self.eigen
        return values, vectors[0].square()


def lanczos(operator: CurvatureOperator, start: Tensor, max_steps: int) -> Iterator[Tridiagonal]:
    """One product a step, from `start` (p,), with full reorthogonalisation; memory of `max_steps` vectors.

    Ends early where the space is invariant. ValueError for a start that is zero.
    """
    check_counts(max_steps=max_steps)
    norm = float(start.double().norm())
    if not 0 < norm < math.inf:
        raise ValueError(f"the start vector has norm {norm}; Lanczos needs a finite one that is not zero")
    vector = start / norm
    basis = torch.empty(min(max_steps, len(start)), len(start), dtype=start.dtype, device=start.device)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    largest = 0.0
    for step in range(len(basis)):
        basis[step] = vector
        product = operator @ vector
        # Long sums in float32 would carry errors beyond the residual.
        diagonal.append(float((product.double() * vector.double()).sum()))
        known = basis[: step + 1]
        # Twice is enough (Kahan; Parlett 1998).
        for _ in range(2):
            product = product - known.T @ (known @ product)
        length = float(product.double().norm())
        largest = max(largest, abs(diagonal[-1]), length)
        invariant = length <= 10 * torch.finfo(start.dtype).eps * largest
        off_diagonal.append(0.0 if invariant or step + 1 == len(start) else length)
        yield Tridiagonal(
            torch.tensor(diagonal, dtype=torch.float64), torch.tensor(off_diagonal, dtype=torch.float64), norm
        )
        if off_diagonal[-1] == 0:
            return
        vector = product / length


@dataclass(frozen=True)
class Extremes:
    """The largest and the smallest Ritz value, each within its residual of an eigenvalue.

    A Ritz value never leaves the spectrum's range: the largest is a lower bound of λ_max, the smallest
    an upper bound of λ_min.
    """

    largest: Estimate
    largest_residual: float
    smallest: Estimate
    smallest_residual: float
    products: int


def extreme_eigenvalues(
    operator: CurvatureOperator,
    generator: torch.Generator,
    *,
    tolerance: float = 1e-3,
    max_products: int = 50,
) -> Extremes:
    """λ_max and λ_min from one Lanczos run with a random start, until λ_max's residual is `tolerance` of it.

    Where H may be indefinite λ_min's must be so too. From a random start the chance that λ_max is missed
    altogether is negligible (Kuczyński & Woźniakowski 1992); the residual bounds the distance to *an*
    eigenvalue.
    """
    found = None
    for found in lanczos(operator, _random_start(operator, generator), max_products):
        residuals, scale = found.residuals, float(found.eigen[0].abs().max())
        if max(residuals[-1], 0 if operator.is_psd else residuals[0]) <= tolerance * scale:
            break
    assert found is not None
    values, residuals = found.eigen[0], found.residuals
    exact = float(found.off_diagonal[-1]) == 0
    return Extremes(
        Estimate(float(values[-1]), kind="exact" if exact else "lower bound"),
        float(residuals[-1]),
        Estimate(float(values[0]), kind="exact" if exact else "upper bound"),
        float(residuals[0]),
        len(values),
    )


def power_iteration(
    operator: CurvatureOperator,
    generator: torch.Generator,
    *,
    tolerance: float = 1e-3,
    max_products: int = 1000,
) -> Estimate:
    """The eigenvalue of largest modulus, by the quotient vᵀHv of v ← Hv/‖Hv‖; a lower bound of its modulus.

    Stops where ‖Hv − θv‖ ≤ `tolerance` · |θ|. Needs far more products than Lanczos.
    """
    vector = _random_start(operator, generator)
    vector = vector / vector.norm()
    value = 0.0
    for _ in range(max_products):
        product = operator @ vector
        value = float(torch.dot(vector, product))
        length = float(product.norm())
        if length == 0 or float((product - value * vector).norm()) <= tolerance * abs(value):
            break
        vector = product / length
    return Estimate(value, kind="lower bound" if value >= 0 else "upper bound")


def _random_start(operator: CurvatureOperator, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(operator.shape[0], generator=generator, dtype=torch.float64)
    return drawn.to(operator.device, operator.dtype)
