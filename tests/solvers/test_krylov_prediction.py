"""CG and MINRES foreseen from Lanczos coefficients, against solves of explicit matrices."""

from __future__ import annotations

import pytest
import scipy.sparse.linalg
import torch

from problems import DenseOperator
from problems.spectrum.lanczos import Tridiagonal, lanczos
from solvers import Breakdown
from solvers.krylov_prediction import (
    cg_history,
    conjugate_gradients,
    last_error,
    minres_residuals,
    unseen_error,
    with_column,
)
from tests.conftest import dense_problem, random_psd_examples

DAMPING = 0.05


@pytest.fixture
def operator() -> DenseOperator:
    return DenseOperator(random_psd_examples(60, 30, seed=0, heavy_tailed=True))


def last(operator: DenseOperator, b: torch.Tensor, steps: int) -> Tridiagonal:
    *_, (_, (found,)) = conjugate_gradients(operator, DAMPING, b[:, None], steps)
    assert found is not None
    return found


def scipy_cg(matrix: torch.Tensor, b: torch.Tensor) -> list[torch.Tensor]:
    iterates = [torch.zeros_like(b)]
    scipy.sparse.linalg.cg(
        matrix.numpy(), b.numpy(), rtol=1e-10, callback=lambda x: iterates.append(torch.tensor(x.copy()))
    )
    return iterates


def test_history_is_scipys_and_errors_are_not_too_small() -> None:
    operator = DenseOperator(random_psd_examples(60, 30, seed=0))
    b = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = operator.dense() + DAMPING * torch.eye(30, dtype=torch.float64)
    truth = torch.linalg.solve(matrix, b)
    iterates = scipy_cg(matrix, b)
    history = cg_history(last(operator, b, 9), DAMPING)
    for step, (error, residual) in enumerate(zip(history.errors, history.residuals, strict=True)):
        x = iterates[step]
        assert float(residual) == pytest.approx(float((b - matrix @ x).norm() / b.norm()), rel=1e-4)
        # What is unseen lies at λ, where it is largest.
        assert float(error) >= 0.98 * float((x - truth).norm() / truth.norm())
    # Where CG is much further, the errors are those of the truth.
    known = float((iterates[5] - truth).norm() / truth.norm())
    assert float(history.errors[5]) == pytest.approx(known, rel=0.02)
    assert last_error(last(operator, b, 9), DAMPING) == pytest.approx(float(history.errors[-1]), rel=1e-9)


def test_steps_to_is_the_first_step_within_the_target(operator: DenseOperator) -> None:
    b = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    history = cg_history(last(operator, b, 25), DAMPING)
    step = history.steps_to(0.05)
    assert step is not None
    assert history.errors[step] <= 0.05 < history.errors[step - 1]
    short = cg_history(last(operator, b, 6), DAMPING)
    assert short.steps_to(0.05) is None
    assert step / 2 <= short.extrapolated(0.05) <= 2 * step


def test_an_invariant_space_is_exact() -> None:
    """Two different eigenvalues: CG ends after two steps, with an error of 0."""
    values = torch.tensor([1.0, 1, 1, 3, 3], dtype=torch.float64)
    operator = DenseOperator.from_matrix(torch.diag(values))
    found = last(operator, torch.ones(5, dtype=torch.float64), 5)
    history = cg_history(found, DAMPING)
    assert len(history.errors) == 3
    assert float(history.errors[-1]) < 1e-12
    nodes, weights = found.measure
    torch.testing.assert_close(nodes - DAMPING, torch.tensor([1.0, 3], dtype=torch.float64))
    torch.testing.assert_close(weights, torch.tensor([0.6, 0.4], dtype=torch.float64))


def test_negative_curvature_is_a_breakdown_that_gives_it() -> None:
    operator = DenseOperator.from_matrix(torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64)))
    with pytest.raises(Breakdown, match="not positive definite"):
        list(conjugate_gradients(operator, DAMPING, torch.ones(2, 1, dtype=torch.float64), 5))


def test_minres_residuals_are_the_least_over_the_krylov_space() -> None:
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = half + half.T
    b = torch.randn(12, generator=generator, dtype=torch.float64)
    *_, found = lanczos(DenseOperator.from_matrix(matrix), b, 8)
    shifted = matrix + DAMPING * torch.eye(12, dtype=torch.float64)
    krylov = b[:, None] / b.norm()
    for step, residual in enumerate(minres_residuals(found, DAMPING)):
        if step:
            image = shifted @ krylov
            best = torch.linalg.lstsq(image, b).solution
            assert residual == pytest.approx(float((b - image @ best).norm() / b.norm()), rel=1e-7)
            krylov = torch.linalg.qr(torch.cat([krylov, image[:, -1:]], dim=1)).Q


def test_with_column_puts_a_longer_rule_in() -> None:
    nodes, weights = torch.ones(2, 2), torch.full((2, 2), 0.5)
    new_nodes, new_weights = with_column(nodes, weights, 1, torch.tensor([3.0, 4, 5]), torch.ones(3))
    assert new_nodes.tolist() == [[1, 1, 0], [3, 4, 5]]
    assert new_weights.tolist() == [[0.5, 0.5, 0], [1, 1, 1]]


@pytest.mark.parametrize("steps", [1, 3, 6, 12])
@pytest.mark.parametrize("damping", [1e-3, 0.1])
def test_what_is_unseen_is_no_less_than_what_is_left(steps: int, damping: float) -> None:
    """Against the dense solution; H is singular, so that its smallest eigenvalue is where Radau puts it."""
    problem = dense_problem(random_psd_examples(8, 20, seed=steps, rank=1), damping=damping)
    b = problem.columns()
    *_, (x, found) = conjugate_gradients(problem.operator, damping, b, steps)
    assert problem.reference is not None
    assert found[0] is not None
    left = float((x - problem.reference).norm() / problem.reference.norm())
    # Relative to its own solution, which with that part is longer.
    assert unseen_error(found[0], damping) >= 0.9 * left - 1e-6
