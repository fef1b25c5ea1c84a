"""What is left of LiSSA's start b/λ in the mean: studies tell noise apart by it."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.experiments._budget import KRYLOV_STEPS
from problems import Problem
from problems.footprint import Footprint
from problems.ground_truth import LARGEST_DENSE
from problems.operators.base import CurvatureOperator

# Of ‖u*‖, what one more Lanczos step changes at most, twice in a row.
TOLERANCE = 1e-3
MOST_STEPS = 60


def krylov_bytes(size: Footprint, dtype: torch.dtype) -> float:
    """What `MeanError` keeps on the CPU of a problem without an eigendecomposition, as a rule.

    The bases of all columns stay, since each step size and number of steps combines them anew: of 1.2 billion
    parameters in float32 and one column 72 GB.
    """
    if size.selected <= LARGEST_DENSE:
        return 0.0
    return float(dtype.itemsize * KRYLOV_STEPS * size.selected * size.columns)


def error_of_start(problem: Problem) -> Tensor:
    """b/λ − u*, float64, shape (p, k); for problems with a reference."""
    assert problem.reference is not None
    return problem.columns().double() / problem.damping - problem.reference


class MeanError:
    """E u_T − u* = (I − η(H + λ))ᵀ(b/λ − u*) for any η and T, of a problem with a reference.

    By H's eigendecomposition where p allows one. Else f(H)e ≈ ‖e‖ V f(VᵀHV) e_1 for each column e of
    b/λ − u*, V an orthonormal basis of its Krylov space (Saad 1992): bases are kept, on the CPU, and extended
    as far as is asked for.
    """

    def __init__(self, problem: Problem) -> None:
        assert problem.reference is not None
        self._problem = problem
        start = error_of_start(problem)
        self._lengths = problem.reference.norm(dim=0).tolist()
        self._spaces: list[_Space] = []
        if problem.is_dense:
            self._start = start
        else:
            starts = start.to(problem.operator.dtype).T
            self._spaces = [_Space(problem.operator, each) for each in starts]

    def after(self, step_size: float, num_steps: int) -> Tensor:
        """E u_T − u*, float64, shape (p, k)."""

        def left(values: Tensor) -> Tensor:
            return (1 - step_size * (values + self._problem.damping)) ** num_steps

        if self._problem.is_dense:
            values, basis = self._problem.ground_truth.eigen
            return basis @ (left(values)[:, None] * (basis.T @ self._start))
        found = []
        for space, length in zip(self._spaces, self._lengths, strict=True):
            before, steady = torch.zeros(0, dtype=torch.float64), 0
            for size in range(1, MOST_STEPS + 1):
                if not space.reaches(size):
                    break
                values, vectors = torch.linalg.eigh(space.projected[:size, :size])
                now = space.norm * (vectors @ (left(values) * vectors[0]))
                change = now.clone()
                change[:-1] -= before
                # What grows, at a step too large for the mean, is known relative to its own size.
                small = change.norm() <= TOLERANCE * max(length, float(now.norm()))
                before, steady = now, steady + 1 if small else 0
                if steady == 2:
                    break
            found.append(space.combined(before))
        return torch.stack(found, dim=1)


class _Space:
    """The Krylov space of H and a vector by Lanczos, fully orthogonalised; `projected` is VᵀHV, float64.

    Its basis is kept on the CPU: dozens of vectors of a large network fit no accelerator beside it.
    """

    def __init__(self, operator: CurvatureOperator, start: Tensor) -> None:
        self._operator = operator
        self.norm = float(start.double().norm())
        self._basis: list[Tensor] = []
        # The next vector of the basis; None where the space is invariant.
        self._next = start / self.norm if self.norm else None
        self.projected = torch.zeros(MOST_STEPS, MOST_STEPS, dtype=torch.float64)

    def reaches(self, size: int) -> bool:
        """Extend the basis to so many vectors; False where it has fewer."""
        while len(self._basis) < size and self._next is not None:
            self._basis.append(self._next.cpu())
            product = self._operator @ self._next
            row = len(self._basis) - 1
            scale = float(product.norm())
            for _ in range(2):
                for column, kept in enumerate(self._basis):
                    vector = kept.to(product.device)
                    part = (product.double() * vector.double()).sum()
                    self.projected[row, column] += part.cpu()
                    product = product - part.to(product.dtype) * vector
            self.projected[:row, row] = self.projected[row, :row]
            length = float(product.norm())
            invariant = length <= 10 * torch.finfo(product.dtype).eps * scale
            self._next = None if invariant else product / length
        return len(self._basis) >= size

    def combined(self, coefficients: Tensor) -> Tensor:
        """Σ c_i v_i, float64, shape (p,)."""
        operator = self._operator
        total = torch.zeros(operator.shape[0], dtype=torch.float64, device=operator.device)
        for coefficient, kept in zip(coefficients.tolist(), self._basis, strict=False):
            total += coefficient * kept.to(total.device).double()
        return total
