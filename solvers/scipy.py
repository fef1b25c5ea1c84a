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
    remedy: ClassVar[str] = "raise damping until H + λI is positive definite, or use scipy_minres"

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

    # Of norm 1, since SciPy's inner products underflow on small right-hand sides.
    scale = float(rhs.norm())
    target = (rhs / scale).cpu().numpy()
    matrix = scipy.sparse.linalg.LinearOperator((len(target), len(target)), matvec=matvec, dtype=target.dtype)
    estimate, rtol = None, tolerance

    def report(estimate: np.ndarray) -> None:
        callback(scale * estimate)

    while True:
        estimate, _ = routine(matrix, target, x0=estimate, rtol=rtol, callback=report, **settings)
        residual = float(np.linalg.norm(target - matvec(estimate)))
        if residual <= tolerance:
            return
        if rtol < np.finfo(target.dtype).eps:
            raise Breakdown(
                f"rounding stops the residual at {residual:.1e}, above the tolerance {tolerance:g}: raise "
                "tolerance, raise damping or use float64"
            )
        rtol *= 0.5 * min(1.0, tolerance / residual)
