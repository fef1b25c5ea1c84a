"""One cell: a solve turned into a row of the table and rows of its curve."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench.experiment import PlannedCell
from bench.memory import PeakMemory
from bench.theory_facts import TheoryFacts
from problems import Problem, ProblemFamily
from solvers import Budget, Record, Solution, Status, solve
from solvers.solution import worst

NAN = float("nan")
TIMING_REPEATS = 5


@dataclass(frozen=True)
class Unit:
    """Seconds of one gradient and of one product over all data; NaN for a gradient without a task."""

    gradient_seconds: float
    product_seconds: float


def measure_unit(problem: Problem) -> Unit:
    """Time a gradient and a one-column product, alternately; the least of several is the least disturbed."""
    vector = problem.columns(slice(0, 1))
    task = problem.task
    products, gradients = [], [NAN]
    for _ in range(TIMING_REPEATS):
        products.append(_seconds(lambda: problem.operator @ vector, problem))
        if task is not None:
            gradients.append(_seconds(task.training_gradient, problem))
    return Unit(min(gradients[1:], default=NAN), min(products))


def measure(
    cell: PlannedCell,
    family: ProblemFamily,
    problem: Problem,
    unit: Unit,
    budget: Budget,
    on_record: Callable[[Record], None] | None = None,
    theory: TheoryFacts | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Run one cell; its row, and one row for each recorded iterate.

    Every cell starts cold: what it gains from its own earlier products is in its time, and nothing that
    another solver's products left behind.
    """
    problem.operator.forget()
    with PeakMemory(problem.operator.device) as peak:
        solution = solve(problem, cell.solver, seed=cell.seed, on_record=on_record, **asdict(budget))
    key = {"problem": cell.problem, "solver": cell.solver_label, "seed": cell.seed}
    row = key | _asked(cell, family) | _outcome(solution) | {"peak_memory_bytes": peak.bytes}
    row |= _facts(problem) | asdict(theory or TheoryFacts()) | asdict(unit)
    return row, _curve(solution, key)


def failed(cell: PlannedCell, family: ProblemFamily, error: Exception) -> tuple[dict[str, Any], pd.DataFrame]:
    """The row, and the empty curve, of a cell whose problem or solve raised `error`."""
    reason = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    solution = Solution(None, Status.FAILED, reason, traceback=trace)
    key = {"problem": cell.problem, "solver": cell.solver_label, "seed": cell.seed}
    return key | _asked(cell, family) | _outcome(solution), _curve(solution, key)


def _asked(cell: PlannedCell, family: ProblemFamily) -> dict[str, Any]:
    return {
        "problem_name": family.name,
        "problem_parameters": json.dumps(asdict(family)),
        "solver_name": cell.solver.name,
        "solver_settings": json.dumps(asdict(cell.solver), default=str),
    }


def _outcome(solution: Solution) -> dict[str, Any]:
    return {
        "status": str(solution.status),
        "reason": solution.reason,
        "error": _worst(solution.error),
        "energy_error": _worst(solution.energy_error),
        "residual": _worst(solution.residual),
        "steps": solution.steps,
        "setup_work": solution.setup_work,
        "solve_work": solution.work,
        "setup_seconds": solution.setup_seconds,
        "solve_seconds": solution.solve_seconds,
        "diagnostics": json.dumps(
            {str(key): value for key, value in solution.diagnostics.items()}, default=str
        ),
        "traceback": solution.traceback,
    }


def _facts(problem: Problem) -> dict[str, Any]:
    eigenvalues = problem.eigenvalues
    return {
        "dimension": problem.size,
        "num_examples": problem.operator.num_examples,
        "num_columns": problem.num_columns,
        "damping": problem.damping,
        "lambda_max": NAN if eigenvalues is None else float(eigenvalues[-1]),
        "lambda_min": NAN if eigenvalues is None else float(eigenvalues[0]),
        "trace": NAN if eigenvalues is None else float(eigenvalues.sum()),
        "condition_number": NAN if problem.condition_number is None else problem.condition_number,
        "reference_residual": NAN if problem.reference_residual is None else problem.reference_residual,
        "reference_error": NAN if problem.reference_error is None else problem.reference_error,
        "dtype": str(problem.operator.dtype).removeprefix("torch."),
        "device": str(problem.operator.device),
        "facts": json.dumps(dict(problem.facts)),
    }


def _curve(solution: Solution, key: dict[str, Any]) -> pd.DataFrame:
    rows = [key | asdict(record) for record in solution.history]
    columns = [*key, *Record.__dataclass_fields__]
    floats = dict.fromkeys(("work", "seconds", "residual", "error", "energy_error"), "float64")
    # Fixed types: a column of None alone, or no row at all, must read back like any other curve.
    types = {"problem": "str", "solver": "str", "seed": "int64", "step": "int64", **floats}
    return pd.DataFrame(rows, columns=columns).astype(types)


def _worst(values: Tensor | None) -> float:
    found = worst(values)
    return NAN if found is None else found


def _seconds(work: Callable[[], object], problem: Problem) -> float:
    cuda = problem.operator.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began
