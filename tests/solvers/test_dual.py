"""The dual solve in rounding, against refinement in extended precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from problems import DenseOperator
from solvers import Breakdown
from solvers.dual import DualInverse, add_gram, dual_inverse, symmetric

EPS = torch.finfo(torch.float64).eps


def ill_conditioned_root(rows: int, size: int) -> Tensor:
    """R with singular values from 1 to 1e-6."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(size, rows, generator=generator, dtype=torch.float64))[0]
    return left * torch.logspace(0, -6, rows, dtype=torch.float64) @ right.T


def solved_in_extended_precision(root: Tensor, damping: float, b: Tensor) -> np.ndarray:
    """(RᵀR + λ)⁻¹b by refinement whose residuals are in 80 bits."""
    precise, right = root.numpy().astype(np.longdouble), b.numpy().astype(np.longdouble)
    _, values, vectors = torch.linalg.svd(root, full_matrices=False)
    x = np.zeros_like(right)
    for _ in range(15):
        left = right - precise.T @ (precise @ x) - np.longdouble(damping) * x
        rounded = torch.from_numpy(left.astype(np.float64))
        along = vectors @ rounded
        beside = (rounded - vectors.T @ along) / damping
        x = x + (beside + vectors.T @ (along / (values.square() + damping)[:, None])).numpy()
    return x


@pytest.mark.skipif(np.finfo(np.longdouble).eps >= 1e-18, reason="no extended precision here")
@pytest.mark.parametrize("damping", [1e-2, 1e-5, 1e-8, 1e-10])
@pytest.mark.parametrize("where", ["top", "gradient", "everywhere"])
def test_the_error_is_rounding_times_the_condition_number(damping: float, where: str) -> None:
    root = ill_conditioned_root(40, 150)
    generator = torch.Generator().manual_seed(1)
    if where == "everywhere":
        b = torch.randn(150, 3, generator=generator, dtype=torch.float64)
    else:
        weights = torch.randn(40, 3, generator=generator, dtype=torch.float64)
        b = root.T @ weights if where == "gradient" else root.T @ (root @ (root.T @ weights))
    gram = root @ root.T
    gram.diagonal().add_(damping)
    factor = torch.linalg.cholesky(gram)
    inverse = DualInverse(lambda v: root @ v, lambda w: root.T @ w, factor, damping)
    x = inverse.solve(b).numpy()
    expected = solved_in_extended_precision(root, damping, b)
    error = np.linalg.norm(x - expected, axis=0) / np.linalg.norm(expected, axis=0)
    assert float(error.max()) <= 20 * EPS * (1 + 1 / damping)


def test_a_damping_below_rounding_is_a_breakdown() -> None:
    rows = torch.ones(6, 1, 4, dtype=torch.float64)
    operator = DenseOperator(rows.mT @ rows)
    with pytest.raises(Breakdown, match="raise it"):
        dual_inverse(operator, 1e-30, together=6)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_half_of_a_gram_matrix_is_all_of_it(count: int) -> None:
    rows = torch.randn(count, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = torch.ones(count, count, dtype=torch.float64).tril()
    add_gram(total, rows)
    torch.testing.assert_close(symmetric(total), 1 + rows @ rows.T)
