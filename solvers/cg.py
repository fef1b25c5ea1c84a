"""Conjugate gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from problems import Problem
from solvers.solver import Breakdown, Iterate, Solver, State, check_positive


@dataclass(frozen=True)
class ConjugateGradient(Solver):
    """Conjugate gradients (Hestenes & Stiefel 1952): every column its own recurrence, all share each product.

    Converges for H + λI ≻ 0 with energy-norm error ≤ 2((√κ − 1)/(√κ + 1))ᵗ after t steps; a step is one product over
    all data, of which columns that have converged drop out. A column counts as converged when its
    *recomputed* residual is within `tolerance`; where rounding has let the recurrence run ahead of it, the column
    starts afresh from its iterate. Breakdown on negative curvature, and where rounding forbids the tolerance.
    """

    tolerance: float = 1e-6

    remedy: ClassVar[str] = "raise damping until H + λI is positive definite, or use scipy_minres"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        scale = b.norm(dim=0)
        scale = scale.where(scale > 0, torch.ones_like(scale))
        # In units of ‖b‖, so that no inner product under- or overflows; x keeps the units of the answer.
        x = torch.zeros_like(b)
        residual = torch.where(b.norm(dim=0) > 0, torch.ones_like(scale), torch.zeros_like(scale))
        converged = residual <= self.tolerance
        active = (~converged).nonzero().flatten()
        r = b[:, active] / scale[active]
        p = r.clone()
        square = r.square().sum(dim=0)
        best = torch.full_like(residual, float("inf"))
        if not len(active):
            yield Iterate(x, residual, converged)
        while len(active):
            product = self._apply(problem, p)
            curvature = (p * product).sum(dim=0)
            self._check_curvature(curvature, p, problem)
            alpha = square / curvature
            r -= alpha * product
            self._add(x, active, p * (alpha * scale[active]))
            previous, square = square, r.square().sum(dim=0)
            residual[active] = square.sqrt()
            claimed = square.sqrt() <= self.tolerance
            p *= square / previous
            p += r
            if claimed.any():
                chosen = active[claimed]
                true = b[:, chosen] / scale[chosen] - self._apply(problem, x[:, chosen]) / scale[chosen]
                r[:, claimed] = p[:, claimed] = true
                square[claimed] = true.square().sum(dim=0)
                residual[chosen] = square[claimed].sqrt()
                converged[chosen] = residual[chosen] <= self.tolerance
            yield Iterate(x, residual, converged)
            if claimed.any():
                self._check_progress(residual, best, active[claimed])
                keep = ~converged[active]
                active, r, p, square = active[keep], r[:, keep], p[:, keep], square[keep]

    def _apply(self, problem: Problem, vectors: Tensor) -> Tensor:
        return problem.operator @ vectors + problem.damping * vectors

    def _add(self, x: Tensor, active: Tensor, step: Tensor) -> None:
        if len(active) == x.shape[1]:
            x += step
        else:
            x[:, active] += step

    def _check_curvature(self, curvature: Tensor, p: Tensor, problem: Problem) -> None:
        if (curvature <= 0).any():
            quotients = curvature / p.square().sum(dim=0)
            lowest = float(quotients.min())
            raise Breakdown(
                f"negative curvature: H + λI has a direction of curvature {lowest:.3g}, so it is not positive "
                f"definite. Raise damping above {problem.damping - lowest:.3g} at least, or use scipy_minres"
            )

    def _check_progress(self, residual: Tensor, best: Tensor, chosen: Tensor) -> None:
        """`best` holds the residual at each column's last restart: another restart must have gained on it."""
        stalled = (residual[chosen] > self.tolerance) & (residual[chosen] > 0.5 * best[chosen])
        best[chosen] = torch.minimum(best[chosen], residual[chosen])
        if stalled.any():
            worst = float(residual[chosen].max())
            raise Breakdown(
                f"rounding stops the residual at {worst:.1e}, above the tolerance {self.tolerance:g}: raise "
                "tolerance, raise damping or use float64"
            )
