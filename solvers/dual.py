"""The dual of a solve with H = RᵀR: N × N instead of p × p, for N rows of R fewer than p parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import scipy.linalg.blas
import torch
from torch import Tensor

from problems.columns import times
from problems.operators.base import CurvatureOperator
from solvers.solver import Breakdown

# Columns of a symmetric product that are computed together.
BLOCK = 256


@dataclass(frozen=True)
class DualInverse:
    """x = (b − Rᵀ(RRᵀ + λI)⁻¹R b)/λ, which is (RᵀR + λI)⁻¹b (Woodbury 1950), refined once.

    `factor` (N, N) is Cholesky's of RRᵀ + λI; `push` and `pull` multiply columns by R (N, p) and by Rᵀ. The
    difference cancels where b lies in H's top: its error is κ^1.5 times rounding. A step of iterative
    refinement with the residual in R itself brings that to κ times, or below.
    """

    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]
    factor: Tensor
    damping: float

    def solve(self, b: Tensor) -> Tensor:
        """(H + λI)⁻¹b for b (p, k), in float64."""
        x = self._once(b)
        return x + self._once(b - self.pull(self.push(x)) - self.damping * x)

    def _once(self, b: Tensor) -> Tensor:
        return (b - self.pull(torch.cholesky_solve(self.push(b), self.factor))) / self.damping


def dual_inverse(operator: CurvatureOperator, damping: float, together: int) -> DualInverse:
    """Of `operator` in float64, the rows of `together` examples at a time; all are kept if all go together.

    Counts its work. Breakdown where λ is below rounding.
    """
    work, size, n = operator.work, operator.shape[0], operator.num_draws
    most = n * operator.root_rank
    gram = torch.zeros(most, most, dtype=operator.dtype, device=operator.device)
    begin = 0
    for first in range(0, n, together):
        rows = _rows(operator, first, min(n, first + together))
        end = begin + len(rows)
        columns = slice(begin, end)
        add_gram(gram[columns, columns], rows)
        if first + together < n:
            for block in operator.subset(torch.arange(first + together, n)).root_blocks():
                after = block.flatten(0, 1)
                gram[end : end + len(after), columns] = after @ rows.T
                end += len(after)
        begin += len(rows)
    # Shorter sequences have fewer rows.
    gram = gram[:begin, :begin].div_(n)
    gram.diagonal().add_(damping)
    work.count_algebra(begin**2 * size / 2 + begin**3 / 6)
    factor, info = torch.linalg.cholesky_ex(symmetric(gram))
    if info:
        raise Breakdown(
            f"RRᵀ + λI is not positive definite in float64: damping = {damping:g} is below rounding, raise it"
        )
    if together < n:
        return DualInverse(operator.root_product, operator.root_transpose_product, factor, damping)
    scaled = rows.div_(n**0.5)

    def push(vectors: Tensor) -> Tensor:
        work.count_algebra(scaled.numel() * vectors.shape[1])
        return times(scaled, vectors)

    def pull(weights: Tensor) -> Tensor:
        work.count_algebra(scaled.numel() * weights.shape[1])
        return times(scaled.T, weights)

    return DualInverse(push, pull, factor, damping)


def _rows(operator: CurvatureOperator, first: int, last: int) -> Tensor:
    """The rows of R·√n of the examples from `first` to `last`, in order."""
    most = (last - first) * operator.root_rank
    rows = torch.empty(most, operator.shape[0], dtype=operator.dtype, device=operator.device)
    if last - first < operator.num_draws:
        operator = operator.subset(torch.arange(first, last))
    end = 0
    for block in operator.root_blocks():
        found = block.flatten(0, 1)
        rows[end : end + len(found)] = found
        end += len(found)
    return rows[:end]


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Add rows · rowsᵀ to `total`: its lower triangle alone is right, for half of the multiplications."""
    if total.device.type == "cpu" and total.dtype == torch.float64:
        _add_gram_by_blas(total, rows)
        return
    for first in range(0, len(rows), BLOCK):
        total[first:, first : first + BLOCK].addmm_(rows[first:], rows[first : first + BLOCK].T)


def _add_gram_by_blas(total: Tensor, rows: Tensor) -> None:
    """BLAS has a routine for it, of which torch makes no use."""
    # BLAS counts by columns: what is `total`'s lower triangle is its upper one.
    if rows.T.is_contiguous():
        factor, transposed = rows.numpy(), 0
    else:
        factor, transposed = rows.contiguous().numpy().T, 1
    into = total if total.is_contiguous() else total.contiguous()
    found = scipy.linalg.blas.dsyrk(
        1.0, factor, beta=1.0, c=into.numpy().T, trans=transposed, lower=0, overwrite_c=1
    )
    if found.ctypes.data != total.data_ptr():
        total.copy_(torch.from_numpy(found.T))


def symmetric(lower: Tensor) -> Tensor:
    """The symmetric matrix of which `lower` holds the lower triangle, in its memory."""
    lower.tril_()
    return lower.add_(lower.tril(-1).T)
