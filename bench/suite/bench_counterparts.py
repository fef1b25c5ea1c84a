"""Our solvers against what SciPy or a dense matrix would do in their place: ratios measured interleaved.

Ours is the whole of `solve`: set-up, records, and the residual recomputed at the end. Against a Krylov solver
stand the same routine of SciPy's as a solver of this library, `scipy_cg`, and SciPy alone: called in a loop
over the columns, on the barest wrapping of our product, with the loosest of its own settings that reaches
the tolerance, found beforehand. A direct solver's counterpart forms the same matrix and calls LAPACK.

On the quadratic a product takes some microseconds, so that overhead shows; on the network products dominate.
Times are those of the processor, on one thread: on a machine that others use too the clock on the wall tells
of them.
"""

from __future__ import annotations

import functools
import random
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from threadpoolctl import threadpool_limits
from torch import Tensor

import problems
import solvers
from bench.suite import counterparts as against
from bench.suite.counterparts import LANCZOS_RANK, LANCZOS_STEPS, TOLERANCES, Solve
from bench.suite.subjects import Subject, parametrize
from problems import Problem
from solvers import Solver, solve

# Seconds a case may take, within these limits of rounds.
SECONDS, FEWEST, MOST = 0.7, 3, 25


@dataclass(frozen=True)
class Pair:
    """A solver, what stands against it by name, and how far their answers may lie apart, times ‖b‖/λ."""

    solver: Solver
    counterparts: Mapping[str, Solve]
    apart: float

    def ours(self, problem: Problem, columns: slice) -> Tensor:
        """The answer of `solve`."""
        return _solve(self.solver, problem, columns)


def _solve(solver: Solver, problem: Problem, columns: slice) -> Tensor:
    solution = solve(problem, solver, columns=columns, compare=False)
    assert solution.x is not None, solution.reason
    return solution.x


def pairs(dtype: torch.dtype = torch.float64) -> dict[str, Pair]:
    """All pairs by name."""
    tolerance = TOLERANCES[dtype]
    # Both residuals are within the tolerance, and ‖(H + λI)⁻¹‖ ≤ 1/λ.
    krylov = {
        name: Pair(
            solvers.load(name, tolerance=tolerance),
            {
                f"scipy_{name}": partial(_solve, solvers.load(f"scipy_{name}", tolerance=tolerance)),
                "SciPy alone": alone,
            },
            apart=2 * tolerance,
        )
        for name, alone in (
            ("cg", against.scipy_cg),
            ("minres", against.scipy_minres),
            ("lsmr", against.scipy_lsmr),
        )
    }
    block = solvers.load("block_cg", tolerance=tolerance)
    together = partial(_solve, krylov["cg"].solver)
    return {
        **krylov,
        "block_cg": Pair(block, {"cg": together, "SciPy alone": against.scipy_cg}, apart=2 * tolerance),
        "exact_cholesky": Pair(
            solvers.load("exact", method="cholesky"),
            {"torch.linalg": against.torch_cholesky, "scipy.linalg": against.scipy_cholesky},
            apart=1e-9,
        ),
        "exact_eigen": Pair(
            solvers.load("exact", method="eigen"),
            {"scipy.linalg evr": against.scipy_eigh("evr"), "scipy.linalg evd": against.scipy_eigh("evd")},
            apart=1e-9,
        ),
        "exact_dual": Pair(
            solvers.load("exact", method="dual"), {"scipy.linalg": against.scipy_woodbury}, apart=1e-9
        ),
        "lanczos": Pair(
            solvers.load("lanczos", num_steps=LANCZOS_STEPS, rank=LANCZOS_RANK),
            {"eigsh": against.scipy_eigsh},
            apart=1e-6,
        ),
    }


# Of the quadratic's dimensions 100 are H's, so that the dual is the smaller way too.
OWN: dict[str, dict[str, Any]] = {
    "quadratic": {"dimension": 500, "num_examples": 100},
    "image_classifier": {},
}
# Of all its examples the network's root has more rows than there are parameters.
FEW_EXAMPLES: dict[str, dict[str, Any]] = {"image_classifier": {"training_size": 60}}
# What LAPACK is tried on.
LARGEST_DENSE = 4000


@functools.cache
def _few(family: str) -> Problem:
    return problems.load(family, **FEW_EXAMPLES.get(family, OWN[family]))


def _problem(subject: Subject, name: str) -> Problem:
    """The subject's problem; skips where a counterpart cannot be had."""
    if not subject.asked:
        return _few(subject.family.name) if name == "exact_dual" else subject.problem
    problem = subject.problem
    dense = (problem.operator.dtype, problem.operator.device.type) == (torch.float64, "cpu")
    if name.startswith("exact") and not (dense and problem.size <= LARGEST_DENSE):
        pytest.skip(f"LAPACK's are run in float64 on the CPU, up to p = {LARGEST_DENSE}")
    reason = pairs(problem.operator.dtype)[name].solver.skip(problem)
    if reason:
        pytest.skip(reason)
    return problem


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two pools of threads, torch's and OpenBLAS's, that wait on the same cores would be measured else."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Without --problem on a quadratic and a network."""
    parametrize(
        metafunc, lambda: [Subject(problems.family(name, **settings)) for name, settings in OWN.items()]
    )


# A block of one column is that of cg.
CASES = [(name, width) for name in pairs() for width in (1, 4) if (name, width) != ("block_cg", 1)]


@pytest.mark.parametrize(("name", "width"), CASES)
def bench_counterparts(benchmark: BenchmarkFixture, name: str, subject: Subject, width: int) -> None:
    """Seconds of ours over each counterpart's, and the products that each takes, in `extra_info`."""
    problem, columns = _problem(subject, name), slice(0, width)
    pair = pairs(problem.operator.dtype)[name]
    if width > problem.num_columns:
        pytest.skip(f"the problem has {problem.num_columns} columns, {width} are compared")
    began = time.process_time()
    counts = check_agreement(pair, problem, columns)
    once = (time.process_time() - began) / 2
    entries = [pair.ours, *pair.counterparts.values()]
    order = random.Random(0)
    seconds: list[list[float]] = []

    def interleaved() -> None:
        taken = [0.0] * len(entries)
        # In another order each time, so that what one leaves in the caches falls on no other in particular.
        for index in order.sample(range(len(entries)), len(entries)):
            began = time.process_time()
            entries[index](problem, columns)
            taken[index] = time.process_time() - began
        seconds.append(taken)

    rounds = min(MOST, max(1 if subject.asked else FEWEST, int(SECONDS / once)))
    benchmark.group = f"{subject.name}, columns: {width}"
    benchmark.pedantic(interleaved, rounds=rounds)
    records = compare(list(pair.counterparts), np.array(seconds), counts)
    benchmark.extra_info.update(
        solver=str(pair.solver),
        parameters=problem.size,
        columns=width,
        seconds=statistics.median(each[0] for each in seconds),
        products=counts[0][0],
        product_columns=counts[0][1],
        counterparts=records,
    )
    table = "; ".join(f"{each['ratio']:.2f} × {each['name']} ({each['products']})" for each in records)
    milliseconds = 1e3 * benchmark.extra_info["seconds"]
    ours = f"{milliseconds:.2f} ms ({counts[0][0]} products)"
    print(f"\n{name}, {subject.name}, {width} columns: {ours} is {table}")


def check_agreement(pair: Pair, problem: Problem, columns: slice) -> list[tuple[int, int]]:
    """What each takes of products, ours first. A ratio to the cost of another answer would say nothing."""
    x, *counts = counted(pair.ours, problem, columns)
    allowed = pair.apart * problem.columns(columns).norm(dim=0) / problem.damping
    taken = [(counts[0], counts[1])]
    for name, counterpart in pair.counterparts.items():
        found, products, widths = counted(counterpart, problem, columns)
        apart = (found - x).norm(dim=0)
        assert (apart <= allowed).all(), f"{pair.solver} and {name} differ by {apart}, allowed {allowed}"
        taken.append((products, widths))
    return taken


def counted(entry: Solve, problem: Problem, columns: slice) -> tuple[Tensor, int, int]:
    """The answer, the products with H or its root that it takes, and the columns of all of them together."""
    entry(problem, columns)  # what is found once and kept is none of its products
    work = problem.operator.work
    with patch.object(work, "count_product", wraps=work.count_product) as counting:
        x = entry(problem, columns)
    return x, counting.call_count, sum(call.args[0] for call in counting.call_args_list)


def compare(
    names: list[str], seconds: np.ndarray, counts: list[tuple[int, int]]
) -> list[dict[str, str | float]]:
    """A row for each counterpart from `seconds` (rounds, 1 + counterparts), of which the first are ours."""
    records: list[dict[str, str | float]] = []
    for name, theirs, (products, columns) in zip(names, seconds.T[1:], counts[1:], strict=True):
        low, median, high = np.quantile(seconds[:, 0] / theirs, [0.25, 0.5, 0.75])
        records.append(
            {
                "name": name,
                "ratio": float(median),
                "quartile_low": float(low),
                "quartile_high": float(high),
                "seconds": float(np.median(theirs)),
                "products": products,
                "product_columns": columns,
            }
        )
    return records
