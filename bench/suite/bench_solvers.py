"""Every solver × every small problem: seconds by pytest-benchmark, accuracy and work beside them."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import problems
import solvers
from problems import Problem
from solvers import Solution, Solver, solve
from solvers.solution import worst


@functools.cache
def _problem(name: str, index: int) -> Problem:
    family = problems.available()[name].examples()[index]
    return family.build(device=torch.device("cpu"), dtype=torch.float64, seed=0)


def _cases() -> list[Any]:
    return [
        pytest.param(solver, name, index, id=f"{solver}-{name}-{index}")
        for name, cls in problems.available().items()
        for index in range(len(cls.examples()))
        for solver in solvers.available()
    ]


@pytest.mark.parametrize(("name", "family", "index"), _cases())
def bench_solver(benchmark: BenchmarkFixture, name: str, family: str, index: int) -> None:
    """One solve, set-up included; the first of the solver's own examples of settings."""
    problem = _problem(family, index)
    solver = solvers.find(name).examples(problem)[0].solver
    reason = solver.skip(problem)
    if reason:
        pytest.skip(reason)
    benchmark.group = str(problems.available()[family].examples()[index])
    solution = benchmark.pedantic(solve, args=(problem, solver), rounds=3, warmup_rounds=1)
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
