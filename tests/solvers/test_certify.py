"""The reference of problems too large for a dense one, against the dense one of the same problem."""

import pytest
import torch

import problems
import solvers
from problems import Problem, ground_truth
from solvers.certify import certify


def softmax_regression(dtype: torch.dtype = torch.float64, damping: float = 1e-3) -> Problem:
    """p = 170."""
    sizes = {"pooling": 2, "training_size": 300}
    return problems.load("softmax_regression", dtype=dtype, damping=damping, **sizes)


@pytest.fixture(params=["softmax_regression", "quadratic"])
def problem(request: pytest.FixtureRequest) -> Problem:
    return softmax_regression() if request.param == "softmax_regression" else problems.load("quadratic")


@pytest.fixture
def out_of_reach(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Its dense reference, after which p is held to be too large for one."""
    assert problem.reference is not None
    dense = problem.reference
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 10)
    del problem.__dict__["reference"], problem.__dict__["_reference"]
    assert problem.reference is None
    del problem.__dict__["reference"], problem.__dict__["_reference"]
    return dense


@pytest.mark.parametrize("error", [0.1, 2e-3, 1e-6])
def test_the_reference_is_as_near_as_it_claims(
    problem: Problem, out_of_reach: torch.Tensor, error: float
) -> None:
    bounds: list[float] = []
    found = certify(problem, error=error, on_step=lambda step, bound: bounds.append(bound))
    assert found.reference is not None
    assert found.reference.dtype == torch.float64
    off = float(((found.reference - out_of_reach).norm(dim=0) / out_of_reach.norm(dim=0)).max())
    assert found.reference_error is not None
    assert off <= found.reference_error <= error
    # No more was computed than needed.
    assert bounds[-1] <= error / 2 < bounds[-2]


def test_errors_are_against_it_and_energy_errors_are_unknown(
    problem: Problem, out_of_reach: torch.Tensor
) -> None:
    found = certify(problem, error=1e-8)
    solution = solvers.solve(found, solvers.load("identity"))
    b = problem.columns() / problem.damping
    expected = (b - out_of_reach).norm(dim=0) / out_of_reach.norm(dim=0)
    assert solution.error is not None
    torch.testing.assert_close(solution.error, expected, rtol=1e-6, atol=0)
    assert solution.energy_error is None
    some = solvers.solve(found, solvers.load("identity"), columns=slice(1, 2))
    torch.testing.assert_close(some.error, expected[1:2], rtol=1e-6, atol=0)


def test_cgs_own_answer_is_no_better_than_it_is_certain_to_be(
    problem: Problem, out_of_reach: torch.Tensor
) -> None:
    """The reference is that of CG: to be equal to it is to be as near as its bound says."""
    found = certify(problem, error=0.05)
    assert found.reference is not None
    assert found.error(found.reference).tolist() == [found.reference_error] * found.num_columns
    off = (found.reference - out_of_reach).norm(dim=0) / out_of_reach.norm(dim=0)
    assert 0 < float(off.max()) <= float(found.error(found.reference).max())


def test_another_damping_has_no_reference_yet(problem: Problem, out_of_reach: torch.Tensor) -> None:
    assert certify(problem).with_damping(2 * problem.damping).reference is None


def test_too_little_work_leaves_the_problem_as_it_is(problem: Problem, out_of_reach: torch.Tensor) -> None:
    assert certify(problem, error=1e-6, max_work=1.0) is problem


def test_what_the_precision_forbids_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 10)
    problem = softmax_regression(torch.float32, damping=1e-4)
    assert certify(problem, error=1e-9).reference is None


def test_a_dense_reference_and_an_indefinite_matrix_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = softmax_regression()
    assert certify(dense) is dense
    assert dense.reference_error == 0
    monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 10)
    family = problems.available()["image_classifier"].examples()[1]
    indefinite = family.build(device=torch.device("cpu"), dtype=torch.float64, seed=0)
    assert certify(indefinite) is indefinite
