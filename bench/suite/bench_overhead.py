"""What `solve()` costs around CG: what it adds to the time of the same iteration in a bare loop."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import solvers
from bench.suite.subjects import Subject, parametrize, synchronise
from problems import NetworkOperator, Problem, ProblemFamily, from_model

STEPS = 100
ROUNDS = 9
# Of a problem that was asked for, whose products may take long.
FEWER_STEPS, FEWER_ROUNDS = 10, 3
TOLERANCE = 1e-30  # out of reach: both go all the way


class Timed(NetworkOperator):
    """A network's operator, with the seconds its products take: they are the same on both sides."""

    seconds = 0.0

    def _product(self, columns: Tensor) -> Tensor:
        synchronise(self.device)
        began = time.perf_counter()
        product = super()._product(columns)
        synchronise(self.device)
        self.seconds += time.perf_counter() - began
        return product


@dataclass(frozen=True)
class Perceptron(ProblemFamily):
    """A network of p ≈ 10⁵ parameters whose product over all data takes ≥ 5 ms."""

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(784, 126), nn.Tanh(), nn.Linear(126, 10)).eval()
        inputs = torch.randn(1536, 784, generator=generator)
        targets = torch.randint(10, (1536,), generator=generator)
        model.to(device, dtype)
        return from_model(model, "cross_entropy", (inputs, targets), (inputs[:1], targets[:1]), damping=0.01)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Without --problem on the perceptron."""
    parametrize(metafunc, lambda: [Subject(Perceptron(), dtype="float32")])


def _timed(subject: Subject) -> Problem:
    """Its problem with a timed operator; skips where H is no network's."""
    problem = subject.problem
    operator, task = problem.operator, problem.task
    if task is None or not isinstance(operator, NetworkOperator):
        pytest.skip("the overhead is measured beside a network's products, and this is a bare matrix")
    timed = Timed(operator.curvature, task.function, task.loss, task.training)
    return Problem("overhead", timed, problem.damping, problem.columns(slice(0, 1)))


def _bare_loop(problem: Problem, b: Tensor, steps: int) -> Tensor:
    """CG as a textbook has it, for one column: the recurrence and its stopping test."""
    x = torch.zeros_like(b)
    r = b.clone()
    p = r.clone()
    square = r.square().sum()
    norm = square.sqrt()
    for _ in range(steps):
        product = problem.operator @ p + problem.damping * p
        alpha = square / (p * product).sum()
        x += alpha * p
        r -= alpha * product
        previous, square = square, r.square().sum()
        if square.sqrt() <= TOLERANCE * norm:
            break
        p = r + (square / previous) * p
    return x


def bench_overhead_of_solve_around_cg(benchmark: BenchmarkFixture, subject: Subject) -> None:
    """`overhead`: seconds of `solve` beyond the bare loop's, products apart, over the bare loop's.

    Rounds alternate between both; the median counts. The final certificate of `solve`, a product and
    a few vector operations at the end, is measured in the same round and left out.
    """
    problem = _timed(subject)
    steps, rounds = (FEWER_STEPS, FEWER_ROUNDS) if subject.asked else (STEPS, ROUNDS)
    b = problem.columns()
    solver = solvers.load("cg", tolerance=TOLERANCE)
    operator = problem.operator
    assert isinstance(operator, Timed)
    overheads, products = [], []

    def both() -> None:
        operator.seconds = 0.0
        began = time.perf_counter()
        expected = _bare_loop(problem, b, steps)
        bare = time.perf_counter() - began
        bare_outside = bare - operator.seconds
        products.append(operator.seconds / steps)

        operator.seconds = 0.0
        began = time.perf_counter()
        problem.residual(expected, b)
        certificate_outside = time.perf_counter() - began - operator.seconds

        operator.seconds = 0.0
        began = time.perf_counter()
        solution = solvers.solve(problem, solver, max_steps=steps)
        outside = time.perf_counter() - began - operator.seconds - certificate_outside
        overheads.append((outside - bare_outside) / bare)
        assert solution.steps == steps
        if not subject.asked:  # on others rounding may take both apart
            largest = float(expected.abs().max())
            torch.testing.assert_close(solution.x, expected, rtol=1e-3, atol=1e-3 * largest)

    benchmark.pedantic(both, rounds=rounds, warmup_rounds=1)
    overhead, product = statistics.median(overheads), statistics.median(products)
    benchmark.extra_info.update(p=problem.size, product_milliseconds=1e3 * product, overhead=overhead)
    print(f"\np = {problem.size}, product {1e3 * product:.1f} ms, overhead {overhead:+.2%}")
