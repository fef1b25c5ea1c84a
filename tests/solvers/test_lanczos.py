"""Low rank by Lanczos, against dense and ARPACK's eigenvectors."""

from __future__ import annotations

import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import problems
import solvers
from problems import DenseOperator, Problem
from solvers import Status, solve, theory
from solvers.lanczos import Lanczos, krylov_space
from solvers.low_rank import LowRankInverse
from tests.conftest import dense_problem, random_psd_examples


def with_spectrum(values: Tensor, damping: float, dtype: torch.dtype = torch.float64) -> Problem:
    """H of these eigenvalues in a random basis, with isotropic right-hand sides."""
    generator = torch.Generator().manual_seed(0)
    size = len(values)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    matrix = (basis * values.double()) @ basis.T
    operator = DenseOperator.from_matrix(((matrix + matrix.T) / 2).to(dtype))
    rhs = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    return Problem("spectrum", operator, damping, rhs.to(dtype))


def prepared(problem: Problem, seed: int = 0, **chosen: int) -> LowRankInverse:
    return Lanczos(**chosen).prepare(problem, torch.Generator().manual_seed(seed))


def approximation(inverse: LowRankInverse) -> Tensor:
    basis = inverse.basis.double()
    return (basis * inverse.values) @ basis.T


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 25), st.integers(1, 30), st.integers(0, 100))
def test_the_space_is_orthonormal_and_h_is_tridiagonal_on_it(size: int, steps: int, seed: int) -> None:
    problem = dense_problem(random_psd_examples(2 * size, size, seed=seed), 0.1)
    basis, reduced = krylov_space(problem, min(steps, size), torch.Generator().manual_seed(seed))
    count = basis.shape[1]
    torch.testing.assert_close(basis.T @ basis, torch.eye(count).double(), atol=1e-13, rtol=0)
    on_space = basis.T @ problem.operator.dense() @ basis
    inner = reduced.off_diagonal[:-1]
    expected = torch.diag(reduced.diagonal) + torch.diag(inner, 1) + torch.diag(inner, -1)
    torch.testing.assert_close(on_space, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("extra", [0, 40])
def test_with_as_many_steps_as_dimensions_it_is_exact(dtype: torch.dtype, extra: int) -> None:
    values = torch.linspace(0, 1, 30).double()
    problem = with_spectrum(values, 0.01, dtype)
    solution = solve(problem, Lanczos(num_steps=30 + extra))
    matrix = problem.operator.to(torch.float64).dense() + 0.01 * torch.eye(30).double()
    expected = torch.linalg.solve(matrix, problem.columns().double())
    assert solution.x is not None
    error = (solution.x.double() - expected).norm() / expected.norm()
    assert float(error) <= 100 * torch.finfo(dtype).eps * 101


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_goes_on_where_the_space_is_invariant(dtype: torch.dtype) -> None:
    # Three different eigenvalues: each start sees one vector of each.
    values = torch.tensor([3.0] * 6 + [1.0] * 5 + [0.0] * 9)
    problem = with_spectrum(values, 0.1, dtype)
    solution = solve(problem, Lanczos(num_steps=20))
    assert solution.error is not None
    assert solution.error.max() <= 1e3 * torch.finfo(dtype).eps
    # It has seen all of H, and of its null space only what its starts had in them, and a bit of rounding.
    assert 11 <= solution.diagnostics["steps"] <= 18


def test_h_of_zero_is_divided_by_damping() -> None:
    problem = Problem("zero", DenseOperator(torch.zeros(3, 6, 6)), 0.5, torch.ones(6, 2))
    solution = solve(problem, Lanczos())
    assert solution.x is not None
    assert (solution.x == 2).all()
    assert solution.diagnostics["steps"] == 1


def test_converged_pairs_are_arpacks_and_theorys_bound_holds() -> None:
    values = 0.7 ** torch.arange(80, dtype=torch.float64)
    damping, rank = 1e-2, 10
    problem = with_spectrum(values, damping)
    inverse = prepared(problem, num_steps=40, rank=rank)
    matrix = problem.operator.dense()
    found, vectors = scipy.sparse.linalg.eigsh(matrix.numpy(), k=rank, v0=torch.ones(80).numpy())
    expected = torch.from_numpy((vectors * found) @ vectors.T)
    torch.testing.assert_close(approximation(inverse), expected, atol=1e-8, rtol=0)
    assert inverse.diagnostics["coupling"] <= 1e-3
    assert inverse.diagnostics["largest left out"] == pytest.approx(0.7**rank, rel=1e-6)
    assert problem.reference is not None
    error = (inverse.solve(problem.columns()) - problem.reference).norm(dim=0)
    scale = problem.columns().norm(dim=0) / damping
    bound = theory.low_rank_error(0.7**rank, damping)
    assert (error / scale <= bound + 1e-6).all()
    # Without the complement, as in the paper, the answer is off by more than half of itself.
    within = inverse.basis @ ((inverse.basis.T @ problem.columns()) / (inverse.values + damping)[:, None])
    assert ((within - problem.reference).norm(dim=0) / problem.reference.norm(dim=0)).min() > 0.5


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 25), st.integers(1, 25), st.integers(1, 25), st.floats(-0.3, 0), st.integers(0, 50))
def test_the_bound_for_any_pairs_holds(size: int, steps: int, rank: int, lowest: float, seed: int) -> None:
    values = torch.linspace(1, lowest, size).double()
    damping = 0.05 - lowest
    problem = with_spectrum(values, damping)
    inverse = prepared(problem, seed, num_steps=steps, rank=rank)
    left = torch.linalg.matrix_norm(problem.operator.dense() - approximation(inverse), 2)
    assert left <= 1 - lowest + 1e-9  # the spectrum's range
    assert problem.reference is not None
    error = (inverse.solve(problem.columns()) - problem.reference).norm(dim=0)
    least = damping + min(0.0, float(inverse.values.min()))
    assert (error <= left / least * problem.reference.norm(dim=0) + 1e-9).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 40), st.floats(0.3, 3), st.floats(-5, 1), st.integers(0, 50))
def test_what_is_kept_by_default_preconditions_as_bound(
    size: int, steps: int, exponent: float, log_damping: float, seed: int
) -> None:
    values = torch.arange(1, size + 1, dtype=torch.float64) ** -exponent
    damping = 10**log_damping
    problem = with_spectrum(values, damping)
    inverse = prepared(problem, seed, num_steps=steps)
    coupling, basis = inverse.diagnostics["coupling"], inverse.basis
    assert coupling <= 0.5
    matrix, identity = problem.operator.dense(), torch.eye(size).double()
    shifted = approximation(inverse) + damping * identity
    found = scipy.linalg.eigh((matrix + damping * identity).numpy(), shifted.numpy(), eigvals_only=True)
    beside = identity - basis @ basis.T
    left = float(torch.linalg.matrix_norm(beside @ matrix @ beside, 2))
    assert found[0] >= 1 - coupling - 1e-8
    assert found[-1] <= (1 + coupling + left / damping) * (1 + 1e-8)


def test_fewer_unconverged_pairs_precondition_better() -> None:
    problem = problems.load("image_classifier", training_size=200, width=4, damping=1e-3)
    matrix = problem.operator.dense() + 1e-3 * torch.eye(problem.size).double()
    found = {}
    for rank in (None, 50):
        inverse = Lanczos(num_steps=50, rank=rank).prepare(problem, torch.Generator().manual_seed(0))
        shifted = approximation(inverse) + 1e-3 * torch.eye(problem.size).double()
        values = scipy.linalg.eigh(matrix.numpy(), shifted.numpy(), eigvals_only=True)
        found[rank] = values[-1] / values[0]
    assert found[None] < 0.7 * found[50]


def test_an_indefinite_h_is_solved_while_the_damping_lifts_it() -> None:
    problem = with_spectrum(torch.linspace(-1, 1, 20), 1.5)
    solution = solve(problem, Lanczos(num_steps=20))
    assert solution.error is not None
    assert solution.error.max() <= 1e-12
    broken = solve(problem.with_damping(0.5), Lanczos(num_steps=20))
    assert broken.status is Status.BREAKDOWN
    assert "raise damping above 1" in broken.reason


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rounding_makes_no_psd_matrix_indefinite(dtype: torch.dtype) -> None:
    values = torch.zeros(40)
    values[:5] = 1e3
    problem = with_spectrum(values, 1e-9, dtype)
    assert problem.operator.is_psd
    inverse = prepared(problem, num_steps=40)
    assert float(inverse.values.min()) >= 0


def test_work_is_products_and_algebra_by_count() -> None:
    problem = problems.load("quadratic", dimension=50, num_examples=60)
    work = problem.operator.work
    before = work.passes
    prepared(problem, num_steps=10, rank=4)
    algebra = 4 * 50 * sum(range(1, 11)) + 50 * 10 * 4 + 10 * 10**3
    # A forward pass of one of its examples takes 50 multiplications.
    assert work.passes - before == pytest.approx(10 * 5 * 60 + algebra / 50, abs=12)


def test_what_does_not_fit_is_skipped() -> None:
    reason = Lanczos(memory_gib=1e-6).skip(problems.load("quadratic"))
    assert reason is not None
    assert "num_steps" in reason


@pytest.mark.parametrize("chosen", [{"num_steps": 0}, {"rank": 0}, {"memory_gib": 0}])
def test_bad_settings_are_named(chosen: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(chosen))):
        solvers.load("lanczos", **chosen)
