"""A low rank and λ on its complement: what Nyström and Lanczos make of H."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from problems import Problem
from solvers import theory
from solvers.preconditioner import ApproximateInverse

GIB = 2**30


@dataclass(frozen=True)
class LowRankInverse(ApproximateInverse):
    """P = U diag(σ) Uᵀ + λI with U = `basis` (p, r) orthonormal, σ = `values` (r,) > −λ; r may be 0.

    P⁻¹ = (I − U diag(σ/(σ + λ)) Uᵀ)/λ: what the low rank does not reach is divided by λ, not dropped.
    Memory: U. `diagnostics` is what is known of how near it is to H + λI.
    """

    basis: Tensor
    values: Tensor
    damping: float
    diagnostics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def multiplications(self) -> float:
        return 2 * self.basis.numel()

    def solve(self, vectors: Tensor) -> Tensor:
        return self._within(self.values / (self.values + self.damping), vectors) / self.damping

    def half_solve(self, vectors: Tensor) -> Tensor:
        shares = 1 - (self.damping / (self.values + self.damping)).sqrt()
        return self._within(shares, vectors) / self.damping**0.5

    def _within(self, shares: Tensor, vectors: Tensor) -> Tensor:
        """(I − U diag(shares) Uᵀ) V."""
        basis = self.basis
        return vectors - basis @ (shares.to(basis.dtype)[:, None] * (basis.T @ vectors))


def orthonormal_rest(basis: Tensor, vectors: Tensor) -> Tensor:
    """Orthonormal columns for what `vectors` (p, j) have outside of `basis` (p, r), orthonormal itself.

    4prj + 2pj² multiplications.
    """
    # Twice is enough (Kahan; Parlett 1998).
    for _ in range(2):
        vectors = vectors - basis @ (basis.T @ vectors)
    return torch.linalg.qr(vectors)[0]


def random_columns(problem: Problem, count: int, generator: torch.Generator) -> Tensor:
    """Standard Gaussian columns (p, `count`), float64, drawn on the CPU: the same on every device."""
    drawn = torch.randn(problem.size, count, generator=generator, dtype=torch.float64)
    return drawn.to(problem.operator.device)


def bound_for(problem: Problem, remainder: float) -> float:
    """The relative error of a small problem's columns, at most, from ‖H − Ĥ‖ ≤ `remainder`, 0 ⪯ Ĥ ⪯ H."""
    assert problem.reference is not None
    sizes = problem.columns().double().norm(dim=0) / (problem.damping * problem.reference.norm(dim=0))
    return theory.low_rank_error(remainder, problem.damping) * float(sizes.nan_to_num(1.0).max())
