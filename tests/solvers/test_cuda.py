"""On a CUDA device every solver gives what it gives on the CPU, from the same random draws."""

from __future__ import annotations

import functools

import pytest
import torch

import problems
import solvers
from problems import Problem
from solvers import Status

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PROBLEMS = {
    "quadratic": {"dimension": 40, "num_examples": 60},
    "softmax_regression": {"training_size": 100, "pooling": 2, "num_queries": 3},
    "image_classifier": {"width": 3, "training_size": 60, "epochs": 5, "num_queries": 3, "damping": 0.1},
    "resnet18": {"data": "digits", "width": 2, "epochs": 1, "curvature_size": 40, "num_queries": 2},
    "language_model": {},
}


@functools.lru_cache(maxsize=2)
def problem(name: str, device: str) -> Problem:
    return problems.load(name, device=device, dtype=torch.float64, **PROBLEMS[name])


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("solver", solvers.available())
def test_a_solver_gives_the_same_on_both(name: str, solver: str) -> None:
    here, there = (problem(name, device) for device in ("cpu", "cuda"))
    expected, found = (solvers.solve(each, solvers.load(solver)) for each in (here, there))
    assert found.status == expected.status, found.reason
    if expected.status == Status.SKIPPED:
        pytest.skip(expected.reason)
    if expected.x is None:
        return
    assert found.x.is_cuda
    assert found.steps == pytest.approx(expected.steps, rel=0.02, abs=1)
    torch.testing.assert_close(
        found.x.cpu(), expected.x, rtol=1e-3, atol=float(1e-5 * expected.x.abs().max())
    )
