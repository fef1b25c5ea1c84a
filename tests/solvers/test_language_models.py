"""Solvers on a trained language model, p = 432, judged by the dense solution in float64."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

import problems
import solvers
from problems import Problem
from solvers import Status, solve

pytest.importorskip("transformers")


@functools.cache
def problem() -> Problem:
    """The second layer of opt-tiny, with λ a tenth of λ_max."""
    found = problems.load(
        "language_model", training_size=24, num_queries=2, parameters=r"layers\.1\.(fc|self_attn\..*proj)"
    )
    assert found.eigenvalues is not None
    return found.with_damping(float(found.eigenvalues[-1]) / 10)


def error(name: str) -> Tensor:
    found = solve(problem(), solvers.load(name)).error
    assert found is not None
    return found


def test_ekfac_is_nearer_than_the_diagonal_and_that_than_the_identity() -> None:
    """Of every column; its factors are over tokens, padding left out."""
    ekfac, diagonal, identity = (error(name) for name in ("ekfac", "diagonal", "identity"))
    assert torch.all(ekfac < diagonal)
    assert torch.all(diagonal < identity)


def test_cg_reaches_its_tolerance() -> None:
    """The residual, and with it the error to κ times that."""
    solution = solve(problem(), solvers.load("cg", tolerance=1e-6))
    assert solution.status is Status.CONVERGED
    assert solution.x is not None
    assert solution.error is not None
    assert float(problem().residual(solution.x, problem().columns()).max()) <= 1e-6
    assert problem().condition_number is not None
    assert float(solution.error.max()) <= 1e-6 * problem().condition_number


@pytest.mark.parametrize("settings", [{}, {"preconditioner": "ekfac"}], ids=str)
def test_lissa_reaches_its_target(settings: dict[str, str]) -> None:
    """With mini-batches of tokens, all settings chosen by itself."""
    solution = solve(problem(), solvers.load("lissa", target=0.05, **settings))
    assert solution.status is Status.FINISHED
    assert solution.error is not None
    assert float(solution.error.max()) <= 0.05
