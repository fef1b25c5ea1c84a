"""The exact answer, in float64, where p allows: what every solver is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.scaling import relative_norms

# An eigendecomposition of this size takes about a minute on two cores and 400 MB.
LARGEST_DENSE = 4096


@dataclass(frozen=True, eq=False)
class Certified:
    """Answers X (p, k), float64, to a problem too large for an eigendecomposition.

    `error` bounds the relative error of each column, and `residual` is the largest of their relative
    residuals.
    """

    x: Tensor
    error: float
    residual: float


class GroundTruth:
    """Eigendecomposition of H in float64 and the solutions it gives; shared between dampings.

    `closed_form` gives H, shape (p, p), float64, where a formula knows it: then the reference does not
    even share the operator's code.
    """

    def __init__(self, operator: CurvatureOperator, closed_form: Callable[[], Tensor] | None = None) -> None:
        self.operator = operator
        self._closed_form = closed_form

    @property
    def in_reach(self) -> bool:
        """Whether p is small enough for a dense eigendecomposition."""
        return self.operator.shape[0] <= LARGEST_DENSE

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (p,) ascending and eigenvectors (p, p) of H, float64."""
        if not self.in_reach:
            raise ValueError(
                f"H has p = {self.operator.shape[0]} rows; dense ground truth stops at p = {LARGEST_DENSE}"
            )
        matrix = self._closed_form() if self._closed_form else self.operator.exact.to(torch.float64).dense()
        eigenvalues, eigenvectors = torch.linalg.eigh(matrix)
        return eigenvalues, eigenvectors

    def solve(self, rhs: Tensor, damping: float) -> tuple[Tensor, float]:
        """(H + λI)⁻¹ B, float64, and its largest relative residual under the operator's own product.

        Raises ArithmeticError when that residual is beyond rounding: then the closed form or the operator
        is wrong, or H + λI is singular.
        """
        eigenvalues, eigenvectors = self.eigen
        rhs = rhs.to(torch.float64)
        shifted = (eigenvalues + damping)[:, None]
        solution = eigenvectors @ ((eigenvectors.T @ rhs) / shifted)
        operator = self.operator.exact.to(torch.float64)
        residual = rhs - operator @ solution - damping * solution
        relative = float(relative_norms(residual, rhs).max())
        condition = float(shifted.abs().max() / shifted.abs().min())
        allowed = 1e3 * torch.finfo(torch.float64).eps * max(condition, 1)
        if not relative <= allowed:
            form = "is the closed form that of the data in the problem's dtype? " if self._closed_form else ""
            raise ArithmeticError(
                f"the reference solution leaves a relative residual of {relative:.1e}, more than rounding "
                f"explains ({allowed:.1e} at condition number {condition:.1e}): {form}is H + λI singular?"
            )
        return solution, relative
