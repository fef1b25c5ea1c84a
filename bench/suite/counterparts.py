"""What stands against our solvers in `bench_counterparts`: SciPy's Krylov solvers, dense matrices and LAPACK.

Each takes a problem and which of its columns, and gives the answer (p, k).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import torch
from torch import Tensor

from problems import Problem
from solvers.exact_ways import Counts

# What both sides reach, as float32's rounding allows too.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
# What both sides reach, as float32's rounding allows too.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
# Steps, and with them vectors that are kept, of both Lanczos solvers, and the pairs they are asked for.
LANCZOS_STEPS, LANCZOS_RANK = 60, 8
# What ARPACK's pairs are held to: residuals relative to their eigenvalue. Ours are below after as many steps.
ARPACK_TOLERANCE = 1e-6

Solve = Callable[[Problem, slice], Tensor]


# SciPy's Krylov solvers, as anyone would call them.


def scipy_cg(problem: Problem, columns: slice) -> Tensor:
    """`scipy.sparse.linalg.cg`, whose rtol is the tolerance itself."""
    matrix, tolerance = _damped(problem), TOLERANCES[problem.operator.dtype]

    def one(target: np.ndarray) -> np.ndarray:
        return scipy.sparse.linalg.cg(matrix, target, rtol=tolerance, atol=0.0)[0]

    return _by_columns(one, problem, columns)


def scipy_minres(problem: Problem, columns: slice) -> Tensor:
    """`scipy.sparse.linalg.minres`, whose rtol bounds ‖r‖/(‖A‖‖x‖)."""
    return _minres(problem, columns, _loosest(_minres, problem, columns.stop))


def _minres(problem: Problem, columns: slice, setting: float) -> Tensor:
    matrix = _damped(problem)

    def one(target: np.ndarray) -> np.ndarray:
        return scipy.sparse.linalg.minres(matrix, target, rtol=setting)[0]

    return _by_columns(one, problem, columns)


def scipy_lsmr(problem: Problem, columns: slice) -> Tensor:
    """b/λ + z by `scipy.sparse.linalg.lsmr` on H's root, whose atol bounds norms that it estimates."""
    return _lsmr(problem, columns, _loosest(_lsmr, problem, columns.stop))


def _lsmr(problem: Problem, columns: slice, setting: float) -> Tensor:
    operator, damping = problem.operator, problem.damping

    def matvec(vector: np.ndarray) -> np.ndarray:
        return _out(operator.root_product(_in(vector, problem)[:, None])[:, 0])

    def rmatvec(vector: np.ndarray) -> np.ndarray:
        return _out(operator.root_transpose_product(_in(vector, problem)[:, None])[:, 0])

    def one(target: np.ndarray) -> np.ndarray:
        start = target / damping
        rest = -matvec(start)
        root = scipy.sparse.linalg.LinearOperator(
            (len(rest), len(target)), matvec=matvec, rmatvec=rmatvec, dtype=target.dtype
        )
        limits = {"btol": 0.0, "conlim": 0.0, "maxiter": 10 * len(target)}
        return start + scipy.sparse.linalg.lsmr(root, rest, damping**0.5, atol=setting, **limits)[0]

    return _by_columns(one, problem, columns)


@functools.cache
def _loosest(routine: Callable[[Problem, slice, float], Tensor], problem: Problem, width: int) -> float:
    """The largest of some settings with which every column's true residual is within the tolerance."""
    columns, tolerance = slice(0, width), TOLERANCES[problem.operator.dtype]
    setting = tolerance
    while (problem.residual(routine(problem, columns, setting), problem.columns(columns)) > tolerance).any():
        setting /= 2
    return setting


def _damped(problem: Problem) -> scipy.sparse.linalg.LinearOperator:
    """H + λI."""
    operator, damping = problem.operator, problem.damping

    def matvec(vector: np.ndarray) -> np.ndarray:
        column = _in(vector, problem)
        return _out(torch.add(operator @ column, column, alpha=damping))

    return scipy.sparse.linalg.LinearOperator(operator.shape, matvec=matvec, dtype=np.float64)


def _by_columns(one: Callable[[np.ndarray], np.ndarray], problem: Problem, columns: slice) -> Tensor:
    return torch.stack([_in(one(_out(b)), problem) for b in problem.columns(columns).T], dim=1)


def _in(vector: np.ndarray, problem: Problem) -> Tensor:
    return torch.from_numpy(vector).to(problem.operator.device, problem.operator.dtype)


def _out(vector: Tensor) -> np.ndarray:
    return vector.cpu().double().numpy()


def scipy_eigsh(problem: Problem, columns: slice) -> Tensor:
    """ARPACK's pairs of largest modulus, with as many vectors as ours, and λ beside them."""
    operator = problem.operator

    def matvec(vector: np.ndarray) -> np.ndarray:
        return _out(operator @ _in(vector, problem))

    start = np.random.default_rng(0).standard_normal(problem.size)
    values, vectors = scipy.sparse.linalg.eigsh(
        scipy.sparse.linalg.LinearOperator(operator.shape, matvec=matvec, dtype=np.float64),
        k=LANCZOS_RANK,
        ncv=LANCZOS_STEPS,
        tol=ARPACK_TOLERANCE,
        v0=start,
    )
    b = _out(problem.columns(columns))
    shares = (values / (values + problem.damping))[:, None]
    return _in((b - vectors @ (shares * (vectors.T @ b))) / problem.damping, problem)


# Dense matrices, formed as ours are, and LAPACK.


def torch_cholesky(problem: Problem, columns: slice) -> Tensor:
    """`torch.linalg.cholesky` of H + λI."""
    matrix = _matrix(problem)
    matrix.diagonal().add_(problem.damping)
    return torch.cholesky_solve(problem.columns(columns), torch.linalg.cholesky(matrix))


def scipy_cholesky(problem: Problem, columns: slice) -> Tensor:
    """`scipy.linalg.cho_factor` and `cho_solve` of H + λI."""
    matrix = _matrix(problem)
    matrix.diagonal().add_(problem.damping)
    factor = scipy.linalg.cho_factor(matrix.numpy(), overwrite_a=True)
    return torch.from_numpy(scipy.linalg.cho_solve(factor, problem.columns(columns).numpy()))


def scipy_eigh(driver: str) -> Solve:
    """`scipy.linalg.eigh` of H by one of LAPACK's drivers."""

    def by_eigenvectors(problem: Problem, columns: slice) -> Tensor:
        values, vectors = scipy.linalg.eigh(_matrix(problem).numpy(), driver=driver, overwrite_a=True)
        b = problem.columns(columns).numpy()
        return torch.from_numpy(vectors @ ((vectors.T @ b) / (values + problem.damping)[:, None]))

    return by_eigenvectors


def scipy_woodbury(problem: Problem, columns: slice) -> Tensor:
    """(b − Rᵀ(RRᵀ + λI)⁻¹R b)/λ."""
    rows, b = _rows(problem).numpy(), problem.columns(columns).numpy()
    gram = rows @ rows.T
    gram[np.diag_indices_from(gram)] += problem.damping
    weights = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, overwrite_a=True), rows @ b)
    return torch.from_numpy((b - rows.T @ weights) / problem.damping)


def _matrix(problem: Problem) -> Tensor:
    """H from what is cheaper by count, as `exact` forms it."""
    if not Counts.of(problem).rows_are_cheaper:
        return problem.operator.dense()
    rows = _rows(problem)
    return rows.T @ rows


def _rows(problem: Problem) -> Tensor:
    """R of H = RᵀR."""
    rows = torch.cat([block.flatten(0, 1) for block in problem.operator.root_blocks()])
    return rows / problem.operator.num_draws**0.5
