"""Conjugate gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from problems import Problem
from problems.validation import check_counts
from solvers.krylov import (
    Certificate,
    advance,
    columns_at,
    damped_product,
    negative_curvature,
    not_positive_definite,
    preconditioned_examples,
)
from solvers.preconditioner import (
    NONE,
    Preconditioner,
    Preconditioning,
    as_preconditioner,
    prepare,
    skip_reason,
)
from solvers.solver import Example, Iterate, Solver, check_positive


@dataclass(frozen=True)
class ConjugateGradient(Solver):
    """Conjugate gradients (Hestenes & Stiefel 1952): every column its own recurrence, all share each product.

    Converges for H + λI ≻ 0 with energy-norm error ≤ 2((√κ − 1)/(√κ + 1))ᵗ after t steps, κ being that of
    P⁻¹(H + λI) under a `preconditioner` P ≻ 0. A step is one product over all data, of which columns that
    have converged drop out, and one with P⁻¹. Memory: 7 vectors for each column, b and a
    product among them, 10 with P.

    `preconditioner`: "jacobi", "nystrom", "ekfac", any solver that gives a matrix near H + λI, or a function
    V (p, k) ↦ P⁻¹V; its set-up is added.

    Every `check_every` steps, and where a column claims convergence, its residual is recomputed by one more
    product. A column has converged when that one, in the 2-norm whatever P is, is within `tolerance`; where
    rounding has let the recurrence run ahead of it, the column starts afresh from its iterate (residual
    replacement, van der Vorst & Ye 2000). In float32 rounding stops the residual near 1e-7·κ. Breakdown on
    negative curvature, on a P that is not positive definite, and where rounding forbids the tolerance.
    """

    tolerance: float = 1e-6
    preconditioner: Preconditioning = NONE
    check_every: int = 50

    remedy: ClassVar[str] = "raise damping until H + λI is positive definite, or use minres"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)
        check_counts(check_every=self.check_every)
        as_preconditioner(self.preconditioner)

    def skip(self, problem: Problem) -> str | None:
        return skip_reason(self.preconditioner, problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Preconditioner | None:
        return prepare(self.preconditioner, problem, generator)

    def iterates(
        self, problem: Problem, state: Preconditioner | None, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        x = torch.zeros_like(b)
        known = Certificate(b, self.tolerance, self.check_every)
        active = known.active()
        if not len(active):
            yield Iterate(x, known.residual, known.converged)
        r = columns_at(b, active)
        p = torch.zeros_like(r)
        norms = torch.linalg.vector_norm(r, dim=0)
        previous = torch.full_like(norms, float("inf"))  # r·z: where it is infinite p starts afresh
        while active.numel():
            z, inner = _precondition(state, r, norms)
            p = torch.addcmul(z, p, inner / previous)
            previous = inner
            product = damped_product(problem, p)
            curvature = (p * product).sum(dim=0)
            if min(curvature.tolist()) <= 0:
                raise negative_curvature(float((curvature / p.square().sum(dim=0)).min()), problem)
            alpha = inner / curvature
            advance(x, active, p, alpha)
            r.addcmul_(product, alpha, value=-1)
            norms = torch.linalg.vector_norm(r, dim=0)
            places = known.to_check(active, norms)
            if places.numel():
                true, lost = known.recompute(problem, x, active[places])
            yield Iterate(x, known.residual, known.converged)
            if places.numel():
                if lost.any():
                    again = places[lost]
                    known.start_afresh(active[again])
                    r[:, again], previous[again] = true[:, lost], float("inf")
                    norms[again] = torch.linalg.vector_norm(true[:, lost], dim=0)
                keep = ~known.converged[active]
                active, r, p, norms, previous = (
                    columns_at(each, keep) for each in (active, r, p, norms, previous)
                )

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        return preconditioned_examples(super().examples(problem)[0])


def _precondition(preconditioner: Preconditioner | None, r: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
    """z = P⁻¹r and r·z; `norms` are ‖r‖. Breakdown where P is not positive definite."""
    if preconditioner is None:
        return r, norms.square()
    z = preconditioner.apply(r)
    inner = (r * z).sum(dim=0)
    if not all(value > 0 for value in inner.tolist()):
        raise not_positive_definite(float((inner / norms.square()).min()))
    return z, inner
