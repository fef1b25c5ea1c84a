"""P = U diag(σ) Uᵀ + λI, against the dense matrix."""

from __future__ import annotations

import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solvers.low_rank import LowRankInverse, bound_for, orthonormal_rest
from tests.conftest import dense_problem, random_psd_examples


def orthonormal(size: int, rank: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, rank, generator=generator, dtype=torch.float64))[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 100), st.floats(-6, 1))
def test_solves_are_those_of_the_dense_matrix(size: int, rank: int, seed: int, exponent: float) -> None:
    damping, rank = 10**exponent, min(rank, size)
    basis = orthonormal(size, rank, seed)
    generator = torch.Generator().manual_seed(seed)
    # Some below 0, but above −λ.
    values = torch.rand(rank, generator=generator, dtype=torch.float64) - 0.5 * damping
    vectors = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    inverse = LowRankInverse(basis, values, damping)
    matrix = (basis * values) @ basis.T + damping * torch.eye(size, dtype=torch.float64)
    condition = (1 + damping) / damping
    expected = torch.linalg.solve(matrix, vectors)
    error = (inverse.solve(vectors) - expected).norm() / expected.norm()
    assert error <= 1e-14 * condition * size
    root = torch.from_numpy(scipy.linalg.sqrtm(matrix.numpy()).real)
    expected = torch.linalg.solve(root, vectors)
    assert (inverse.half_solve(vectors) - expected).norm() / expected.norm() <= 1e-14 * condition * size
    assert inverse.multiplications == 2 * size * rank


def test_works_in_the_dtype_of_its_vectors() -> None:
    inverse = LowRankInverse(orthonormal(9, 3, 0).float(), torch.tensor([3.0, 2, 1]).double(), 0.1)
    assert inverse.solve(torch.ones(9, 2)).dtype == torch.float32
    assert inverse.half_solve(torch.ones(9, 2)).dtype == torch.float32


def test_what_is_beside_a_basis_is_orthonormal_and_spans_the_same() -> None:
    basis = orthonormal(20, 5, 0)
    vectors = basis @ torch.ones(5, 3).double() + 1e-6 * orthonormal(20, 3, 1)
    rest = orthonormal_rest(basis, vectors)
    both = torch.cat([basis, rest], dim=1)
    torch.testing.assert_close(both.T @ both, torch.eye(8).double(), atol=1e-14, rtol=0)
    outside = vectors - both @ (both.T @ vectors)
    assert float(outside.norm()) <= 1e-14


def test_the_bound_for_columns_is_that_of_theory() -> None:
    problem = dense_problem(random_psd_examples(20, 6, seed=0), 0.1, columns=3)
    assert problem.reference is not None
    remainder = 0.3
    lengths = problem.columns().norm(dim=0) / 0.1 / problem.reference.norm(dim=0)
    assert abs(bound_for(problem, remainder) - 0.75 * float(lengths.max())) <= 1e-12
