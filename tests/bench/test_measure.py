import json
import math

import pytest
import torch

import problems
from bench.experiment import PlannedCell
from bench.measure import Unit, measure, measure_unit
from bench.memory import PeakMemory
from solvers import Budget, load, solve


def test_a_row_says_what_the_solution_says() -> None:
    family = problems.family("quadratic", dimension=6, num_examples=9)
    problem = family.build(device=torch.device("cpu"), dtype=torch.float64, seed=0)
    solver = load("cg", tolerance=1e-8)
    cell = PlannedCell(0, "q", "cg", solver, 3)
    row, curve = measure(cell, family, problem, Unit(1.0, 2.0), Budget())
    solution = solve(problem, solver, seed=3)
    assert solution.error is not None
    assert solution.residual is not None
    assert (row["problem"], row["solver"], row["seed"], row["status"]) == ("q", "cg", 3, "converged")
    assert row["error"] == float(solution.error.max())
    assert row["residual"] == float(solution.residual.max())
    assert row["solve_work"] == solution.work
    assert (row["dimension"], row["num_examples"], row["num_columns"]) == (6, 9, 4)
    assert row["lambda_max"] == pytest.approx(1.0)
    assert row["trace"] == pytest.approx(sum(1 / j for j in range(1, 7)))
    assert row["condition_number"] == pytest.approx((1 + 0.01) / (1 / 6 + 0.01))
    assert json.loads(row["problem_parameters"])["dimension"] == 6
    settings = json.loads(row["solver_settings"])
    assert settings == {"tolerance": 1e-8, "preconditioner": "none", "check_every": 50}
    assert list(curve["step"]) == [record.step for record in solution.history]
    assert row["peak_memory_bytes"] > 0 or math.isnan(row["peak_memory_bytes"])


def test_a_failed_cell_has_a_row_and_an_empty_curve_of_the_same_types() -> None:
    family = problems.family("quadratic", dimension=6, num_examples=9)
    problem = family.build(device=torch.device("cpu"), dtype=torch.float64, seed=0)
    curves = []
    for settings in ({}, {"memory_gib": 1e-9}):
        cell = PlannedCell(0, "q", "exact", load("exact", **settings), 0)
        row, curve = measure(cell, family, problem, Unit(1.0, 2.0), Budget())
        curves.append(curve)
    assert row["status"] == "skipped"
    assert math.isnan(row["error"])
    assert len(curves[1]) == 0
    assert (curves[0].dtypes == curves[1].dtypes).all()


def test_every_cell_starts_cold() -> None:
    """Else a solver's seconds would depend on which solvers ran before it."""
    family = problems.family("softmax_regression", pooling=4, training_size=150)
    problem = family.build(device=torch.device("cpu"), dtype=torch.float64, seed=0)
    found = []

    class Looks(type(load("identity"))):  # type: ignore[misc]
        def prepare(self, problem: problems.Problem, generator: torch.Generator) -> None:
            found.append(len(problem.operator._kept.passes))  # type: ignore[attr-defined]

    for solver in (load("cg"), Looks()):
        measure(PlannedCell(0, "s", "x", solver, 0), family, problem, Unit(1.0, 2.0), Budget())
    assert found == [0]
    solve(problem, load("cg"))
    # cg does leave some behind.
    assert problem.operator._kept.passes  # type: ignore[attr-defined]


def test_units_are_measured_where_there_is_a_model() -> None:
    quadratic = measure_unit(problems.load("quadratic"))
    assert quadratic.product_seconds > 0
    assert math.isnan(quadratic.gradient_seconds)
    network = measure_unit(problems.load("softmax_regression", pooling=4, training_size=150))
    assert 0 < network.gradient_seconds < 1
    assert 0 < network.product_seconds < 1


def test_peak_memory_sees_what_was_freed_again() -> None:
    with PeakMemory(torch.device("cpu")) as nothing:
        pass
    if math.isnan(nothing.bytes):
        pytest.skip("this system does not let a process reset its high-water mark")
    with PeakMemory(torch.device("cpu")) as peak:
        torch.ones(2**24, dtype=torch.float64).sum()
    assert peak.bytes - nothing.bytes > 0.9 * 2**27
    with PeakMemory(torch.device("cpu")) as after:
        pass
    assert after.bytes < peak.bytes
