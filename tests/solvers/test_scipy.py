import pytest
import torch

import solvers
from problems import DenseOperator, Problem
from solvers import Status, solve
from tests.conftest import dense_problem, random_psd_examples


def test_minres_solves_indefinite_systems() -> None:
    matrix = torch.diag(torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64))
    rhs = torch.ones(3, 2, dtype=torch.float64)
    problem = Problem("indefinite", DenseOperator.from_matrix(matrix), 0.1, rhs)
    solution = solve(problem, solvers.load("scipy_minres", tolerance=1e-10))
    assert solution.status is Status.CONVERGED
    expected = rhs / torch.tensor([1.1, 0.6, -1.9], dtype=torch.float64)[:, None]
    torch.testing.assert_close(solution.x, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", ["scipy_cg", "scipy_minres"])
def test_history_is_step_by_step_and_a_budget_ends_it(name: str) -> None:
    problem = dense_problem(random_psd_examples(60, 40, seed=0), damping=1e-3, columns=3)
    whole = solve(problem, solvers.load(name, tolerance=1e-9))
    assert whole.steps > 60
    part = solve(problem, solvers.load(name, tolerance=1e-9), max_steps=7)
    assert (part.status, part.steps) == (Status.BUDGET_SPENT, 7)
    assert [record.error for record in part.history] == [record.error for record in whole.history[:7]]


@pytest.mark.parametrize("name", ["scipy_cg", "scipy_minres", "scipy_lsmr"])
def test_a_tolerance_below_rounding_is_a_breakdown(name: str) -> None:
    problem = dense_problem(random_psd_examples(50, 30, seed=0).float(), damping=1e-4)
    solution = solve(problem, solvers.load(name, tolerance=1e-12))
    assert solution.status is Status.BREAKDOWN
    assert "use float64" in solution.reason


@pytest.mark.parametrize("tolerance", [1e-2, 1e-6, 1e-11])
def test_lsmr_keeps_its_promise(tolerance: float) -> None:
    problem = dense_problem(random_psd_examples(60, 40, seed=0), damping=1e-3, columns=3)
    solution = solve(problem, solvers.load("scipy_lsmr", tolerance=tolerance))
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    matrix = problem.operator.dense() + 1e-3 * torch.eye(40, dtype=torch.float64)
    residual = (problem.columns() - matrix @ solution.x).norm(dim=0) / problem.columns().norm(dim=0)
    assert (residual <= tolerance * (1 + 1e-6)).all()


def test_lsmr_is_stopped_by_a_budget_within_a_column() -> None:
    problem = dense_problem(random_psd_examples(60, 40, seed=0), damping=1e-3, columns=3)
    part = solve(problem, solvers.load("scipy_lsmr", tolerance=1e-9), max_steps=7)
    assert (part.status, part.steps) == (Status.BUDGET_SPENT, 7)
    # A column is b/λ until it ends.
    assert part.x is not None
    torch.testing.assert_close(part.x[:, 0], problem.columns()[:, 0] / 1e-3)
    assert (part.x[:, 1:] == 0).all()


def test_lsmr_needs_a_root() -> None:
    matrix = torch.diag(torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64))
    problem = Problem("indefinite", DenseOperator.from_matrix(matrix), 3.0, torch.ones(3, 1).double())
    assert "no root" in str(solvers.load("scipy_lsmr").skip(problem))
