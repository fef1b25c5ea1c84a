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
# A column's recurrence ends where its residual is down to this many units of rounding.
ROUNDING = 10.0


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


def conjugate_gradients(
    operator: CurvatureOperator, damping: float, b: Tensor, steps: int
) -> Iterator[tuple[Tensor, list[Tridiagonal | None]]]:
    """CG's answer (p, k) after each product, and of each column H + λI on its Krylov space (Lanczos 1950).

    None for a column b = 0. Every column has a recurrence of its own, all share each product. Without
    reorthogonalisation: a Gauss rule stays right where the basis does not (Greenbaum 1989). Ends where all
    residuals are down to rounding; at least one step is made. Breakdown on negative curvature.
    """
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    first = square = b.double().square().sum(dim=0)
    small = (ROUNDING * torch.finfo(b.dtype).eps) ** 2
    diagonals: list[list[float]] = [[] for _ in first]
    beside: list[list[float]] = [[] for _ in first]
    before = [0.0] * len(first)
    for _ in range(steps):
        running = square > small * first
        product = operator @ direction + damping * direction
        curvature = (direction.double() * product.double()).sum(dim=0)
        _check_positive_definite(curvature, direction, running, damping)
        alpha = torch.where(running, square / curvature.where(running, 1), 0)
        x = x + alpha.to(b.dtype) * direction
        residual = residual - alpha.to(b.dtype) * product
        new = torch.where(running, residual.double().square().sum(dim=0), square)
        beta = torch.where(running, new / square.where(running, 1), 0)
        direction = residual + beta.to(b.dtype) * direction
        columns = zip(running.tolist(), alpha.tolist(), beta.tolist(), (new / first).tolist(), strict=True)
        for column, (runs, length, ratio, left) in enumerate(columns):
            if runs:
                diagonals[column].append(1 / length + before[column])
                beside[column].append(ratio**0.5 / length if left > small else 0.0)
                before[column] = ratio / length
        square = new
        yield (
            x,
            [
                Tridiagonal(_float64(diagonal), _float64(off), norm) if norm else None
                for diagonal, off, norm in zip(diagonals, beside, first.sqrt().tolist(), strict=True)
            ],
        )
        if not (square > small * first).any():
            return


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


def _check_positive_definite(curvature: Tensor, direction: Tensor, running: Tensor, damping: float) -> None:
    if not running.any():
        return
    quotients = (curvature / direction.double().square().sum(dim=0))[running]
    lowest = float(quotients.min())
    if lowest <= 0:
        raise Breakdown(
            f"H + λI is not positive definite: λ = {damping:g}, and H has an eigenvalue of at most "
            f"{lowest - damping:.3g}. Raise damping above {damping - lowest:.3g} at least, or use "
            "minres"
        )


def _float64(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


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
