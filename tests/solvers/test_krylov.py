from dataclasses import dataclass

import pytest
import torch

from problems import DenseOperator, Problem
from solvers import Breakdown
from solvers.krylov import Certificate, advance, damped_product, overwrite, select


def identity_problem(rhs: torch.Tensor) -> Problem:
    """H + λI = 2I."""
    return Problem("", DenseOperator.from_matrix(torch.eye(len(rhs), dtype=torch.float64)), 1.0, rhs)


def test_a_product_is_damped() -> None:
    rhs = torch.arange(6, dtype=torch.float64).reshape(3, 2)
    torch.testing.assert_close(damped_product(identity_problem(rhs), rhs), 2 * rhs)


def test_a_claim_is_checked_against_the_true_residual() -> None:
    b = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64)
    problem = identity_problem(b)
    known = Certificate(b, 1e-2, check_every=100)
    assert known.active().tolist() == [0, 1]
    active = known.active()
    assert known.to_check(active, torch.tensor([0.5, 1.0], dtype=torch.float64)).tolist() == []
    assert known.residual.tolist() == [0.5, 0.5, 0.0]
    # Both claim 1e-2; the first holds (0.005), of the second the true residual is 0.015, the other 0.008.
    x = torch.tensor([[0.4975, 0.985, 0.0]], dtype=torch.float64)
    places = known.to_check(active, torch.tensor([0.004, 0.016], dtype=torch.float64))
    assert places.tolist() == [0, 1]
    true, lost = known.recompute(problem, x, active[places])
    torch.testing.assert_close(true, torch.tensor([[0.005, 0.03]], dtype=torch.float64))
    assert known.converged.tolist() == [True, False, True]
    # Less than twice as large: it goes on, and has to reach half the tolerance before the next look.
    assert lost.tolist() == [False, False]
    active = known.active()
    assert known.to_check(active, torch.tensor([0.016], dtype=torch.float64)).tolist() == []
    assert known.to_check(active, torch.tensor([0.009], dtype=torch.float64)).tolist() == [0]
    _, lost = known.recompute(problem, x, active)
    assert lost.tolist() == [True]


def test_every_so_many_steps_all_are_checked() -> None:
    b = torch.ones(2, 2, dtype=torch.float64)
    known = Certificate(b, 1e-6, check_every=3)
    norms = torch.ones(2, dtype=torch.float64)
    assert [len(known.to_check(known.active(), norms)) for _ in range(6)] == [0, 0, 2, 0, 0, 2]


def test_starting_afresh_without_progress_is_a_breakdown() -> None:
    known = Certificate(torch.ones(2, 1, dtype=torch.float64), 1e-6, check_every=3)
    column = torch.tensor([0])
    for residual in (0.1, 0.04, 0.02):
        known.residual = torch.tensor([residual], dtype=torch.float64)
        known.start_afresh(column)
    known.residual = torch.tensor([0.011], dtype=torch.float64)
    with pytest.raises(Breakdown, match=r"rounding stops the residual at 1.1e-02.*use float64"):
        known.start_afresh(column)


def test_columns_leave_and_are_replaced() -> None:
    @dataclass
    class Two:
        vectors: torch.Tensor
        numbers: torch.Tensor

    two = Two(torch.arange(6.0).reshape(2, 3), torch.arange(3.0))
    kept = select(two, torch.tensor([True, False, True]))
    assert kept.vectors.tolist() == [[0, 2], [3, 5]]
    assert kept.numbers.tolist() == [0, 2]
    overwrite(kept, torch.tensor([1]), Two(torch.full((2, 1), 9.0), torch.tensor([8.0])))
    assert kept.vectors.tolist() == [[0, 9], [3, 9]]
    assert kept.numbers.tolist() == [0, 8]
    assert two.numbers.tolist() == [0, 1, 2]


def test_advances_the_chosen_columns_alone() -> None:
    x = torch.zeros(2, 3)
    advance(x, torch.tensor([0, 2]), torch.ones(2, 2), torch.tensor([1.0, 2.0]))
    assert x.tolist() == [[1, 0, 2], [1, 0, 2]]
    advance(x, torch.arange(3), torch.ones(2, 3), torch.tensor([1.0, 2.0, 3.0]))
    assert x.tolist() == [[2, 2, 5], [2, 2, 5]]
