"""On a CUDA device every solver gives what it gives on the CPU, from the same random draws."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import problems
import solvers
from problems import Problem
from solvers import Status
from solvers.peers.library import library_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PROBLEMS: dict[str, dict[str, Any]] = {
    "quadratic": {"dimension": 40, "num_examples": 60},
    "softmax_regression": {"training_size": 100, "pooling": 2, "num_queries": 3},
    "image_classifier": {"width": 3, "training_size": 60, "epochs": 5, "num_queries": 3, "damping": 0.1},
}
# What a solver has no default for.
SETTINGS: dict[str, dict[str, Any]] = {"neumann": {"step_size": 0.01, "num_steps": 20}}
# Thousands of steps, each of which waits for the device.
MANY_STEPS = {("softmax_regression", "svrg"), ("image_classifier", "svrg")}


@functools.lru_cache(maxsize=2)
def problem(name: str, device: str) -> Problem:
    return problems.load(name, device=device, dtype=torch.float64, **PROBLEMS[name])


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("solver", [name for name, cls in solvers.available().items() if not library_of(cls)])
def test_a_solver_gives_the_same_on_both(name: str, solver: str) -> None:
    if (name, solver) in MANY_STEPS:
        pytest.skip("takes minutes on a device")
    here, there = (problem(name, device) for device in ("cpu", "cuda"))
    chosen = solvers.load(solver, **SETTINGS.get(solver, {}))
    expected, found = (solvers.solve(each, chosen) for each in (here, there))
    assert found.status == expected.status, found.reason
    if expected.status == Status.SKIPPED:
        pytest.skip(expected.reason)
    assert expected.x is not None
    assert found.x is not None
    assert found.x.is_cuda
    # Rounding may bring an iteration to its tolerance a step or two earlier, and its answer as near.
    assert found.steps == pytest.approx(expected.steps, abs=2)
    difference = (found.x.cpu() - expected.x).norm() / expected.x.norm()
    assert difference < (1e-4 if expected.steps > 1 else 1e-9)
