"""References of studies where p allows no dense one, against float64 dense solves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.experiments._reference import with_reference
from problems import Problem, ground_truth
from tests.conftest import dense_problem, random_psd_examples


def quiet(what: str, share: float) -> None:
    """No progress."""


def indefinite(damping: float, dtype: torch.dtype = torch.float64, *, zero: bool = False) -> Problem:
    """H of 12 parameters and known not to be ⪰ 0, with eigenvalues from −1 to 4 beside λ."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    matrix = rotation @ torch.linspace(-1, 4, 12, dtype=torch.float64).diag() @ rotation.T
    matrix = ((matrix + matrix.T) / 2).to(dtype)
    problem = dense_problem(matrix[None], damping, columns=3)
    assert not problem.operator.is_psd
    assert isinstance(problem.rhs, Tensor)
    if zero:
        problem.rhs[:, 1] = 0
    return problem


def solved(problem: Problem) -> Tensor:
    matrix = problem.operator.dense().double() + problem.damping * torch.eye(
        problem.size, dtype=torch.float64
    )
    return torch.linalg.solve(matrix, problem.columns().double())


@pytest.fixture
def out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even these p are held to be too large for a dense reference."""
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 3)


def off(problem: Problem, x: Tensor) -> float:
    """The largest relative error of any column, of one that is zero the length."""
    found = problem.reference
    assert found is not None
    lengths = x.norm(dim=0)
    return float(((found - x).norm(dim=0) / lengths.where(lengths > 0, 1.0)).max())


def test_a_dense_one_where_p_allows() -> None:
    problem = indefinite(0.5)
    assert with_reference(problem, quiet, error=1e-6) is problem
    assert off(problem, solved(problem)) < 1e-12


@pytest.mark.usefixtures("out_of_reach")
@pytest.mark.parametrize("error", [0.05, 1e-3, 1e-8])
def test_by_cg_where_h_is_positive_semidefinite(error: float) -> None:
    problem = dense_problem(random_psd_examples(30, 12, seed=0), damping=0.01)
    found = with_reference(problem, quiet, error=error)
    assert off(found, solved(problem)) <= found.reference_error <= error  # type: ignore[operator]


@pytest.mark.usefixtures("out_of_reach")
@pytest.mark.parametrize("error", [0.3, 0.05, 1e-3, 1e-8])
def test_by_minres_where_damping_makes_it_definite(error: float) -> None:
    problem = indefinite(1.05)
    told: list[str] = []
    found = with_reference(problem, lambda what, share: told.append(what), error=error)
    assert found.reference_error is not None
    assert off(found, solved(problem)) <= found.reference_error <= error
    # No more was computed than needed.
    assert told[0] == "smallest eigenvalue of H"
    before, last = (float(each.rpartition("≤ ")[2]) for each in told[-2:])
    assert last <= error / 2 < before


@pytest.mark.usefixtures("out_of_reach")
def test_of_a_column_that_is_zero_zero_is_the_reference() -> None:
    problem = indefinite(1.05, zero=True)
    found = with_reference(problem, quiet, error=1e-4)
    assert off(found, solved(problem)) <= 1e-4
    assert found.reference is not None
    assert not found.reference[:, 1].any()


@pytest.mark.usefixtures("out_of_reach")
def test_an_indefinite_sum_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"H \+ λI is indefinite \(λ_min \+ λ = -0\.2\), and p = 12 is too large"
    ):
        with_reference(indefinite(0.8), quiet, error=1e-3)


@pytest.mark.usefixtures("out_of_reach")
@pytest.mark.parametrize("damping", [1.05, None])
def test_what_float32_cannot_give_is_refused(damping: float | None) -> None:
    psd = dense_problem(random_psd_examples(30, 12, seed=0).float(), damping=0.01)
    problem = indefinite(damping, torch.float32) if damping else psd
    message = r"no reference within 1e-09 can be had for p = 12 in float32: raise damping"
    with pytest.raises(ValueError, match=message):
        with_reference(problem, quiet, error=1e-9)
    assert off(with_reference(problem, quiet, error=1e-2), solved(problem)) <= 1e-2
