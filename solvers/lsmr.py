"""LSMR on the root of H."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from problems import Problem
from problems.validation import check_counts
from solvers.krylov import Certificate, advance, columns_at, overwrite, select
from solvers.solver import Iterate, Solver, State, check_positive

# Vectors of R's rows that a column takes: u, its successor, and what the product keeps.
ROW_VECTORS = 3


@dataclass(frozen=True)
class LSMR(Solver):
    """LSMR (Fong & Saunders 2011) on R of H = RᵀR, whose condition is the root of that of H.

    x = b/λ + z with z = argmin ‖Rz + Rb/λ‖² + λ‖z‖², by Golub & Kahan's bidiagonalisation of R, every column
    its own. What LSMR makes least in each Krylov space, the residual of the normal equations, is
    b − (H + λI)x: after t steps from b/λ, ‖r‖ ≤ 2((√κ − 1)/(√κ + 1))ᵗ ‖Hb‖/λ. But for rounding it is MINRES
    from b/λ: flat directions start exact, and where λ ≪ λ_max that start costs some steps.

    A step is a product with R and one with Rᵀ, (1 + 5k)/3 gradient equivalents, of which columns that have
    converged drop out; the first step is the start. Memory: 6 vectors for each column and 3 of n·r numbers,
    these at most `memory_gib`.

    Every `check_every` steps, and where a column claims convergence, its residual is recomputed. A column has
    converged when that one is within `tolerance`; where rounding has let the recurrence run ahead of it,
    what is left is solved for anew. The rounding of b/λ is one of κ times it in the residual, so that in
    float32 κ ≥ 1e7 is a Breakdown, as is every tolerance that rounding forbids.
    """

    tolerance: float = 1e-6
    check_every: int = 50
    memory_gib: float = 4.0

    remedy: ClassVar[str] = "raise damping or use float64"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance, memory_gib=self.memory_gib)
        check_counts(check_every=self.check_every)

    def skip(self, problem: Problem) -> str | None:
        operator = problem.operator
        if not operator.root_rank:
            return (
                "H has no root by examples, as the Gauss–Newton and the Fisher matrix have: choose the "
                "curvature ggn or the solver minres"
            )
        rows = operator.num_draws * operator.root_rank
        needed = ROW_VECTORS * rows * problem.num_columns * operator.dtype.itemsize / 2**30
        if needed > self.memory_gib:
            return (
                f"vectors of the root's {rows} rows take {needed:.2g} GiB, memory_gib={self.memory_gib:g}: "
                "raise it, solve fewer columns at once, or use minres"
            )
        return None

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        known = Certificate(b, self.tolerance, self.check_every)
        active = known.active()
        x = b / problem.damping
        if not active.numel():
            yield Iterate(torch.zeros_like(b), known.residual, known.converged)
            return
        now = _Bidiagonalisation.start(problem, columns_at(b, active))
        while True:
            places = known.to_check(active, now.zeta_bar.abs())
            if places.numel():
                true, lost = known.recompute(problem, x, active[places])
            yield Iterate(x, known.residual, known.converged)
            if places.numel():
                if lost.any():
                    # What is left is a system like the first, whose start is the residual over λ.
                    known.start_afresh(active[places[lost]])
                    x[:, active[places[lost]]] += true[:, lost] / problem.damping
                    overwrite(now, places[lost], _Bidiagonalisation.start(problem, true[:, lost]))
                keep = ~known.converged[active]
                active, now = active[keep], select(now, keep)
                if not active.numel():
                    return
            direction, length = now.step(problem)
            advance(x, active, direction, length)


@dataclass
class _Bidiagonalisation:
    """What a step needs of those before: vectors (n·r, k) and (p, k), and one number for each column."""

    u: Tensor
    v: Tensor
    h: Tensor
    h_bar: Tensor
    alpha: Tensor
    alpha_bar: Tensor
    zeta_bar: Tensor  # ± ‖b − (H + λI)x‖
    rho: Tensor
    rho_bar: Tensor
    c_bar: Tensor
    s_bar: Tensor

    @classmethod
    def start(cls, problem: Problem, r: Tensor) -> _Bidiagonalisation:
        """For argmin ‖Rz + Rr/λ‖² + λ‖z‖²."""
        u, beta = _normalised(problem.operator.root_product(r / -problem.damping))
        v, alpha = _normalised(problem.operator.root_transpose_product(u))
        one = torch.ones_like(alpha)
        return cls(
            u=u,
            v=v,
            h=v.clone(),
            h_bar=torch.zeros_like(v),
            alpha=alpha,
            alpha_bar=alpha,
            zeta_bar=alpha * beta,
            rho=one,
            rho_bar=one,
            c_bar=one,
            s_bar=torch.zeros_like(alpha),
        )

    def step(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """The next direction (p, k), and how far along it the residual is least (k,)."""
        operator = problem.operator
        u = operator.root_product(self.v).addcmul_(self.u, self.alpha, value=-1)
        self.u, beta = _normalised(u)
        v = operator.root_transpose_product(self.u).addcmul_(self.v, beta, value=-1)
        self.v, self.alpha = _normalised(v)
        # Rotations that take in the damping, the bidiagonal's new column, and its transpose's.
        alpha_hat = (self.alpha_bar.square() + problem.damping).sqrt()
        rho_before, self.rho = self.rho, torch.hypot(alpha_hat, beta)
        theta = beta / self.rho * self.alpha
        self.alpha_bar = alpha_hat / self.rho * self.alpha
        rho_bar_before, theta_bar, rho_hat = self.rho_bar, self.s_bar * self.rho, self.c_bar * self.rho
        self.rho_bar = torch.hypot(rho_hat, theta)
        self.c_bar, self.s_bar = rho_hat / self.rho_bar, theta / self.rho_bar
        zeta, self.zeta_bar = self.c_bar * self.zeta_bar, -self.s_bar * self.zeta_bar
        self.h_bar.mul_(theta_bar * self.rho / (rho_before * rho_bar_before)).sub_(self.h).neg_()
        length = zeta / (self.rho * self.rho_bar)
        self.h = torch.addcmul(self.v, self.h, theta / self.rho, value=-1)
        return self.h_bar, length


def _normalised(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The columns with norm 1, in place, and their norms; 0 stays 0."""
    norms = torch.linalg.vector_norm(vectors, dim=0)
    return vectors.div_(norms.clamp_min(torch.finfo(norms.dtype).tiny)), norms
