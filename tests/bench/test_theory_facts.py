"""What theory is told of a problem, against dense linear algebra in float64."""

import math
from dataclasses import astuple
from pathlib import Path

import pytest
import scipy.linalg
import torch

import problems
from bench.experiment import Experiment, plan
from bench.runner import run
from bench.store import Store
from bench.theory_facts import TheoryFacts, theory_facts
from problems import DenseOperator, Problem
from problems.ground_truth import LARGEST_DENSE
from tests.conftest import dense_problem, random_psd_examples


@pytest.mark.parametrize("heavy_tailed", [False, True])
@pytest.mark.parametrize("damping", [1.0, 0.03, 1e-3])
def test_the_facts_are_those_of_dense_matrices(heavy_tailed: bool, damping: float) -> None:
    matrices = random_psd_examples(40, 12, seed=2, heavy_tailed=heavy_tailed)
    problem = dense_problem(matrices, damping, columns=3)
    mean, square = matrices.mean(dim=0), (matrices @ matrices).mean(dim=0)
    shifted = mean + damping * torch.eye(12, dtype=torch.float64)
    rhs = problem.columns()
    solutions = torch.linalg.solve(shifted, rhs)
    noises, starts, ratios = [], [], []
    for b, u in zip(rhs.T, solutions.T, strict=True):
        noises.append(float(u @ (square - mean @ mean) @ u / (u @ u)))
        starts.append(float((b / damping - u).norm() / u.norm()))
        ratios.append(float(damping * u.norm() / b.norm()))
    found = theory_facts(problem)
    top = scipy.linalg.eigh(square.numpy(), shifted.numpy(), eigvals_only=True)[-1]
    assert found.noise_constant == pytest.approx(top, rel=1e-4)
    assert found.noise_at_solution == pytest.approx(max(noises), rel=1e-8)
    assert found.start_error_rhs == pytest.approx(max(starts), rel=1e-8)
    assert found.solution_ratio == pytest.approx(min(ratios), rel=1e-8)
    assert found.product_error < 1e-14


def test_products_of_a_lower_precision_show() -> None:
    matrices = random_psd_examples(20, 6, seed=3)
    rhs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    problem = Problem("single", DenseOperator(matrices.float()), 0.1, rhs)
    found = theory_facts(problem)
    assert problem.reference is not None
    u = problem.reference[:, :2]
    exact = matrices.float().double().mean(dim=0) @ u
    differences = (matrices.float().mean(dim=0) @ u.float()).double() - exact
    expected = float((differences.norm(dim=0) / u.norm(dim=0)).max())
    # Rounding of u itself differs between the two by about as much.
    assert 0.1 * expected < found.product_error < 10 * expected
    assert 1e-9 < found.product_error < 1e-6


def test_a_column_of_zeros_has_no_part_in_them() -> None:
    matrices = random_psd_examples(40, 12, seed=2)
    full = dense_problem(matrices, 0.1, columns=3)
    padded = torch.cat([torch.zeros(12, 1, dtype=torch.float64), full.columns()], dim=1)
    with_zeros = Problem("zeros", DenseOperator(matrices), 0.1, padded)
    assert astuple(theory_facts(with_zeros)) == pytest.approx(astuple(theory_facts(full)), abs=1e-14)
    nothing = Problem("zeros", DenseOperator(matrices), 0.1, torch.zeros(12, 1, dtype=torch.float64))
    assert all(math.isnan(value) for value in astuple(theory_facts(nothing)))


def test_without_examples_there_is_no_noise_but_all_else() -> None:
    problem = problems.load("image_classifier", width=2, training_size=60, epochs=5, curvature="hessian")
    found = theory_facts(problem)
    assert math.isnan(found.noise_constant)
    assert math.isnan(found.noise_at_solution)
    assert found.solution_ratio > 0


def test_out_of_reach_nothing_is_known() -> None:
    size = LARGEST_DENSE + 1
    operator = DenseOperator.__new__(DenseOperator)
    small = torch.ones(1, 1, 1, dtype=torch.float64)
    operator._build(small, problems.work.Work(1))
    operator.shape = (size, size)
    problem = Problem("large", operator, 0.1, torch.ones(size, 1, dtype=torch.float64))
    assert all(math.isnan(value) for value in astuple(theory_facts(problem)))


def test_rows_carry_them_and_no_solver_pays(tmp_path: Path) -> None:
    asked = {
        "title": "Facts",
        "problems": [{"name": "quadratic", "parameters": {"dimension": 8, "num_examples": 20}}],
        "solvers": [
            {"name": "identity"},
            {"name": "neumann", "settings": {"step_size": 0.5, "num_steps": 3}},
        ],
        "seeds": [0],
    }
    assert run(plan(Experiment.model_validate(asked)), tmp_path / "run")
    cells, _ = Store(tmp_path / "run").read()
    expected = theory_facts(problems.load("quadratic", dimension=8, num_examples=20))
    for name in TheoryFacts.__dataclass_fields__:
        assert cells[name].tolist() == pytest.approx([getattr(expected, name)] * 2)
    assert cells["lambda_min"].tolist() == pytest.approx([1 / 8] * 2)
    # Three products of four columns, (1 + 4 · 4)/3 each.
    assert cells["solve_work"].tolist() == [0, 17]
    assert cells["setup_work"].tolist() == [0, 0]
