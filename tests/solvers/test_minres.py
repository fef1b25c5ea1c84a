from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import solvers
from problems import Problem
from solvers import Status, solve
from solvers.minres import MINRES
from tests.conftest import dense_problem, random_psd_examples
from tests.solvers.krylov_oracles import (
    damped_matrix,
    gaussian,
    inverse_root,
    iterates,
    krylov_basis,
    least_residual,
    positive_definite,
    spectral_problem,
    true_residuals,
)


def indefinite_problem(size: int = 40, columns: int = 3, dtype: torch.dtype = torch.float64) -> Problem:
    """Eigenvalues of H + λI in [−1, −0.1] and [0.1, 1]."""
    values = torch.cat([torch.linspace(-1.0, -0.1, size // 2), torch.linspace(0.1, 1.0, size - size // 2)])
    return spectral_problem(values.double() - 0.05, 0.05, gaussian(size, columns, dtype=dtype))


def scipys_iterates(matrix: torch.Tensor, b: torch.Tensor, count: int) -> torch.Tensor:
    """SciPy's first answers for one column, shape (count, p)."""
    found: list[np.ndarray] = []
    scipy.sparse.linalg.minres(
        matrix.numpy(),
        b.numpy(),
        rtol=1e-300,
        maxiter=count,
        callback=lambda x: found.append(x.copy()),
    )
    return torch.from_numpy(np.array(found))


def test_its_iterates_are_scipys() -> None:
    for problem in (indefinite_problem(), dense_problem(random_psd_examples(60, 40, seed=0), 1e-2, 3)):
        ours = torch.stack(iterates(problem, solvers.load("minres", tolerance=1e-12), 12))
        for column in range(3):
            theirs = scipys_iterates(damped_matrix(problem), problem.columns()[:, column], 12)
            torch.testing.assert_close(ours[:, :, column], theirs, rtol=1e-9, atol=1e-9)


def test_its_residual_is_the_least_in_each_krylov_space() -> None:
    problem = indefinite_problem(columns=1)
    matrix, b = damped_matrix(problem), problem.columns()
    for step, x in enumerate(iterates(problem, solvers.load("minres", tolerance=1e-12), 15), start=1):
        least = least_residual(matrix, b, krylov_basis(matrix, b, step))
        assert (b - matrix @ x).norm() == pytest.approx(float((b - matrix @ least).norm()), rel=1e-9)


def test_preconditioned_it_is_minres_on_the_transformed_system() -> None:
    """x_t = P^-½y_t, y_t the iterates of MINRES on P^-½(H + λI)P^-½ y = P^-½b."""
    problem = indefinite_problem(columns=2)
    near = positive_definite(40, 20.0, seed=1)
    root = inverse_root(near)
    solver = MINRES(1e-12, lambda vectors: torch.linalg.solve(near, vectors))
    ours = torch.stack(iterates(problem, solver, 10))
    for column in range(2):
        transformed = root @ damped_matrix(problem) @ root
        theirs = scipys_iterates(transformed, root @ problem.columns()[:, column], 10) @ root
        torch.testing.assert_close(ours[:, :, column], theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_residual_it_reports_is_the_true_one(preconditioned: bool) -> None:
    problem = indefinite_problem()
    near = positive_definite(40, 20.0, seed=1)
    setting = (lambda vectors: torch.linalg.solve(near, vectors)) if preconditioned else "none"
    generator = torch.Generator()
    solver = MINRES(1e-9, setting)
    state = solver.prepare(problem, generator)
    for iterate in solver.iterates(problem, state, problem.columns().clone(), generator):
        assert iterate.residual is not None
        expected = true_residuals(problem, iterate.x)
        torch.testing.assert_close(iterate.residual, expected, rtol=1e-5, atol=1e-12)


def test_stays_within_its_bound_where_indefinite() -> None:
    """‖r‖ ≤ 2((κ − 1)/(κ + 1))^⌊t/2⌋ ‖b‖."""
    problem = indefinite_problem()
    kappa = problem.condition_number
    assert kappa == pytest.approx(10.0)
    history = solve(problem, solvers.load("minres", tolerance=1e-8)).history
    assert len(history) > 10
    for record in history:
        assert record.residual is not None
        assert record.residual <= 2 * ((kappa - 1) / (kappa + 1)) ** (record.step // 2)


def test_stays_within_its_bound_where_definite() -> None:
    """‖r‖ ≤ 2((√κ − 1)/(√κ + 1))ᵗ ‖b‖."""
    values = torch.linspace(0.0, 1.0, 50, dtype=torch.float64)
    problem = spectral_problem(values, 1e-2, gaussian(50, 3))
    root = 101.0**0.5
    for record in solve(problem, solvers.load("minres", tolerance=1e-8)).history:
        assert record.residual is not None
        assert record.residual <= 2 * ((root - 1) / (root + 1)) ** record.step


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_solves_indefinite_systems(dtype: torch.dtype, tolerance: float) -> None:
    problem = indefinite_problem(dtype=dtype)
    problem = replace(problem, rhs=torch.cat([problem.columns(), torch.zeros(40, 1, dtype=dtype)], dim=1))
    solution = solve(problem, solvers.load("minres", tolerance=tolerance), compare=False)
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    assert solution.x.dtype == dtype
    assert (solution.x[:, -1] == 0).all()
    expected = torch.linalg.solve(damped_matrix(problem), problem.columns().double())
    torch.testing.assert_close(
        solution.x.double(), expected, rtol=0, atol=20 * tolerance * float(expected.norm())
    )


def test_an_eigenvector_takes_one_step_and_leaves_the_products() -> None:
    problem = indefinite_problem(columns=2)
    values, vectors = torch.linalg.eigh(damped_matrix(problem))
    alone = solve(replace(problem, rhs=vectors[:, [3]]), solvers.load("minres", tolerance=1e-10))
    assert alone.steps == 1
    torch.testing.assert_close(alone.x, vectors[:, [3]] / values[3], rtol=1e-9, atol=1e-12)
    # Products: 2 columns once, 1 in each later step, and a check of 1 for each column.
    both = torch.cat([vectors[:, [3]], problem.columns()[:, [1]]], dim=1)
    solution = solve(replace(problem, rhs=both), solvers.load("minres", tolerance=1e-10, check_every=1000))
    assert solution.work == pytest.approx((9 + 5 * (solution.steps - 1) + 5 + 5) / 3)


def test_a_singular_system_is_a_breakdown_unless_it_has_a_solution() -> None:
    values = torch.linspace(-1.0, 1.0, 81, dtype=torch.float64)  # the 41st is 0
    problem = spectral_problem(values - 0.1, 0.1, gaussian(81, 1))
    found = solve(problem, solvers.load("minres", tolerance=1e-6), compare=False, max_steps=2000)
    assert found.status is Status.BREAKDOWN, found.reason
    assert found.steps < 1000
    image = damped_matrix(problem) @ gaussian(81, 1, seed=1)
    found = solve(replace(problem, rhs=image), solvers.load("minres"), compare=False, max_steps=2000)
    assert found.status is Status.CONVERGED, found.reason


def test_a_direction_that_is_lost_altogether_is_named() -> None:
    values = torch.tensor([1.0, 0.5, -0.1], dtype=torch.float64)
    problem = spectral_problem(values, 0.1, gaussian(3, 1))
    found = solve(problem, solvers.load("minres"), compare=False, max_steps=100)
    assert found.status is Status.BREAKDOWN
    assert "H + λI is singular to rounding" in found.reason


def test_keeps_its_promise_at_a_condition_of_1e8() -> None:
    values = torch.arange(1, 101, dtype=torch.float64) ** -3.0
    problem = spectral_problem(values, 1e-8, gaussian(100, 2))
    solution = solve(problem, solvers.load("minres", tolerance=1e-6))
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    assert (true_residuals(problem, solution.x) <= 1e-6 * (1 + 1e-6)).all()


def test_a_tolerance_below_rounding_is_a_breakdown_not_a_lie_nor_a_loop() -> None:
    problem = dense_problem(random_psd_examples(50, 30, seed=0).float(), damping=1e-4)
    solution = solve(problem, solvers.load("minres", tolerance=1e-12), max_steps=20_000)
    assert solution.status is Status.BREAKDOWN
    assert "use float64" in solution.reason


def test_a_preconditioner_that_is_not_positive_definite_is_a_breakdown() -> None:
    solution = solve(indefinite_problem(), MINRES(preconditioner=lambda vectors: -vectors))
    assert solution.status is Status.BREAKDOWN
    assert "the preconditioner is not positive definite" in solution.reason


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="tolerance is -1"):
        solvers.load("minres", tolerance=-1)
    with pytest.raises(ValueError, match="check_every is 0"):
        solvers.load("minres", check_every=0)
    with pytest.raises(ValueError, match="preconditioner"):
        solvers.load("minres", preconditioner="cg")


@given(
    values=st.lists(
        st.floats(-2.0, 2.0).filter(lambda value: abs(value + 0.5) > 0.05), min_size=1, max_size=10
    ),
    columns=st.integers(1, 12),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_solves_every_regular_symmetric_system(values: list[float], columns: int, seed: int) -> None:
    spectrum = torch.tensor(values, dtype=torch.float64)
    problem = spectral_problem(spectrum, 0.5, gaussian(len(values), columns, seed), seed)
    solution = solve(problem, solvers.load("minres", tolerance=1e-9), compare=False)
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    expected = torch.linalg.solve(damped_matrix(problem), problem.columns())
    torch.testing.assert_close(solution.x, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
