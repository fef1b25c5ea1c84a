"""The mean's error without an eigendecomposition, against one, and against LiSSA on all data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import problems
import solvers
from bench.experiments._bias import TOLERANCE, MeanError, error_of_start
from problems import Problem, ground_truth
from problems.ground_truth import Certified
from solvers.certify import certify
from tests.bench.experiments.devices import OnCpu, pretend_two_devices
from tests.conftest import dense_problem, random_psd_examples


def large(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> Problem:
    """The same, taken to be too large for an eigendecomposition."""
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 5)
    return certify(problem, error=1e-8)


@pytest.mark.parametrize(("fraction", "steps"), [(0.1, 7), (1.0, 40), (1.9, 60), (2.0, 9), (4.0, 12)])
def test_without_an_eigendecomposition_it_is_the_same(
    fraction: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = dense_problem(random_psd_examples(30, 40, 3), damping=0.05)
    matrix = problem.operator.dense()
    values, basis = torch.linalg.eigh(matrix)
    step = fraction / (float(values[-1]) + 0.05)
    solution = torch.linalg.solve(matrix + 0.05 * torch.eye(40, dtype=torch.float64), problem.columns())
    start = problem.columns() / 0.05 - solution
    expected = basis @ ((1 - step * (values + 0.05))[:, None] ** steps * (basis.T @ start))
    found = MeanError(large(problem, monkeypatch)).after(step, steps)
    scale = torch.maximum(solution.norm(dim=0), expected.norm(dim=0))
    assert bool(((found - expected).norm(dim=0) <= 3 * TOLERANCE * scale).all())


def test_the_space_is_kept_and_extended(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = large(dense_problem(random_psd_examples(30, 40, 3), damping=0.05), monkeypatch)
    mean = MeanError(problem)
    work = problem.operator.work
    before = work.passes
    mean.after(0.2, 50)
    first = work.passes - before
    mean.after(0.2, 50)
    mean.after(0.05, 3)
    assert work.passes - before == first > 0


def test_the_space_is_kept_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = large(dense_problem(random_psd_examples(30, 40, 3), damping=0.05), monkeypatch)
    expected = MeanError(problem).after(0.2, 50)
    pretend_two_devices(monkeypatch)
    mean = MeanError(problem)
    found = mean.after(0.2, 50)
    assert not isinstance(found, OnCpu)
    assert torch.equal(found, expected)
    kept = [tensor for tensor in _tensors(mean) if tensor.shape == (40,)]
    assert sum(isinstance(tensor, OnCpu) for tensor in kept) > 5
    # On the device is nothing but the next vector of each column's space.
    assert sum(not isinstance(tensor, OnCpu) for tensor in kept) <= problem.num_columns


def _tensors(value: object) -> Iterator[Tensor]:
    """Those that an object's own fields hold, lists and objects of the module within them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _tensors(each)
    elif type(value).__module__ == MeanError.__module__:
        for each in vars(value).values():
            yield from _tensors(each)


def test_it_is_where_lissa_on_all_data_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    network = problems.load("image_classifier", width=2, training_size=60, epochs=5, damping=0.5)
    problem = large(network, monkeypatch)
    x = solvers.solve(problem, solvers.load("lissa", step_size=0.3, num_steps=20, batch_size="full")).x
    assert x is not None
    assert problem.reference is not None
    gap = (MeanError(problem).after(0.3, 20) + problem.reference - x).norm(dim=0)
    assert float((gap / problem.reference.norm(dim=0)).max()) <= 3 * TOLERANCE


def test_a_start_that_is_the_solution_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the null space of H the start b/λ is exact."""
    matrix = torch.diag(torch.tensor([2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64))
    rhs = torch.zeros(7, 1, dtype=torch.float64)
    rhs[5] = 1
    problem = Problem("flat", problems.DenseOperator(matrix[None]), 0.5, rhs)
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 5)
    assert certify(problem).reference is not None
    exact = Problem("flat", problem.operator, 0.5, rhs, certified=Certified(rhs / 0.5, 0.0, 0.0))
    assert not error_of_start(exact).any()
    assert not MeanError(exact).after(0.1, 5).any()
