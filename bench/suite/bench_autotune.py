"""LiSSA that chose its settings against the best of a grid search: examples to the same error, set-up apart.

`make autotune` takes about a quarter of an hour, nearly all of it for the grid.
"""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import problems
from bench.suite.grid_search import cheapest_setting
from bench.suite.subjects import Subject, parametrize
from problems import Problem
from solvers import Solution, Status, solve
from solvers.lissa import LiSSA

SEEDS = 10
# No more than this many times the examples of the cheapest setting, on so many of the seeds.
AT_MOST = 3.0
ON_SEEDS = 9

pytestmark = pytest.mark.slow

OWN: list[tuple[str, dict[str, Any]]] = [
    ("quadratic", {}),
    ("quadratic", {"traces": "heavy_tailed"}),
    ("softmax_regression", {}),
    ("image_classifier", {}),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Without --problem on the small problems."""
    parametrize(metafunc, lambda: [Subject(problems.family(name, **settings)) for name, settings in OWN])


def bench_autotune(benchmark: BenchmarkFixture, subject: Subject) -> None:
    """Ten tuned solves; how many examples each took over those of the grid's cheapest setting."""
    problem = subject.problem
    if problem.reference is None:
        pytest.skip(f"the grid's errors need a reference, which p = {problem.size} has none of")
    solver = LiSSA()
    solutions: list[Solution] = []

    def tuned(seed: int) -> None:
        solutions.append(solve(problem, solver, seed=seed))

    seeds = iter(range(SEEDS))
    benchmark.pedantic(tuned, setup=lambda: ((next(seeds),), {}), rounds=SEEDS)
    examples = [_examples(problem, solution.work) for solution in solutions]
    # What costs more than the tuned runs need not be tried.
    grid = cheapest_setting(problem, solver.target, max(examples))
    reached = [
        taken <= AT_MOST * grid.examples and float(_error(solution)) <= solver.target
        for taken, solution in zip(examples, solutions, strict=True)
    ]
    benchmark.extra_info.update(
        {
            "target": solver.target,
            "examples (median)": statistics.median(examples),
            "gradient equivalents to measure the curvature (median)": statistics.median(
                solution.setup_work for solution in solutions
            ),
            "cheapest of the grid": _described(grid.step_size, grid.batch_size, grid.num_steps),
            "settings tried": grid.settings_tried,
            "its examples": grid.examples,
            "ratio (median)": statistics.median(examples) / grid.examples,
            "ratio (largest)": max(examples) / grid.examples,
            "ratio to the luckiest run (median)": statistics.median(examples) / grid.lucky,
            "errors": [float(_error(solution)) for solution in solutions],
            "within target and 3 times the examples": sum(reached),
        }
    )
    assert all(solution.status is Status.FINISHED for solution in solutions)
    assert sum(reached) >= ON_SEEDS, benchmark.extra_info


def _examples(problem: Problem, work: float) -> float:
    """Examples whose products with all columns make so many gradient equivalents."""
    return work / ((1 + 4 * problem.num_columns) / 3) * problem.operator.num_examples


def _error(solution: Solution) -> Any:
    assert solution.error is not None
    return solution.error.max()


def _described(step_size: float, batch_size: int | str, num_steps: int) -> str:
    return f"step_size = {step_size:.3g}, batch_size = {batch_size}, num_steps = {num_steps}"
