"""How CG and MINRES go on right-hand sides of which some Lanczos coefficients are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.spectrum.lanczos import Tridiagonal
from solvers.solver import Breakdown

# Steps over which the last rate of convergence is taken, where it has to be extrapolated.
RATE_STEPS = 6


@dataclass(frozen=True)
class CGHistory:
    """CG's relative 2-norm `errors` and `residuals` after 0, 1, …, m − 1 steps on one right-hand side.

    Residuals are those of its recurrence. The part of the solution that CG has not seen yet is taken to lie
    where it is largest, at the smallest eigenvalue (Gauss–Radau): errors are rather too large than too small.
    """

    errors: Tensor
    residuals: Tensor

    def steps_to(self, target: float) -> int | None:
        """The first step at which the error is within `target`; None where it is not among those known."""
        met = (self.errors <= target).nonzero()
        return int(met[0]) if len(met) else None

    def extrapolated(self, target: float) -> float:
        """Steps to `target` at the rate of the last steps that are known; ∞ where the residual stands."""
        known = len(self.residuals) - 1
        span = min(RATE_STEPS, known)
        if span < 1 or self.residuals[-1] <= 0:
            return math.inf
        rate = math.log(float(self.residuals[-1 - span] / self.residuals[-1])) / span
        left = math.log(float(self.errors[-1]) / target)
        return known + left / rate if rate > 0 else math.inf


def cg_history(tridiagonal: Tridiagonal, smallest: float) -> CGHistory:
    """CG's history from its own matrix of H + λI; `smallest` is the least that λ_min(H + λI) can be."""
    if len(tridiagonal.diagonal) == 0:
        return CGHistory(torch.zeros(1), torch.zeros(1))
    matrix, solution = _completed(tridiagonal, smallest)
    beside, size = tridiagonal.off_diagonal, len(matrix)
    first = _unit(size, 0)
    errors, residuals = [1.0], [1.0]
    # Where the space is invariant CG's last step is exact, else it is in the remainder that is not seen.
    last = size if float(beside[-1]) == 0 else size - 1
    for step in range(1, last + 1):
        # CG's iterate after t steps solves the leading t × t system.
        x = torch.linalg.solve(matrix[:step, :step], first[:step])
        left = solution.clone()
        left[:step] -= x
        errors.append(float(left.norm() / solution.norm()))
        residuals.append(float(beside[step - 1] * x[-1].abs()))
    return CGHistory(torch.tensor(errors), torch.tensor(residuals))


def last_error(tridiagonal: Tridiagonal, smallest: float) -> float:
    """The last of the errors of `cg_history`, by itself."""
    if float(tridiagonal.off_diagonal[-1]) == 0:
        return 0.0
    matrix, solution = _completed(tridiagonal, smallest)
    known = len(matrix) - 1
    left = solution.clone()
    if known:
        left[:known] -= torch.linalg.solve(matrix[:known, :known], _unit(known, 0))
    return float(left.norm() / solution.norm())


def unseen_error(tridiagonal: Tridiagonal, smallest: float) -> float:
    """CG's relative error after all its steps, what it has not seen put at `smallest` (Gauss–Radau)."""
    if float(tridiagonal.off_diagonal[-1]) == 0:
        return 0.0
    # The coefficient that leads out of the space is known: a step further, of which only the last is not.
    further = Tridiagonal(
        torch.cat([tridiagonal.diagonal, tridiagonal.diagonal[-1:]]),
        torch.nn.functional.pad(tridiagonal.off_diagonal, (0, 1), value=1.0),
        tridiagonal.start_norm,
    )
    # A little below, where CG may have met the smallest eigenvalue itself.
    return last_error(further, smallest * (1 - 1e-3))


def cg_coefficients(
    operator: CurvatureOperator, damping: float, b: Tensor, steps: int
) -> Iterator[Tridiagonal]:
    """CG from x = 0 for b (p,), a product a step: the matrix of H + λI on its space after each.

    Without reorthogonalisation, so in the memory of four vectors: what CG itself meets. Ends where the
    residual is down to rounding; Breakdown on negative curvature.
    """
    residual, direction = b.clone(), b.clone()
    first = square = float(b.double().square().sum())
    rounding = torch.finfo(b.dtype).eps ** 2
    diagonal: list[float] = []
    beside: list[float] = []
    before = 0.0
    for _ in range(steps):
        if not square > rounding * first:
            return
        product = operator @ direction + damping * direction
        curvature = float((direction.double() * product.double()).sum())
        if curvature <= 0:
            lowest = curvature / float(direction.double().square().sum())
            raise Breakdown(
                f"H has an eigenvalue of at most {lowest - damping:.3g}: with λ = {damping:g} H + λI is not "
                "positive definite"
            )
        alpha = square / curvature
        residual -= alpha * product
        new = float(residual.double().square().sum())
        ratio = new / square
        diagonal.append(1 / alpha + before)
        beside.append(math.sqrt(ratio) / alpha if new > rounding * first else 0.0)
        before = ratio / alpha
        direction = residual + ratio * direction
        square = new
        yield Tridiagonal(
            torch.tensor(diagonal, dtype=torch.float64),
            torch.tensor(beside, dtype=torch.float64),
            math.sqrt(first),
        )


def minres_residuals(tridiagonal: Tridiagonal, damping: float) -> list[float]:
    """MINRES's relative residual after 0, 1, …, m steps on the start vector of Lanczos; exact."""
    diagonal, beside = tridiagonal.diagonal + damping, tridiagonal.off_diagonal
    size = len(diagonal)
    whole = torch.zeros(size + 1, size, dtype=torch.float64)
    whole[:size] = torch.diag(diagonal) + torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1)
    whole[size, size - 1] = beside[-1]
    residuals = [1.0]
    for step in range(1, size + 1):
        part = whole[: step + 1, :step]
        right = torch.zeros(step + 1, dtype=torch.float64)
        right[0] = 1
        found = torch.linalg.lstsq(part, right).solution
        residuals.append(float((right - part @ found).norm()))
    return residuals


def with_column(
    measure_nodes: Tensor, measure_weights: Tensor, column: int, nodes: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The rules (k, m) with another, of more nodes, in the place of `column`; rows end in weights of 0."""
    width = max(measure_nodes.shape[1], len(nodes))
    padded = [
        torch.nn.functional.pad(each, (0, width - each.shape[1])) for each in (measure_nodes, measure_weights)
    ]
    for each, row in zip(padded, (nodes, weights), strict=True):
        each[column] = torch.nn.functional.pad(row, (0, width - len(row)))
    return padded[0], padded[1]


def _completed(tridiagonal: Tridiagonal, smallest: float) -> tuple[Tensor, Tensor]:
    """CG's matrix with what is unseen put at `smallest` (Gauss–Radau), and the solution it gives."""
    inner = tridiagonal.off_diagonal[:-1]
    matrix = torch.diag(tridiagonal.diagonal) + torch.diag(inner, 1) + torch.diag(inner, -1)
    if float(tridiagonal.off_diagonal[-1]) != 0:
        matrix[-1, -1] = _radau(matrix, smallest)
    return matrix, torch.linalg.solve(matrix, _unit(len(matrix), 0))


def _radau(matrix: Tensor, node: float) -> float:
    """The last diagonal entry with which the matrix has the eigenvalue `node`, below all the others.

    Golub & Meurant (2010), § 6.2. Where a Ritz value of the leading part lies below `node` by rounding, the
    entry itself.
    """
    size = len(matrix) - 1
    if size == 0:
        return node
    leading = matrix[:-1, :-1] - node * torch.eye(size, dtype=torch.float64)
    if float(torch.linalg.eigvalsh(leading)[0]) <= 0:
        return float(matrix[-1, -1])
    right = float(matrix[-1, -2]) ** 2 * _unit(size, size - 1)
    return node + float(torch.linalg.solve(leading, right)[-1])


def _unit(size: int, place: int) -> Tensor:
    unit = torch.zeros(size, dtype=torch.float64)
    unit[place] = 1
    return unit
