"""LiSSA under a preconditioner is LiSSA on P^-½(H + λI)P^-½: against explicit matrices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import problems
from problems import Problem
from problems.operators.dense import DenseOperator
from solvers import Status, solve
from solvers.diagonal import Diagonal, DiagonalInverse
from solvers.geometry import PreconditionedOperator, preconditioned
from solvers.lissa import LiSSA
from solvers.nystrom import Nystrom
from solvers.preconditioner import ApproximateInverse, Preconditioner, as_preconditioner

LAMBDA = 0.1


class Explicit(ApproximateInverse):
    """P ≻ 0 as a matrix, by its eigendecomposition."""

    def __init__(self, matrix: Tensor) -> None:
        self.values, self.vectors = torch.linalg.eigh(matrix)

    @property
    def multiplications(self) -> float:
        return float(self.vectors.numel())

    def solve(self, vectors: Tensor) -> Tensor:
        return self.power(-1.0) @ vectors

    def half_solve(self, vectors: Tensor) -> Tensor:
        return self.power(-0.5) @ vectors

    def power(self, exponent: float) -> Tensor:
        return self.vectors * self.values**exponent @ self.vectors.T


def draw(seed: int = 0, count: int = 30, size: int = 6) -> tuple[Problem, Explicit]:
    """A problem of rank-one examples, and a P that is near H + λI and not it."""
    generator = torch.Generator().manual_seed(seed)
    scales = 10.0 ** -torch.arange(size, dtype=torch.float64).div(2)
    rows = torch.randn(count, size, generator=generator, dtype=torch.float64) * scales
    operator = DenseOperator(rows[:, :, None] * rows[:, None, :])
    some = rows[: count // 2]
    inverse = Explicit(some.T @ some / len(some) + LAMBDA * torch.eye(size, dtype=torch.float64))
    rhs = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    return Problem("drawn", operator, LAMBDA, rhs), inverse


def transformed(problem: Problem, inverse: Explicit, matrix: Tensor) -> Tensor:
    """P^-½(matrix + λI)P^-½."""
    root = inverse.power(-0.5)
    return root @ (matrix + LAMBDA * torch.eye(problem.size, dtype=torch.float64)) @ root


def test_products_mini_batches_and_second_moments() -> None:
    problem, inverse = draw()
    work = problem.operator.work
    operator = preconditioned(problem, Preconditioner.of(inverse, work)).operator
    assert isinstance(operator, PreconditionedOperator)
    identity = torch.eye(problem.size, dtype=torch.float64)
    expected = transformed(problem, inverse, problem.operator.dense()) - identity
    torch.testing.assert_close(operator @ identity, expected)
    drawn = operator.minibatch(4, torch.Generator().manual_seed(1))
    same = problem.operator.minibatch(4, torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn @ identity, transformed(problem, inverse, same.dense()) - identity)
    assert isinstance(problem.operator, DenseOperator)
    each = [transformed(problem, inverse, h) - identity for h in problem.operator.per_example]
    squares = torch.stack([h @ h for h in each]).mean(dim=0)
    torch.testing.assert_close(operator.mean_square(identity), squares)
    torch.testing.assert_close(operator.mean_square(identity[:, 0]), squares[:, 0])


def test_by_hand_it_is_lissa_on_the_transformed_system() -> None:
    problem, inverse = draw()
    solver = LiSSA(0.3, 50, 4, preconditioner=inverse.solve)
    found = solve(problem, solver, seed=3)
    root = inverse.power(-0.5)
    other = DenseOperator(
        torch.stack([transformed(problem, inverse, h) for h in problem.operator.per_example])
    )  # type: ignore[attr-defined]
    b = root @ problem.columns()
    u, generator = b.clone(), torch.Generator().manual_seed(2 * 3 + 1)
    for _ in range(50):
        u = u - 0.3 * (other.minibatch(4, generator) @ u - b)
    torch.testing.assert_close(found.x, root @ u)


@pytest.mark.parametrize("seed", range(4))
def test_settings_of_its_own_choice_reach_the_target_in_the_2_norm(seed: int) -> None:
    problem, _ = draw(seed, count=400)
    solver = LiSSA(preconditioner="jacobi", target=0.05)
    found = solve(problem, solver, seed=seed)
    assert found.status is Status.FINISHED, found.reason
    assert found.error is not None
    assert found.error.max() <= 2 * 0.05


def test_the_better_the_preconditioner_the_fewer_steps() -> None:
    problem = problems.load("quadratic", dimension=40, num_examples=4000, exponent=2.0, damping=1e-3)
    matrix = problem.operator.dense()
    near = Explicit(matrix + problem.damping * torch.eye(40, dtype=torch.float64))

    class Near(Diagonal):
        """H + λI itself."""

        def prepare(self, problem: Problem, generator: torch.Generator) -> ApproximateInverse:  # type: ignore[override]
            return near

    found = solve(problem, LiSSA(preconditioner=Near()))
    without = solve(problem, LiSSA())
    assert found.error is not None
    assert found.error.max() <= 0.1
    assert found.steps < without.steps / 3


@pytest.mark.parametrize("seed", range(3))
def test_where_the_preconditioner_is_exact_it_ends_at_once(seed: int) -> None:
    # At full rank P = H + λI, and the start P⁻¹b is the solution; of a few of the examples it is not.
    problem = problems.load("quadratic", dimension=60, damping=1e-3)
    solution = solve(problem, LiSSA(preconditioner=Nystrom(rank=60)), seed=seed)
    assert solution.status is Status.FINISHED
    assert solution.steps == 1
    assert solution.error is not None
    assert float(solution.error.max()) <= LiSSA.target


def test_momentum_and_averaging_are_what_they_say() -> None:
    problem, _ = draw()
    matrix = problem.operator.dense() + LAMBDA * torch.eye(problem.size, dtype=torch.float64)
    b = problem.columns()
    before = u = b / LAMBDA
    seen = []
    for _ in range(20):
        before, u = u, u - 0.2 * (matrix @ u - b) + 0.6 * (u - before)
        seen.append(u)
    last = solve(problem, LiSSA(0.2, 20, "full", momentum=0.6)).x
    torch.testing.assert_close(last, u)
    averaged = solve(problem, LiSSA(0.2, 20, "full", momentum=0.6, average_after=0.75)).x
    torch.testing.assert_close(averaged, torch.stack(seen[15:]).mean(dim=0))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_momentum_converges_up_to_its_edge_and_not_beyond(momentum: float) -> None:
    problem, _ = draw()
    assert problem.eigenvalues is not None
    edge = 2 * (1 + momentum) / (float(problem.eigenvalues[-1]) + LAMBDA)
    inside = solve(problem, LiSSA(0.98 * edge, 3000, "full", momentum=momentum))
    assert inside.error is not None
    assert inside.error.max() < 1e-6
    assert solve(problem, LiSSA(1.02 * edge, 3000, "full", momentum=momentum)).status is Status.DIVERGED


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"momentum": 0.5}, "for settings by hand"),
        ({"average_after": 0.5}, "for settings by hand"),
        ({"average_after": 1.5}, "average_after is 1.5"),
        ({"rule": "paper", "preconditioner": "jacobi"}, "knows no preconditioner"),
        ({"preconditioner": "jacoby"}, "jacobi"),
        ({"preconditioner": "cg"}, "no preconditioner 'cg'"),
        ({"preconditioner": "jacobi(rank=3)"}, "rank"),
        ({"preconditioner": 3}, "must be a name, a solver or a function"),
        ({"preconditioner": Nystrom}, "not a class"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LiSSA(**settings)  # type: ignore[arg-type]


def test_a_function_alone_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="needs P\\^-½ too"):
        LiSSA(preconditioner=torch.clone)


def test_an_indefinite_system_is_refused() -> None:
    matrix = torch.diag(torch.tensor([2.0, 1.0, -0.5], dtype=torch.float64))
    problem = Problem("indefinite", DenseOperator.from_matrix(matrix), 0.1, torch.ones(3, 1).double())
    # Shifted, so that it is a preconditioner still.
    shifted = Explicit(matrix + torch.eye(3, dtype=torch.float64))

    class Shifted(Diagonal):
        """H + I."""

        def prepare(self, problem: Problem, generator: torch.Generator) -> ApproximateInverse:  # type: ignore[override]
            return shifted

    found = solve(problem, LiSSA(preconditioner=Shifted()))
    assert found.status is Status.BREAKDOWN
    assert "not positive definite" in found.reason


def test_names_of_preconditioners() -> None:
    assert as_preconditioner("none") is None
    assert as_preconditioner("jacobi") == as_preconditioner("diagonal") == Diagonal()
    assert as_preconditioner(Diagonal()) == Diagonal()
    problem, _ = draw()
    entries = problem.operator.diagonal() + LAMBDA
    state = Diagonal().prepare(problem, torch.Generator())
    assert isinstance(state, DiagonalInverse)
    torch.testing.assert_close(state.entries, entries)
    with pytest.raises(ValueError, match="gives no matrix"):
        as_preconditioner(replace(LiSSA()))
