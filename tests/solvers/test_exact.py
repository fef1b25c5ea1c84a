import torch

import problems
import solvers
from problems import DenseOperator, Problem
from solvers import Status, solve


def test_works_in_float64_on_float32_problems() -> None:
    problem = problems.load("quadratic", dtype=torch.float32, exponent=3, damping=1e-4)
    solution = solve(problem, solvers.load("exact"))
    assert solution.x is not None
    # float64 inside: what remains is rounding x itself to float32, not κ times that.
    assert problem.condition_number is not None
    assert problem.condition_number > 100
    assert solution.error is not None
    assert solution.error.max() < 1e-7


def test_counts_its_products_as_set_up() -> None:
    solution = solve(problems.load("quadratic", dimension=7, num_examples=9), solvers.load("exact"))
    assert (solution.setup_work, solution.work) == ((1 + 4 * 7) / 3, 0)


def test_an_indefinite_matrix_is_a_breakdown_that_names_the_damping_it_needs() -> None:
    operator = DenseOperator.from_matrix(torch.diag(torch.tensor([1.0, -2.0], dtype=torch.float64)))
    problem = Problem("indefinite", operator, 0.5, torch.ones(2, 1, dtype=torch.float64))
    solution = solve(problem, solvers.load("exact"))
    assert solution.status is Status.BREAKDOWN
    assert "lowest eigenvalue -1.5" in solution.reason
    assert "above 2" in solution.reason


def test_skips_what_does_not_fit() -> None:
    problem = problems.load("quadratic")
    solution = solve(problem, solvers.load("exact", memory_gib=1e-6))
    assert solution.status is Status.SKIPPED
    assert "p = 64" in solution.reason
