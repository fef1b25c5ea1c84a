"""SVRG against its bound, with the constants computed from the matrices, and against its own promises."""

from __future__ import annotations

import pytest
import scipy.linalg
import torch

import solvers
from problems import Problem
from solvers import Status, solve
from solvers.svrg import SVRG
from tests.conftest import dense_problem, random_psd_examples
from tests.solvers.krylov_oracles import damped_matrix, true_residuals


def problem_of(heavy_tailed: bool = False, damping: float = 0.1, columns: int = 2) -> Problem:
    return dense_problem(random_psd_examples(60, 8, seed=1, heavy_tailed=heavy_tailed), damping, columns)


def constants(problem: Problem, batch_size: int) -> tuple[float, float]:
    """The least L with E (H̃ + λ)² ⪯ L (H + λ) and R with E h² ⪯ R (H + λ), by SciPy."""
    per_example = problem.operator.per_example  # type: ignore[attr-defined]
    matrix = damped_matrix(problem)
    squares = (per_example @ per_example).mean(dim=0)
    mean = per_example.mean(dim=0)
    identity = torch.eye(problem.size, dtype=torch.float64)
    second = (1 - 1 / batch_size) * mean @ mean + squares / batch_size
    second = second + 2 * problem.damping * mean + problem.damping**2 * identity
    tops = [float(scipy.linalg.eigh(each.numpy(), matrix.numpy())[0][-1]) for each in (second, squares)]
    return tops[0], tops[1]


def energies(problem: Problem, x: torch.Tensor) -> torch.Tensor:
    matrix = damped_matrix(problem)
    error = x - torch.linalg.solve(matrix, problem.columns())
    return (error * (matrix @ error)).sum(dim=0)


@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_an_epoch_contracts_as_theory_says(heavy_tailed: bool) -> None:
    """The mean over 25 seeds of ‖e‖² after one epoch over that before: within the bound of the docstring."""
    problem, batch_size = problem_of(heavy_tailed), 4
    second, noise = constants(problem, batch_size)
    step = 1 / (4 * second)
    length = 2 * round(4 / (step * problem.damping))
    bound = (1 / (step * problem.damping * length) + 2 * step * noise / batch_size) / (1 - step * second)
    assert bound < 1
    solver = SVRG(step_size=step, batch_size=batch_size, inner_steps=length)
    before = energies(problem, problem.columns() / problem.damping)
    after = []
    for seed in range(25):
        solution = solve(problem, solver, seed=seed, max_steps=length + 2)
        assert solution.x is not None
        after.append(energies(problem, solution.x))
    mean = torch.stack(after).mean(dim=0)
    assert (mean / before <= bound).all()


@pytest.mark.parametrize("tolerance", [1e-2, 1e-6, 1e-11])
@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_reaches_every_tolerance(tolerance: float, heavy_tailed: bool) -> None:
    problem = problem_of(heavy_tailed)
    solution = solve(problem, SVRG(tolerance=tolerance))
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    assert float(true_residuals(problem, solution.x).max()) <= tolerance * (1 + 1e-9)


def test_its_batches_shrink_the_noise_of_lissa_to_nothing() -> None:
    """With a small batch and a constant step LiSSA stops at a floor; SVRG with the same two does not."""
    problem = problem_of()
    step = 1 / (4 * constants(problem, 2)[0])
    lissa = solve(problem, solvers.load("lissa", step_size=step, batch_size=2, num_steps=3000))
    svrg = solve(problem, SVRG(tolerance=1e-9, step_size=step, batch_size=2), max_steps=30_000)
    assert lissa.error is not None
    assert svrg.error is not None
    assert float(lissa.error.min()) > 1e-3
    assert float(svrg.error.max()) < 1e-7


def test_work_of_an_epoch() -> None:
    """A product over all data and m products over b of n examples, the residual's of the end beside it."""
    problem = problem_of(columns=2)
    solver = SVRG(tolerance=1e-30, step_size=0.01, batch_size=3, inner_steps=10)
    solution = solve(problem, solver, max_steps=2 + 10)
    assert solution.work == pytest.approx((1 + 4 * 2) / 3 * (2 + 10 * 3 / 60), rel=1e-12)


@pytest.mark.parametrize(("times", "length"), [(2.5, 40), (3.0, 80), (4.0, 80)])
def test_a_step_that_is_too_large_is_halved(times: float, length: int) -> None:
    problem = problem_of()
    step = times / constants(problem, 1)[0]
    solution = solve(problem, SVRG(step_size=step, batch_size=1, inner_steps=length))
    assert solution.status is Status.CONVERGED
    assert solution.diagnostics["step_size"] < step


def test_one_that_is_hopeless_is_named() -> None:
    problem = problem_of()
    step = 400 / constants(problem, 1)[0]
    solution = solve(problem, SVRG(step_size=step, batch_size=1, inner_steps=400))
    assert solution.status is Status.DIVERGED
    assert "lower step_size" in solution.reason
    short = solve(problem, SVRG(step_size=1e-6, batch_size=1, inner_steps=1))
    assert short.status is Status.BREAKDOWN
    assert "inner_steps" in short.reason


def test_rounding_is_named() -> None:
    problem = dense_problem(random_psd_examples(60, 8, seed=1).float(), 0.1, 1)
    solution = solve(problem, SVRG(tolerance=1e-12))
    assert solution.status is Status.BREAKDOWN
    assert "no longer falls" in solution.reason
    assert solution.residual is not None
    assert float(solution.residual.max()) < 1e-5


def test_too_small_a_damping_is_refused_before_any_step() -> None:
    solution = solve(problem_of(damping=1e-9), SVRG())
    assert solution.status is Status.BREAKDOWN
    assert "inner_steps" in solution.reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"step_size": -1.0}, "step_size is -1.0"),
        ({"step_size": "automatic"}, "step_size"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"inner_steps": 0}, "inner_steps is 0"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solvers.load("svrg", **settings)
