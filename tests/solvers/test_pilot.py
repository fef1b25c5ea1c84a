"""The pilot's measures against dense eigendecompositions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import problems
from problems import DenseOperator, Problem
from problems.spectrum.spectral_measure import SpectralMeasure
from solvers import Breakdown
from solvers.krylov_prediction import conjugate_gradients
from solvers.pilot import as_measure, pilot
from tests.conftest import dense_problem, random_psd_examples


def after(steps: int, problem: Problem, b: Tensor) -> tuple[Tensor, SpectralMeasure]:
    """CG's answer and measure after so many steps."""
    *_, (x, found) = conjugate_gradients(problem.operator, problem.damping, b, steps)
    return x, as_measure(found, problem.damping)


def test_the_measure_is_exact_for_polynomials_of_degree_2m_minus_1() -> None:
    problem = dense_problem(random_psd_examples(60, 15, seed=0), damping=0.1, columns=3)
    b = problem.columns()
    measure = after(4, problem, b)[1]
    exact = SpectralMeasure.of(*problem.ground_truth.eigen, b)
    for degree in range(8):
        torch.testing.assert_close(
            measure.integral(lambda values: values**degree),  # noqa: B023
            exact.integral(lambda values: values**degree),  # noqa: B023
            rtol=1e-9,
            atol=0,
        )
    beyond = [each.integral(lambda values: values**8) for each in (measure, exact)]
    assert not torch.allclose(*beyond, rtol=1e-9, atol=0)


def test_its_answer_is_that_of_conjugate_gradients() -> None:
    """CG minimises the energy-norm error over the Krylov space."""
    problem = dense_problem(random_psd_examples(60, 15, seed=0), damping=0.1, columns=2)
    b = problem.columns()
    x = after(4, problem, b)[0]
    matrix = problem.operator.dense() + 0.1 * torch.eye(15, dtype=torch.float64)
    for column in range(2):
        space = torch.stack(
            [torch.linalg.matrix_power(matrix, power) @ b[:, column] for power in range(4)], dim=1
        )
        basis = torch.linalg.qr(space).Q
        best = basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ b[:, column])
        torch.testing.assert_close(x[:, column], best, rtol=1e-7, atol=1e-9)


def test_noise_has_the_size_of_all_examples() -> None:
    per_example = random_psd_examples(40, 6, seed=3, heavy_tailed=True)
    problem = dense_problem(per_example, damping=0.2, columns=2)
    generator = torch.Generator().manual_seed(0)
    sides = pilot(problem.operator, problem.operator, 0.2, 0.2, problem.columns(), generator, "rhs")
    reference = problem.reference
    assert reference is not None
    each = torch.einsum("nij,jk->nik", per_example, reference)
    exact = each.square().sum(dim=1).mean(dim=0) - each.mean(dim=0).square().sum(dim=0)
    torch.testing.assert_close(sides.noise.weights.sum(dim=1), exact, rtol=1e-3, atol=0)
    values = problem.ground_truth.eigen[0]
    nodes = sides.noise.nodes.expand(2, -1)[sides.noise.weights > 0]
    assert nodes.min() > values[0] - 1e-6
    assert nodes.max() < values[-1] + 1e-6


def test_noise_on_the_way_is_that_of_all_examples() -> None:
    per_example = random_psd_examples(40, 6, seed=3, heavy_tailed=True)
    problem = dense_problem(per_example, damping=0.2, columns=2)
    generator = torch.Generator().manual_seed(0)
    sides = pilot(problem.operator, problem.operator, 0.2, 0.2, problem.columns(), generator, "rhs")
    assert problem.reference is not None
    e = problem.columns() / 0.2 - problem.reference
    each = torch.einsum("nij,jk->nik", per_example, e)
    noise = each.square().sum(dim=1).mean(dim=0) - each.mean(dim=0).square().sum(dim=0)
    energy = (e * (problem.operator @ e + 0.2 * e)).sum(dim=0)
    torch.testing.assert_close(sides.start_noise, noise / energy, rtol=1e-3, atol=0)


def test_what_it_has_not_seen_is_known() -> None:
    """At a small λ most of u* lies where CG has not been; at a large one it has seen all."""
    problem = problems.load("quadratic", dimension=200, num_examples=300, exponent=4.0, rhs="isotropic")
    b = problem.columns()
    for damping, hidden in ((1e-8, True), (0.5, False)):
        generator = torch.Generator().manual_seed(0)
        sides = pilot(problem.operator, problem.operator, damping, damping, b, generator, "rhs")
        x = problem.with_damping(damping).reference
        assert x is not None
        missed = 1 - float((sides.solution_norm / x.norm(dim=0)).min())
        assert (missed > 0.2) is hidden
        assert (sides.unseen > 0.5) is hidden


def test_columns_of_zero_and_columns_done_early_are_left_alone() -> None:
    problem = dense_problem(random_psd_examples(40, 6, seed=3), damping=0.2, columns=3)
    b = problem.columns()
    b[:, 1] = 0
    # An eigenvector is solved by one step.
    b[:, 2] = problem.ground_truth.eigen[1][:, 0]
    x, measure = after(6, problem, b)
    assert torch.isfinite(x).all()
    assert not x[:, 1].any()
    assert float(measure.weights[1].sum()) == 0
    assert float(measure.nodes[2, 0]) == pytest.approx(float(problem.ground_truth.eigen[0][0]), rel=1e-9)
    assert int((measure.weights[2] > 0).sum()) == 1


def test_an_indefinite_matrix_is_named_with_the_damping_it_needs() -> None:
    matrix = torch.diag(torch.tensor([2.0, 1.0, -0.5], dtype=torch.float64))
    operator = DenseOperator.from_matrix(matrix)
    b = torch.ones(3, 1, dtype=torch.float64)
    with pytest.raises(Breakdown, match=r"eigenvalue of at most -0\.\d+\. Raise damping above 0\.\d+"):
        list(conjugate_gradients(operator, 0.1, b, 6))
