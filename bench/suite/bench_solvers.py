"""Every solver × every small problem, or those of `--problem`: seconds by pytest-benchmark, accuracy and work
beside them."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import solvers
from bench.suite.subjects import Subject, examples, parametrize
from solvers import Solution, Solver, solve
from solvers.peers.library import unavailable
from solvers.solution import worst

# What a solver may take on a problem that was asked for, whose size nothing bounds.
MOST_SECONDS = 120.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Without --problem on the families' own examples."""
    parametrize(metafunc, examples)


# Of other libraries those that are installed.
@pytest.mark.parametrize("name", [name for name, cls in solvers.available().items() if not unavailable(cls)])
def bench_solver(benchmark: BenchmarkFixture, name: str, subject: Subject) -> None:
    """One solve, set-up included: by the first of the solver's own examples of settings, or its defaults."""
    problem = subject.problem
    cls = solvers.find(name)
    if subject.asked:
        try:
            solver = solvers.load(name)
        except ValueError as error:
            pytest.skip(str(error))
    else:
        solver = cls.examples(problem)[0].solver
    reason = solver.skip(problem)
    if reason:
        pytest.skip(reason)
    benchmark.group = str(subject.family)
    # A direct solver cannot be stopped within its one step.
    limits = {"max_seconds": MOST_SECONDS} if subject.asked else {}
    rounds, warmup = (1, 0) if subject.asked else (3, 1)
    solution = benchmark.pedantic(
        solve, args=(problem, solver), kwargs=limits, rounds=rounds, warmup_rounds=warmup
    )
    benchmark.extra_info.update(_row(solver, solution))


def _row(solver: Solver, solution: Solution) -> dict[str, Any]:
    return {
        "solver": str(solver),
        "status": str(solution.status),
        "error": worst(solution.error),
        "residual": worst(solution.residual),
        "steps": solution.steps,
        "setup_work": solution.setup_work,
        "solve_work": solution.work,
        "setup_seconds": solution.setup_seconds,
        "solve_seconds": solution.solve_seconds,
    }
