"""LiSSA against theory: its mean, its mean square and its single paths."""

from __future__ import annotations

import itertools

import pytest
import torch

import solvers
from problems import DenseOperator, Problem
from solvers import Solution, Status, solve
from solvers.theory import mean_square_threshold
from tests.conftest import dense_problem, random_psd_examples


class Dictated(DenseOperator):
    """Mini-batches in a given order instead of random ones."""

    def dictate(self, batches: list[list[int]]) -> Dictated:
        self.batches = iter(batches)
        return self

    def minibatch(self, size: int, generator: torch.Generator) -> DenseOperator:
        batch = next(self.batches)
        assert len(batch) == size
        return self.subset(torch.tensor(batch))


def lissa(problem: Problem, seed: int = 0, **settings: object) -> Solution:
    return solve(problem, solvers.load("lissa", **settings), seed=seed)


@pytest.mark.parametrize("start", ["zero", "rhs"])
def test_the_mean_over_all_draws_is_exactly_the_theorys(start: str) -> None:
    """E u_T = u* + Aᵀ(u_0 − u*), the average over all 3³ sequences of mini-batches."""
    per_example = random_psd_examples(3, 4, seed=0)
    problem = dense_problem(per_example, damping=0.2)
    final = []
    for sequence in itertools.product(range(3), repeat=3):
        operator = Dictated(per_example).dictate([[i] for i in sequence])
        run = Problem("dictated", operator, 0.2, problem.rhs)
        solution = lissa(run, step_size=0.3, num_steps=3, batch_size=1, start=start)
        final.append(solution.x)
    assert problem.reference is not None
    b = problem.columns()
    initial = b / 0.2 if start == "rhs" else torch.zeros_like(b)
    identity = torch.eye(4, dtype=torch.float64)
    shrink = identity - 0.3 * (problem.operator.dense() + 0.2 * identity)
    expected = problem.reference + torch.linalg.matrix_power(shrink, 3) @ (initial - problem.reference)
    torch.testing.assert_close(torch.stack(final).mean(dim=0), expected, rtol=1e-11, atol=1e-12)  # type: ignore[arg-type]


def test_full_batch_is_the_mean_itself() -> None:
    problem = dense_problem(random_psd_examples(6, 4, seed=0), damping=0.2)
    assert problem.reference is not None
    identity = torch.eye(4, dtype=torch.float64)
    shrink = identity - 0.3 * (problem.operator.dense() + 0.2 * identity)
    initial = problem.columns() / 0.2
    expected = problem.reference + torch.linalg.matrix_power(shrink, 7) @ (initial - problem.reference)
    torch.testing.assert_close(lissa(problem, step_size=0.3, num_steps=7, batch_size="full").x, expected)


@pytest.mark.parametrize(("factor", "status"), [(0.95, Status.FINISHED), (1.05, Status.DIVERGED)])
@pytest.mark.parametrize("seed", range(5))
def test_full_batch_runs_turn_at_the_edge(seed: int, factor: float, status: Status) -> None:
    problem = dense_problem(random_psd_examples(40, 5, seed=seed, heavy_tailed=True), damping=0.05, seed=seed)
    assert problem.eigenvalues is not None
    edge = 2 / (float(problem.eigenvalues[-1]) + problem.damping)
    solution = lissa(problem, step_size=factor * edge, num_steps=400, batch_size="full")
    assert solution.status is status, solution.reason
    if status is Status.FINISHED:
        assert solution.history[-1].error is not None
        assert solution.history[0].error is not None
        assert solution.history[-1].error < solution.history[0].error


RANDOM_PROBLEMS = [
    (seed, heavy_tailed, damping, batch_size)
    for seed, (heavy_tailed, damping, batch_size) in enumerate(
        itertools.product([False, True], [0.3, 0.03, 0.003], [1, 4, 20])
    )
]


on_random_problems = pytest.mark.parametrize(
    ("seed", "heavy_tailed", "damping", "batch_size"), RANDOM_PROBLEMS
)


def random_problem(seed: int, heavy_tailed: bool, damping: float) -> tuple[Problem, torch.Tensor]:
    """A problem of 30 rank-one examples, and those examples."""
    per_example = random_psd_examples(30, 6, seed=seed, heavy_tailed=heavy_tailed)
    return dense_problem(per_example, damping=damping, seed=seed), per_example


@on_random_problems
def test_sampled_runs_are_safe_at_half_the_threshold(
    seed: int, heavy_tailed: bool, damping: float, batch_size: int
) -> None:
    problem, per_example = random_problem(seed, heavy_tailed, damping)
    step_size = 0.5 * mean_square_threshold(per_example, damping, batch_size)
    num_steps = min(2000, round(3 / (step_size * damping)) + 50)
    for run in range(3):
        solution = lissa(problem, run, step_size=step_size, num_steps=num_steps, batch_size=batch_size)
        assert solution.status is Status.FINISHED, solution.reason


@on_random_problems
def test_sampled_runs_always_diverge_at_twice_the_means_edge(
    seed: int, heavy_tailed: bool, damping: float, batch_size: int
) -> None:
    problem, _ = random_problem(seed, heavy_tailed, damping)
    assert problem.eigenvalues is not None
    step_size = 4 / (float(problem.eigenvalues[-1]) + damping)
    for run in range(3):
        solution = lissa(problem, run, step_size=step_size, num_steps=2000, batch_size=batch_size)
        assert solution.status is Status.DIVERGED
        assert "lower step_size" in solution.reason


def test_a_step_costs_its_share_of_the_data() -> None:
    problem = dense_problem(random_psd_examples(40, 5, seed=0), damping=0.1, columns=3)
    solution = lissa(problem, step_size=0.01, num_steps=10, batch_size=8)
    assert solution.work == pytest.approx(10 * (1 + 4 * 3) / 3 * 8 / 40)


def test_seeds_differ() -> None:
    problem = dense_problem(random_psd_examples(40, 5, seed=0), damping=0.1)
    settings = {"step_size": 0.1, "num_steps": 10, "batch_size": 2}
    assert not torch.equal(lissa(problem, 0, **settings).x, lissa(problem, 1, **settings).x)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"step_size": 0.1, "num_steps": 5, "batch_size": 0},
            'batch_size is 0; it must be at least 1, "full" for all examples, or "auto"',
        ),
        ({"step_size": 0.0, "num_steps": 5}, "step_size is 0"),
        ({"step_size": 0.1, "num_steps": 0}, "num_steps is 0"),
        ({"step_size": 0.1, "num_steps": 5, "start": "middle"}, "start is 'middle'"),
        ({"step_size": "big"}, "step_size.* is 'big'"),
        ({"num_steps": "full"}, "num_steps.* is 'full'"),
        ({"rule": "blunt"}, "rule is 'blunt'"),
        ({"target": 1.5}, "target is 1.5"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solvers.load("lissa", **settings)
