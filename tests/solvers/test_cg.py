import pytest
import torch

import problems
import solvers
from problems import DenseOperator, Problem
from solvers import Status, solve
from tests.conftest import dense_problem, random_psd_examples


def diagonal_problem(values: list[float], damping: float, rhs: torch.Tensor | None = None) -> Problem:
    matrix = torch.diag(torch.tensor(values, dtype=torch.float64))
    rhs = torch.ones(len(values), 1, dtype=torch.float64) if rhs is None else rhs
    return Problem("diagonal", DenseOperator.from_matrix(matrix), damping, rhs)


def test_ends_after_as_many_steps_as_there_are_distinct_eigenvalues() -> None:
    solution = solve(diagonal_problem([1, 1, 1, 5, 5, 9], 0.5), solvers.load("cg", tolerance=1e-12))
    assert (solution.status, solution.steps) == (Status.CONVERGED, 3)


def test_stays_within_its_bound() -> None:
    """Energy-norm error ≤ 2((√κ − 1)/(√κ + 1))ᵗ at every recorded step."""
    for exponent in (0.5, 1.0, 2.0):
        problem = problems.load("quadratic", dimension=100, exponent=exponent, damping=1e-3)
        assert problem.condition_number is not None
        root = problem.condition_number**0.5
        for record in solve(problem, solvers.load("cg", tolerance=1e-6)).history:
            assert record.energy_error is not None
            assert record.energy_error <= 2 * ((root - 1) / (root + 1)) ** record.step


def test_takes_the_steps_that_scipy_takes() -> None:
    problem = problems.load("quadratic", num_columns=1, damping=1e-3)
    ours, theirs = (solve(problem, solvers.load(name, tolerance=1e-8)) for name in ("cg", "scipy_cg"))
    assert abs(ours.steps - theirs.steps) <= 1


def test_converged_columns_drop_out_of_the_products() -> None:
    """An eigenvector needs one step: the work is that of two columns for it, then of one."""
    rhs = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    problem = diagonal_problem([1.0, 2.0, 3.0], 0.5, rhs)
    solution = solve(problem, solvers.load("cg", tolerance=1e-12))
    assert solution.steps == 3
    # Products: 2 columns, then its check; 1 column twice, then its check.
    assert solution.work == pytest.approx((9 + 5 + 5 + 5 + 5) / 3)


def test_negative_curvature_is_a_breakdown_that_names_the_damping_it_needs() -> None:
    solution = solve(diagonal_problem([1.0, 0.5, -2.0], 0.1), solvers.load("cg"))
    assert solution.status is Status.BREAKDOWN
    assert "negative curvature" in solution.reason
    assert "scipy_minres" in solution.reason
    enough = float(solution.reason.split("above ")[1].split(" ")[0])
    assert 0.1 < enough <= 2.0
    assert solve(diagonal_problem([1.0, 0.5, -2.0], 2.1), solvers.load("cg")).status is Status.CONVERGED


def test_a_tolerance_below_rounding_is_a_breakdown_not_a_lie_nor_a_loop() -> None:
    per_example = random_psd_examples(50, 30, seed=0).float()
    problem = dense_problem(per_example, damping=1e-4)
    solution = solve(problem, solvers.load("cg", tolerance=1e-12), max_steps=100_000)
    assert solution.status is Status.BREAKDOWN
    assert "use float64" in solution.reason
    assert solution.steps < 10_000


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="tolerance is 0"):
        solvers.load("cg", tolerance=0)
