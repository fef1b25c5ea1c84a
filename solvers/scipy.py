"""SciPy's Krylov solvers, through scipy.sparse.linalg.LinearOperator: independent oracles for ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from problems import Problem
from solvers.callbacks import iterate_callbacks
from solvers.solver import Breakdown, Iterate, Solver, State, check_positive


@dataclass(frozen=True)
class SciPyCG(Solver):
    """`scipy.sparse.linalg.cg`, column by column; a step is one product with one column.

    Converges for H + λI ≻ 0 with energy-norm error ≤ 2((√κ − 1)/(√κ + 1))ᵗ. Works in the problem's dtype.
    """

    tolerance: float = 1e-6

    variant: ClassVar[str] = "cg"
    remedy: ClassVar[str] = "raise damping until H + λI is positive definite, or use minres"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        # SciPy stops at the residual of its recurrence, which is the tolerance's meaning up to rounding.
        yield from _column_by_column(scipy.sparse.linalg.cg, problem, b, self.tolerance, {"atol": 0.0})


@dataclass(frozen=True)
class SciPyMINRES(Solver):
    """`scipy.sparse.linalg.minres` (Paige & Saunders 1975), column by column; a step is one product.

    Converges for every non-singular symmetric H + λI, indefinite ones included; for definite ones its
    residual falls at CG's rate. SciPy's own `rtol` bounds ‖r‖/(‖A‖‖x‖), so it is lowered until the true
    residual is within `tolerance`.
    """

    tolerance: float = 1e-6

    variant: ClassVar[str] = "minres"
    remedy: ClassVar[str] = "raise damping: H + λI is close to singular"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield from _column_by_column(scipy.sparse.linalg.minres, problem, b, self.tolerance, {})


@dataclass(frozen=True)
class SciPyLSMR(Solver):
    """`scipy.sparse.linalg.lsmr` (Fong & Saunders 2011) on the root R of H = RᵀR, column by column.

    x = b/λ + argmin_z ‖Rz + Rb/λ‖² + λ‖z‖². Converges like `lsmr`; a step is a product with R and one with
    Rᵀ, and as SciPy reports none of its iterates a column is b/λ until it ends. SciPy's own `atol` bounds
    ‖r‖ over norms that it estimates, so it is lowered until the true residual is within `tolerance`.
    """

    tolerance: float = 1e-6

    variant: ClassVar[str] = "lsmr"
    remedy: ClassVar[str] = "raise damping or use float64"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)

    def skip(self, problem: Problem) -> str | None:
        if problem.operator.root_rank:
            return None
        return "H has no root by examples, as the Gauss–Newton and the Fisher matrix have: use scipy_minres"

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        x = torch.zeros_like(b)
        if not b.any():
            yield Iterate(x)
        for column in b.any(dim=0).nonzero().flatten().tolist():

            def solve(callback: Callable[[np.ndarray], None], rhs: Tensor = b[:, column]) -> None:
                _least_squares(problem, rhs, self.tolerance, callback)

            for estimate in iterate_callbacks(solve):
                x[:, column] = torch.from_numpy(estimate).to(x)
                yield Iterate(x)


def _column_by_column(
    routine: Callable[..., Any], problem: Problem, b: Tensor, tolerance: float, settings: dict[str, Any]
) -> Iterator[Iterate]:
    x = torch.zeros_like(b)
    if not b.any():
        yield Iterate(x)
    for column in b.any(dim=0).nonzero().flatten().tolist():

        def solve(callback: Callable[[np.ndarray], None], rhs: Tensor = b[:, column]) -> None:
            _solve(routine, problem, rhs, tolerance, settings, callback)

        for estimate in iterate_callbacks(solve):
            x[:, column] = torch.from_numpy(estimate).to(x)
            yield Iterate(x)


def _solve(
    routine: Callable[..., Any],
    problem: Problem,
    rhs: Tensor,
    tolerance: float,
    settings: dict[str, Any],
    callback: Callable[[np.ndarray], None],
) -> None:
    """Run `routine` from where it ended, with a lower rtol, until the true residual is within `tolerance`."""

    def matvec(vector: np.ndarray) -> np.ndarray:
        v = torch.from_numpy(vector.ravel()).to(rhs)
        return (problem.operator @ v + problem.damping * v).cpu().numpy()

    target = rhs.cpu().numpy()
    matrix = scipy.sparse.linalg.LinearOperator((len(target), len(target)), matvec=matvec, dtype=target.dtype)
    # Budgets are the driver's; SciPy's own limit only returns here to see whether there is progress.
    settings = settings | {"maxiter": 100 * len(target) + 100}
    estimate, rtol, previous = None, tolerance, float("inf")
    while True:
        estimate, _ = routine(matrix, target, x0=estimate, rtol=rtol, callback=callback, **settings)
        residual = float(np.linalg.norm(target - matvec(estimate)) / np.linalg.norm(target))
        if residual <= tolerance:
            return
        if residual > 0.5 * previous:
            raise _stalled(residual, tolerance)
        previous = residual
        rtol = max(rtol * 0.5 * min(1.0, tolerance / residual), float(np.finfo(target.dtype).tiny))


def _least_squares(
    problem: Problem, rhs: Tensor, tolerance: float, callback: Callable[[np.ndarray], None]
) -> None:
    """Run SciPy's LSMR on what it left, with a lower atol, until the true residual is within `tolerance`."""
    operator, damping = problem.operator, problem.damping
    x, left = torch.zeros_like(rhs), rhs
    norm, previous, tiny = float(rhs.norm()), float("inf"), float(torch.finfo(rhs.dtype).tiny)
    stretch = None
    while True:
        start = x + left / damping

        def matvec(vector: np.ndarray, start: Tensor = start) -> np.ndarray:
            callback(start.cpu().numpy())
            return operator.root_product(torch.from_numpy(vector).to(rhs).reshape(-1, 1))[:, 0].cpu().numpy()

        def rmatvec(vector: np.ndarray) -> np.ndarray:
            weights = torch.from_numpy(vector).to(rhs).reshape(-1, 1)
            return operator.root_transpose_product(weights)[:, 0].cpu().numpy()

        target = operator.root_product((left / -damping)[:, None])[:, 0].cpu().numpy()
        root = scipy.sparse.linalg.LinearOperator(
            (len(target), len(rhs)), matvec=matvec, rmatvec=rmatvec, dtype=target.dtype
        )
        # It ends where what we want small is atol · ‖R‖ · its residual, by estimates of its own. It starts
        # at 0, for it damps the way from where it starts.
        length = float(np.linalg.norm(target))
        atol = (
            tolerance
            * norm
            / (max(stretch or damping * length / float(left.norm()), tiny) * max(length, tiny))
        )
        with np.errstate(over="ignore"):  # of its estimates, in float32
            found, *_, stretch, _, _ = scipy.sparse.linalg.lsmr(
                root, target, damping**0.5, atol=atol, btol=0.0, conlim=0.0, maxiter=100 * len(rhs) + 100
            )
        x = start + torch.from_numpy(found).to(rhs)
        left = rhs - operator @ x - damping * x
        residual = float(left.norm()) / norm
        callback(x.cpu().numpy())
        if residual <= tolerance:
            return
        if residual > 0.5 * previous:
            raise _stalled(residual, tolerance)
        previous = residual


def _stalled(residual: float, tolerance: float) -> Breakdown:
    return Breakdown(
        f"the residual no longer falls: it stays at {residual:.1e}, above the tolerance {tolerance:g}. "
        "Raise tolerance, raise damping or use float64"
    )
