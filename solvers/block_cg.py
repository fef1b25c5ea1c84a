"""Block conjugate gradients."""

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

# Directions with so many roundings or less of what was left are taken for none.
NOISE = 100


@dataclass(frozen=True)
class BlockConjugateGradient(Solver):
    """Block conjugate gradients (O'Leary 1980): the best answers in one Krylov space of all columns together.

    In the form of Dubrulle (2001), BCGrQ: the residuals are Qσ with QᵀP⁻¹Q = I, so that columns may be, or
    become, nearly dependent; directions in which no residual is left are dropped, so that no small matrix is
    singular (as in Ji & Li 2017). For H + λI ≻ 0 a column's energy-norm error is never above that of `cg`,
    whose bound 2((√κ − 1)/(√κ + 1))ᵗ it shares, and without rounding it is 0 after ⌈p/k⌉ steps if the columns
    are in general position.

    A step is one product with as many columns as there are directions, (1 + 4k)/3 gradient equivalents, also
    when some columns have converged, for whose space the others have use; and 7pk² multiplications, 10pk²
    under a preconditioner. Memory: 8 vectors for each column, 10 under a preconditioner.

    `preconditioner` P ≻ 0, as of `cg`. Every `check_every` steps, and where a column claims convergence, its
    residual is recomputed. A column has converged when that one, in the 2-norm, is within `tolerance`, and
    then stays as it is; where rounding has let the recurrence run ahead of it, all columns that have not
    converged start afresh together. Breakdown on negative curvature, on a P that is not positive definite,
    and where rounding forbids the tolerance.
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
        if not active.numel():
            yield Iterate(x, known.residual, known.converged)
            return
        # Residuals are Qσ · length, at first of norm 1: short columns are no combinations of long ones.
        length = known.norms[active]
        q, s, sigma = _orthonormal(b[:, active] / length, 1.0, state, problem)
        while active.numel():
            product = damped_product(problem, s)
            inverse = _inverse(s, product, problem)
            advance(x, active, s @ (inverse @ sigma), length)
            largest = float(torch.linalg.vector_norm(q, dim=0).max())
            q, z, zeta = _orthonormal(torch.addmm(q, product, inverse, alpha=-1), largest, state, problem)
            s = torch.addmm(z, s, zeta.T)
            sigma = zeta @ sigma
            problem.operator.work.count_algebra(s.numel() * (2 * len(zeta.T) + len(active)))
            norms = torch.linalg.vector_norm(sigma if state is None else q @ sigma, dim=0)
            places = known.to_check(active, norms * length)
            if places.numel():
                _, lost = known.recompute(problem, x, active[places])
            yield Iterate(x, known.residual, known.converged)
            if places.numel():
                again = active[places[lost]]
                keep = ~known.converged[active]
                active, length, sigma = active[keep], length[keep], sigma[:, keep]
                if len(again):  # of which none has converged
                    known.start_afresh(again)
                    true, _ = known.recompute(problem, x, active)
                    keep = ~known.converged[active]
                    active, true = active[keep], true[:, keep]
                    length = torch.linalg.vector_norm(true, dim=0)
                    q, s, sigma = _orthonormal(true / length, 1.0, state, problem)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        return preconditioned_examples(super().examples(problem)[0])


def _inverse(s: Tensor, product: Tensor, problem: Problem) -> Tensor:
    """(Sᵀ(H + λI)S)⁻¹ from S and (H + λI)S, shape (d, d). Breakdown where it is not positive definite."""
    problem.operator.work.count_algebra(s.numel() * s.shape[1])
    energies = s.to(torch.float64).T @ product.to(torch.float64)
    factor, info = torch.linalg.cholesky_ex((energies + energies.T) / 2)
    if info:
        values, vectors = torch.linalg.eigh((energies + energies.T) / 2)
        along = s @ vectors[:, 0].to(s.dtype)
        raise negative_curvature(float(values[0] / along.square().sum()), problem)
    return torch.cholesky_inverse(factor).to(s.dtype)


def _orthonormal(
    vectors: Tensor, largest: float, preconditioner: Preconditioner | None, problem: Problem
) -> tuple[Tensor, Tensor, Tensor]:
    """Q, P⁻¹Q and ζ with Qζ the `vectors` (p, k) and QᵀP⁻¹Q = I, without directions that are but rounding.

    `largest` is the norm of what the vectors are a difference of.
    """
    work, size, dtype = problem.operator.work, vectors.shape[0], vectors.dtype
    orthonormal, triangle = torch.linalg.qr(vectors)
    left, values, right = torch.linalg.svd(triangle, full_matrices=False)
    sizes = values.tolist()  # in descending order
    rank = sum(value > NOISE * torch.finfo(dtype).eps * max(largest, sizes[0]) for value in sizes)
    q, zeta = orthonormal @ left[:, :rank], values[:rank, None] * right[:rank]
    work.count_algebra(size * vectors.shape[1] * (2 * vectors.shape[1] + rank))
    if preconditioner is None or not rank:
        return q, q, zeta
    z = preconditioner.apply(q)
    work.count_algebra(2 * size * rank**2)
    gram = q.to(torch.float64).T @ z.to(torch.float64)
    factor, info = torch.linalg.cholesky_ex((gram + gram.T) / 2)
    if info:
        raise not_positive_definite(float(torch.linalg.eigvalsh((gram + gram.T) / 2)[0]))
    factor = factor.to(dtype)
    q, z = (torch.linalg.solve_triangular(factor.T, each, upper=True, left=False) for each in (q, z))
    return q, z, factor.T @ zeta
