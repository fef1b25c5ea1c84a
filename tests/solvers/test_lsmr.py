from dataclasses import replace

import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import problems
import solvers
from problems import Problem
from solvers import Status, solve
from tests.conftest import dense_problem, random_psd_examples
from tests.solvers.krylov_oracles import (
    damped_matrix,
    gaussian,
    iterates,
    krylov_basis,
    spectral_problem,
    true_residuals,
)


def root(problem: Problem) -> torch.Tensor:
    """R of H = RᵀR, shape (n·r, p), by its products with the unit vectors."""
    return problem.operator.root_product(torch.eye(problem.size, dtype=problem.operator.dtype))


def rooted_problem(size: int = 40, columns: int = 3, damping: float = 1e-2) -> Problem:
    return dense_problem(random_psd_examples(60, size, seed=0), damping, columns)


def test_its_iterates_are_scipys_from_the_right_hand_side_over_the_damping() -> None:
    problem = rooted_problem()
    ours = iterates(problem, solvers.load("lsmr", tolerance=1e-12), 11)
    start = problem.columns() / problem.damping
    torch.testing.assert_close(ours[0], start)
    matrix = root(problem)
    torch.testing.assert_close(matrix.T @ matrix, problem.operator.dense(), rtol=1e-10, atol=1e-12)
    for column in range(3):
        target = -(matrix @ start[:, column])
        for step in range(1, 11):
            theirs = scipy.sparse.linalg.lsmr(
                matrix.numpy(),
                target.numpy(),
                damp=problem.damping**0.5,
                atol=0.0,
                btol=0.0,
                conlim=0.0,
                maxiter=step,
            )[0]
            expected = start[:, column] + torch.from_numpy(theirs)
            torch.testing.assert_close(ours[step][:, column], expected, rtol=1e-9, atol=1e-9)


def test_its_residual_is_the_least_within_the_krylov_space_of_h_and_hb() -> None:
    """x_t in b/λ + span(Hb, …, Hᵗb): the oracle is a dense least-squares solve."""
    problem = rooted_problem(columns=1)
    matrix, b = damped_matrix(problem), problem.columns()
    start = b / problem.damping
    hessian = problem.operator.dense()
    found = iterates(problem, solvers.load("lsmr", tolerance=1e-12), 13)
    for step in range(1, 13):
        basis = krylov_basis(hessian, hessian @ b, step)
        left = b - matrix @ start
        least = left - matrix @ basis @ torch.linalg.lstsq(matrix @ basis, left).solution
        assert (b - matrix @ found[step]).norm() == pytest.approx(float(least.norm()), rel=1e-8)


def test_the_residual_it_reports_is_the_true_one() -> None:
    problem = rooted_problem()
    solver = solvers.load("lsmr", tolerance=1e-9)
    for iterate in solver.iterates(problem, None, problem.columns().clone(), torch.Generator()):
        assert iterate.residual is not None
        expected = true_residuals(problem, iterate.x)
        torch.testing.assert_close(iterate.residual, expected, rtol=1e-5, atol=1e-12)


def test_stays_within_its_bound() -> None:
    """‖r‖ ≤ 2((√κ − 1)/(√κ + 1))ᵗ ‖Hb‖/λ after t steps from b/λ, the first iterate."""
    for exponent in (0.5, 1.0, 2.0):
        problem = problems.load("quadratic", dimension=100, exponent=exponent, damping=1e-3, num_columns=1)
        b = problem.columns()
        start = float((problem.operator.dense() @ b).norm() / b.norm()) / problem.damping
        assert problem.condition_number is not None
        kappa = problem.condition_number**0.5
        for record in solve(problem, solvers.load("lsmr", tolerance=1e-6)).history:
            assert record.residual is not None
            assert record.residual <= 2 * start * ((kappa - 1) / (kappa + 1)) ** (record.step - 1) * (
                1 + 1e-9
            )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
def test_keeps_its_promise(dtype: torch.dtype, tolerance: float) -> None:
    problem = dense_problem(random_psd_examples(60, 40, seed=0).to(dtype), 1e-2, 3)
    problem = replace(problem, rhs=torch.cat([problem.columns(), torch.zeros(40, 1, dtype=dtype)], dim=1))
    solution = solve(problem, solvers.load("lsmr", tolerance=tolerance))
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    assert solution.x.dtype == dtype
    assert (solution.x[:, -1] == 0).all()
    assert (true_residuals(problem, solution.x)[:-1] <= tolerance * 1.01).all()


def test_keeps_its_promise_at_a_condition_of_1e8() -> None:
    values = torch.arange(1, 101, dtype=torch.float64) ** -3.0
    problem = spectral_problem(values, 1e-8, gaussian(100, 2))
    solution = solve(problem, solvers.load("lsmr", tolerance=1e-6))
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    assert (true_residuals(problem, solution.x) <= 1e-6 * (1 + 1e-6)).all()


def test_where_h_is_flat_the_start_is_the_answer() -> None:
    problem = dense_problem(random_psd_examples(5, 20, seed=0), damping=0.1)  # of rank 5
    flat = torch.linalg.eigh(problem.operator.dense())[1][:, :2]
    solution = solve(replace(problem, rhs=flat), solvers.load("lsmr", tolerance=1e-10))
    assert (solution.status, solution.steps) == (Status.CONVERGED, 1)
    torch.testing.assert_close(solution.x, flat / 0.1, rtol=1e-9, atol=1e-12)


def test_where_h_is_zero_nothing_divides_by_zero() -> None:
    problem = dense_problem(torch.zeros(3, 4, 4, dtype=torch.float64), damping=0.5)
    solution = solve(problem, solvers.load("lsmr", tolerance=1e-10))
    assert (solution.status, solution.steps) == (Status.CONVERGED, 1)
    torch.testing.assert_close(solution.x, problem.columns() / 0.5)


def test_an_eigenvector_takes_one_step_and_the_work_is_as_documented() -> None:
    """Start: a product with R and one with Rᵀ; a step the same; the check a product with H."""
    problem = rooted_problem(columns=2)
    values, vectors = torch.linalg.eigh(problem.operator.dense())
    rhs = vectors[:, [7, 20]]
    solution = solve(replace(problem, rhs=rhs), solvers.load("lsmr", tolerance=1e-9))
    assert (solution.status, solution.steps) == (Status.CONVERGED, 2)
    torch.testing.assert_close(solution.x, rhs / (values[[7, 20]] + problem.damping), rtol=1e-8, atol=1e-10)
    assert solution.work == pytest.approx((2 * (1 + 5 * 2) + 1 + 4 * 2) / 3)


def test_a_tolerance_below_rounding_is_a_breakdown_not_a_lie_nor_a_loop() -> None:
    problem = dense_problem(random_psd_examples(50, 30, seed=0).float(), damping=1e-4)
    solution = solve(problem, solvers.load("lsmr", tolerance=1e-12), max_steps=20_000)
    assert solution.status is Status.BREAKDOWN
    assert "use float64" in solution.reason


def test_says_why_it_cannot_run() -> None:
    indefinite = spectral_problem(torch.tensor([1.0, -0.5], dtype=torch.float64), 1.0, gaussian(2, 1))
    assert "no root" in str(solvers.load("lsmr").skip(indefinite))
    problem = rooted_problem()
    # Three vectors of 60 rows for 3 columns.
    needed = 3 * 60 * 3 * 8 / 2**30
    assert solvers.load("lsmr", memory_gib=1.01 * needed).skip(problem) is None
    assert "memory_gib" in str(solvers.load("lsmr", memory_gib=0.99 * needed).skip(problem))


def test_wrong_settings_are_refused() -> None:
    for name in ("tolerance", "memory_gib", "check_every"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            solvers.load("lsmr", **{name: 0})


@given(
    size=st.integers(1, 10), examples=st.integers(1, 15), columns=st.integers(1, 12), seed=st.integers(0, 99)
)
@settings(max_examples=20, deadline=None)
def test_solves_every_system_with_a_root(size: int, examples: int, columns: int, seed: int) -> None:
    problem = dense_problem(random_psd_examples(examples, size, seed=seed), damping=1e-2, columns=columns)
    solution = solve(problem, solvers.load("lsmr", tolerance=1e-9), compare=False)
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    expected = torch.linalg.solve(damped_matrix(problem), problem.columns())
    torch.testing.assert_close(solution.x, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
