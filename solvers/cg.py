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

    Converges for H + λI ≻ 0 with energy-norm error ≤ 2((√κ − 1)/(√κ + 1))ᵗ after t steps; a step is one
    product over all data, of which columns that have converged drop out. A column counts as converged when
    its *recomputed* residual is within `tolerance`; where rounding has let the recurrence run ahead of it,
    the column starts afresh from its iterate. In float32 rounding stops the residual near 1e-7·κ. Breakdown
    on negative curvature, and where rounding forbids the tolerance.
    """

    tolerance: float = 1e-6

    remedy: ClassVar[str] = "raise damping until H + λI is positive definite, or use scipy_minres"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        x = torch.zeros_like(b)
        norms = b.norm(dim=0)
        residual = (norms > 0).to(b.dtype)  # of x = 0, relative to ‖b‖
        converged = residual <= self.tolerance
        if converged.all():
            yield Iterate(x, residual, converged)
        best = torch.full_like(residual, float("inf"))
        active = (~converged).nonzero().flatten()
        size = norms[active]
        r = b[:, active]
        p = r.clone()
        square = r.square().sum(dim=0)
        while len(active):
            product = self._apply(problem, p)
            curvature = (p * product).sum(dim=0)
            if min(curvature.tolist()) <= 0:
                raise self._negative_curvature(curvature / p.square().sum(dim=0), problem)
            alpha = square / curvature
            self._advance(x, active, p, alpha)
            r.addcmul_(product, alpha, value=-1)
            previous, square = square, r.square().sum(dim=0)
            p.mul_(square / previous).add_(r)
            residual[active] = relative = square.sqrt() / size
            if min(relative.tolist()) > self.tolerance:
                yield Iterate(x, residual, converged)
                continue
            # The recurrence says so; the true residual decides, and where it does not agree starts afresh.
            claimed = relative <= self.tolerance
            chosen = active[claimed]
            true = b[:, chosen] - self._apply(problem, x[:, chosen])
            r[:, claimed] = p[:, claimed] = true
            square[claimed] = true.square().sum(dim=0)
            residual[chosen] = true.norm(dim=0) / norms[chosen]
            converged[chosen] = residual[chosen] <= self.tolerance
            yield Iterate(x, residual, converged)
            self._check_progress(residual[chosen], best[chosen])
            best[chosen] = residual[chosen]
            keep = ~converged[active]
            active, size, r, p, square = active[keep], size[keep], r[:, keep], p[:, keep], square[keep]

    def _apply(self, problem: Problem, vectors: Tensor) -> Tensor:
        return torch.add(problem.operator @ vectors, vectors, alpha=problem.damping)

    def _advance(self, x: Tensor, active: Tensor, p: Tensor, alpha: Tensor) -> None:
        if len(active) == x.shape[1]:
            x.addcmul_(p, alpha)
        else:
            x[:, active] += p * alpha

    def _negative_curvature(self, quotients: Tensor, problem: Problem) -> Breakdown:
        lowest = float(quotients.min())
        return Breakdown(
            f"negative curvature: {lowest:.3g} in one direction, so H + λI is not positive definite. "
            f"Raise damping above {problem.damping - lowest:.3g} at least, or use scipy_minres"
        )

    def _check_progress(self, residual: Tensor, at_last_restart: Tensor) -> None:
        stalled = (residual > self.tolerance) & (residual > 0.5 * at_last_restart)
        if stalled.any():
            raise Breakdown(
                f"rounding stops the residual at {float(residual[stalled].max()):.1e}, above the tolerance "
                f"{self.tolerance:g}: raise tolerance, raise damping or use float64"
            )
