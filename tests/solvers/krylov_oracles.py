"""Independent oracles for the Krylov solvers: dense minimisers, and what a transformed system needs."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from problems import DenseOperator, Problem
from solvers import Solver


def spectral_problem(values: Tensor, damping: float, rhs: Tensor, seed: int = 0) -> Problem:
    """H with the eigenvalues `values` (p,) and random eigenvectors, in the dtype of `rhs`."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(square)[0]
    matrix = (basis * values) @ basis.T
    operator = DenseOperator.from_matrix(((matrix + matrix.T) / 2).to(rhs.dtype))
    return Problem("spectral", operator, damping, rhs)


def gaussian(size: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, columns, generator=generator, dtype=torch.float64).to(dtype)


def damped_matrix(problem: Problem) -> Tensor:
    """H + λI in float64."""
    matrix = problem.operator.to(torch.float64).dense()
    return matrix + problem.damping * torch.eye(problem.size, dtype=torch.float64)


def iterates(problem: Problem, solver: Solver, count: int) -> list[Tensor]:
    """The first `count` answers, each (p, k), straight from the solver."""
    generator = torch.Generator().manual_seed(0)
    state = solver.prepare(problem, generator)
    found = solver.iterates(problem, state, problem.columns().clone(), generator)
    return [iterate.x.clone() for iterate in itertools.islice(found, count)]


def true_residuals(problem: Problem, x: Tensor) -> Tensor:
    """‖b − (H + λI)x‖/‖b‖ of every column, in float64."""
    b = problem.columns().to(torch.float64)
    return (b - damped_matrix(problem) @ x.to(torch.float64)).norm(dim=0) / b.norm(dim=0)


def krylov_basis(matrix: Tensor, start: Tensor, steps: int) -> Tensor:
    """Orthonormal vectors that span start, A·start, …, A^(steps − 1)·start, shape (p, steps · k)."""
    basis = torch.linalg.qr(start)[0]
    for _ in range(steps - 1):
        new = matrix @ basis[:, -start.shape[1] :]
        for _ in range(2):
            new = new - basis @ (basis.T @ new)
        basis = torch.cat([basis, torch.linalg.qr(new)[0]], dim=1)
    return basis


def least_energy(matrix: Tensor, b: Tensor, basis: Tensor) -> Tensor:
    """The x in the span of `basis` nearest to A⁻¹b in the norm of A."""
    return basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)


def least_residual(matrix: Tensor, b: Tensor, basis: Tensor) -> Tensor:
    """The x in the span of `basis` with the least ‖b − Ax‖."""
    return basis @ torch.linalg.lstsq(matrix @ basis, b).solution


def positive_definite(size: int, condition: float, seed: int = 0) -> Tensor:
    """A symmetric matrix with eigenvalues from 1 to `condition`, evenly in logarithm."""
    values = torch.logspace(0, float(torch.tensor(condition).log10()), size, dtype=torch.float64)
    basis = torch.linalg.qr(gaussian(size, size, seed))[0]
    return (basis * values) @ basis.T


def inverse_root(matrix: Tensor) -> Tensor:
    """P^-½ of P ≻ 0."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors / values.sqrt()) @ vectors.T
