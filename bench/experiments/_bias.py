"""What is left of LiSSA's start b/λ, exactly: studies tell noise apart by it."""

from __future__ import annotations

from torch import Tensor

from problems import Problem


def error_of_start(problem: Problem) -> Tensor:
    """b/λ − u*, float64, shape (p, k); for problems with a reference."""
    assert problem.reference is not None
    return problem.columns().double() / problem.damping - problem.reference


def bias(problem: Problem, step_size: float, num_steps: int) -> Tensor:
    """E u_T − u* = (I − η(H + λ))ᵀ(b/λ − u*) by H's eigendecomposition, shape (p, k)."""
    eigenvalues, basis = problem.ground_truth.eigen
    left = (1 - step_size * (eigenvalues + problem.damping)) ** num_steps
    return basis @ (left[:, None] * (basis.T @ error_of_start(problem)))
