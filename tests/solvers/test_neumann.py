import pytest
import torch

import solvers
from solvers import Status, solve
from tests.conftest import dense_problem, random_psd_examples


def test_partial_sums_are_those_of_the_series() -> None:
    problem = dense_problem(random_psd_examples(10, 4, seed=0), damping=0.2)
    matrix = torch.eye(4, dtype=torch.float64) - 0.3 * (problem.operator.dense() + 0.2 * torch.eye(4))
    powers = [torch.linalg.matrix_power(matrix, power) for power in range(6)]
    expected = 0.3 * sum(powers) @ problem.columns()  # type: ignore[operator]
    solution = solve(problem, solvers.load("neumann", step_size=0.3, num_steps=6))
    torch.testing.assert_close(solution.x, expected)
    assert solution.status is Status.BUDGET_SPENT


@pytest.mark.parametrize(("factor", "status"), [(0.98, Status.CONVERGED), (1.02, Status.DIVERGED)])
def test_turns_at_two_over_the_largest_eigenvalue(factor: float, status: Status) -> None:
    problem = dense_problem(random_psd_examples(30, 6, seed=1), damping=0.05)
    assert problem.eigenvalues is not None
    edge = 2 / (float(problem.eigenvalues[-1]) + problem.damping)
    solution = solve(problem, solvers.load("neumann", step_size=factor * edge, num_steps=5000))
    assert solution.status is status, solution.reason


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="step_size is -1"):
        solvers.load("neumann", step_size=-1)
