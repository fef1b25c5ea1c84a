"""The largest eigenvalue of a pencil A − μB, matrix-free (LOBPCG; Knyazev 2001)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from problems.spectrum.estimate import Estimate

Apply = Callable[[Tensor], Tensor]

# Directions that are the same but for rounding are left out of the small problem.
INDEPENDENT = 1e-10


@dataclass(frozen=True)
class TopOfPencil:
    """max vᵀAv / vᵀBv as far as it was found: a quotient of some v, so a lower bound."""

    value: Estimate
    # ‖A v − μ B v‖/‖A v‖
    residual: float
    products: int


def largest_of_pencil(
    apply_a: Apply, apply_b: Apply, start: Tensor, *, tolerance: float = 1e-2, max_steps: int = 30
) -> TopOfPencil:
    """The top of the pencil of A ⪰ 0 and B ≻ 0, symmetric, from the block `start` (p, m).

    Each step is one product of A and one of B with m vectors; memory of some 30 m vectors. Stops where the
    residual of the first vector is `tolerance`.
    """
    x = start
    ax, bx = apply_a(x), apply_b(x)
    if not ax.any():
        return TopOfPencil(Estimate(0.0, kind="lower bound"), 0.0, start.shape[1])
    directions: tuple[Tensor, Tensor, Tensor] | None = None
    value, residual, steps = 0.0, 1.0, 0
    for steps in range(1, max_steps + 1):
        values, coefficients = _rayleigh_ritz(x, ax, bx, x.shape[1])
        x, ax, bx = x @ coefficients, ax @ coefficients, bx @ coefficients
        gap = ax - bx * values
        value = float(values[0])
        residual = float(gap[:, 0].norm() / ax[:, 0].norm().clamp_min(torch.finfo(x.dtype).tiny))
        if residual <= tolerance or steps == max_steps:
            break
        gap = gap / gap.norm(dim=0).clamp_min(torch.finfo(x.dtype).tiny)
        new = (gap, apply_a(gap), apply_b(gap))
        parts = [new] if directions is None else [new, directions]
        basis, a_basis, b_basis = (
            torch.cat([kept, *(part[i] for part in parts)], dim=1) for i, kept in enumerate((x, ax, bx))
        )
        width = x.shape[1]
        values, coefficients = _rayleigh_ritz(basis, a_basis, b_basis, width)
        # What the step added to x, without x itself: conjugate directions, as CG's.
        added = coefficients[width:]
        directions = (basis[:, width:] @ added, a_basis[:, width:] @ added, b_basis[:, width:] @ added)
        x, ax, bx = basis @ coefficients, a_basis @ coefficients, b_basis @ coefficients
    return TopOfPencil(Estimate(value, kind="lower bound"), residual, steps * start.shape[1])


def _rayleigh_ritz(basis: Tensor, a_basis: Tensor, b_basis: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest quotients in the span of `basis`, descending, and their coefficients."""
    scale = (basis * b_basis).double().sum(dim=0).clamp_min(1e-300).rsqrt()
    a = basis.double().T @ a_basis.double() * scale[:, None] * scale
    b = basis.double().T @ b_basis.double() * scale[:, None] * scale
    lengths, axes = torch.linalg.eigh((b + b.T) / 2)
    kept = lengths > INDEPENDENT * lengths.max()
    whiten = axes[:, kept] * lengths[kept].rsqrt()
    values, vectors = torch.linalg.eigh(whiten.T @ ((a + a.T) / 2) @ whiten)
    count = min(count, len(values))
    chosen = vectors[:, -count:].flip(1)
    coefficients = scale[:, None] * (whiten @ chosen)
    return values[-count:].flip(0).to(basis.dtype), coefficients.to(basis.dtype)
