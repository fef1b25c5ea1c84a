"""Quasi-Newton against the closed form of quadratic functions, and where it ends."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from problems.bregman import BregmanObjective
from problems.descent import PATIENCE, Goal, Iterate, QuasiNewton

SIZE, LAMBDA = 6, 0.5


class Quadratic:
    """½ δᵀAδ + ε gᵀδ + kink · |δ_0 − 0.01| of each column, with g = 1."""

    damping = LAMBDA
    quick = None

    def __init__(self, matrix: Tensor, kink: float = 0.0) -> None:
        self.matrix, self.kink = matrix, kink
        self.evaluations = 0

    def evaluate(
        self, x: Tensor, examples: Tensor, epsilons: Tensor, among: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        self.evaluations += x.shape[1]
        value = (x * (self.matrix @ x)).sum(0) / 2 + epsilons * x.sum(0) + self.kink * (x[0] - 0.01).abs()
        gradient = self.matrix @ x + epsilons
        gradient[0] += self.kink * (x[0] - 0.01).sign()
        return value, gradient

    def rounding(self, epsilons: Tensor, losses: Tensor) -> Tensor:
        return 1e-12 * torch.ones_like(epsilons)


def goal(objective: Quadratic, epsilons: list[float], tolerance: float = 1e-9) -> Goal:
    steps = torch.tensor(epsilons, dtype=torch.float64)
    gradients = torch.ones(SIZE, len(steps), dtype=torch.float64)
    wanted = tolerance * steps.abs() * SIZE**0.5
    return Goal(
        cast(BregmanObjective, objective),
        torch.arange(len(steps)),
        steps,
        torch.zeros_like(steps),
        gradients,
        wanted,
    )


def matrix(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(SIZE, 3, generator=generator, dtype=torch.float64)
    return factor @ factor.T + LAMBDA * torch.eye(SIZE, dtype=torch.float64)


def last(optimiser: QuasiNewton, asked: Goal, start: Tensor | None = None) -> Iterate:
    begin = torch.zeros_like(asked.gradients) if start is None else start
    *_, found = optimiser.iterates(asked, begin)
    return found


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0, 1, 8]), st.floats(0.2, 3.0))
def test_minima_of_quadratics(seed: int, memory: int, scale: float) -> None:
    """Each column's minimum, from a start of its own, with P = scale · A⁻¹ or without."""
    a = matrix(seed)
    truth = torch.linalg.solve(a, -torch.ones(SIZE, 1).double()) * torch.tensor([[0.1, -2.0]]).double()
    solve = lambda r: min(scale, 1.5) * torch.linalg.solve(a, r)  # noqa: E731
    for optimiser in (QuasiNewton(solve, memory), QuasiNewton()):
        found = last(optimiser, goal(Quadratic(a), [0.1, -2.0], 1e-7), torch.full((SIZE, 2), 0.01).double())
        torch.testing.assert_close(found.displacements, truth, rtol=1e-5, atol=1e-6)
        assert not found.stuck.any()
        assert found.certain


def test_newton_with_the_matrix_itself_takes_one_step_and_no_evaluation_more() -> None:
    objective = Quadratic(matrix(0))
    found = list(QuasiNewton(lambda r: torch.linalg.solve(objective.matrix, r), 0).iterates(
        goal(objective, [0.1, 0.2]), torch.zeros(SIZE, 2).double()
    ))  # fmt: skip
    assert len(found) == 2
    assert objective.evaluations == 2  # where it starts at 0 all is known


def test_a_start_that_is_worse_than_none_is_none() -> None:
    objective = Quadratic(matrix(0))
    first = next(iter(QuasiNewton().iterates(goal(objective, [0.1]), torch.full((SIZE, 1), 50.0).double())))
    assert first.displacements.tolist() == [[0.0]] * SIZE
    assert first.values.tolist() == [0.0]


def test_at_a_kink_it_ends_and_says_so() -> None:
    """With |δ_0 − 0.01| in it, and the minimum there, no gradient near it is short."""
    objective = Quadratic(matrix(0), kink=1.0)
    found = list(QuasiNewton(max_steps=500).iterates(goal(objective, [-0.1]), torch.zeros(SIZE, 1).double()))
    assert bool(found[-1].stuck.all())
    assert len(found) < 500
    assert float(found[-1].gradient_norms) > 0.1
    # What is left is at the kink: nearly the minimum.
    assert float(found[-1].displacements[0]) == pytest.approx(0.01, abs=1e-3)


def test_a_gradient_that_gets_no_shorter_is_waited_for_no_longer() -> None:
    class Flat(Quadratic):
        """The objective falls for ever, its gradient is the same everywhere."""

        def evaluate(self, *arguments: Any) -> tuple[Tensor, Tensor]:
            x, _, epsilons, _ = arguments
            return epsilons * x.sum(0), epsilons * torch.ones_like(x)

    found = list(
        QuasiNewton(max_steps=500).iterates(goal(Flat(matrix(0)), [0.1]), torch.zeros(SIZE, 1).double())
    )
    assert len(found) == PATIENCE + 1
    assert bool(found[-1].stuck.all())
