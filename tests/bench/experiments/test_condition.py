"""Both sides of the sampling condition against matrices that are explicit."""

from __future__ import annotations

import math

import pytest
import torch

import problems
from bench.experiments.condition import Condition
from bench.study import plan
from problems import DenseOperator, Problem
from problems.specification import Specification, parse
from tests.conftest import dense_problem, random_psd_examples

LIKE_NOTHING = Condition(batch_sizes=(1, 5), pairs=400, budget=400.0)


def rows_of(problem: Problem, study: Condition = LIKE_NOTHING) -> list[dict]:
    prepared = study.prepare(problem, lambda what, share: None)
    return [
        row | dict(piece)
        for piece in study.pieces()
        for row in study.measure(problem, prepared, piece, 0, lambda what, share: None)
    ]


@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_both_sides_against_the_second_moment(heavy_tailed: bool) -> None:
    problem = dense_problem(random_psd_examples(30, 6, 1, heavy_tailed=heavy_tailed), damping=0.1)
    operator = problem.operator
    assert isinstance(operator, DenseOperator)
    traces = torch.einsum("nii->n", operator.per_example)
    pencil = torch.linalg.solve(operator.matrix + 0.1 * torch.eye(6), operator.second_moment(1))
    for row in rows_of(problem):
        exact = operator.second_moment(row["batch_size"]) - operator.matrix @ operator.matrix
        assert abs(row["noise"] - float(exact.trace())) <= 5 * row["noise_error"]
        assert 0 < row["noise_error"] < 0.3 * row["noise"]
        assert row["trace"] == pytest.approx(float(traces.mean()), rel=1e-9)
        largest = float(traces.max() / traces.mean())
        assert abs(row["heterogeneity"] - largest) <= 5 * row["heterogeneity_error"] + 0.1 * largest
        assert row["noise_constant"] == pytest.approx(
            float(torch.linalg.eigvals(pencil).real.max()), rel=1e-2
        )
        assert row["largest"] == pytest.approx(float(torch.linalg.eigvalsh(operator.matrix)[-1]), rel=1e-3)


def test_what_is_unknown_of_single_examples_is_nan() -> None:
    problem = problems.load(
        "image_classifier", width=2, training_size=60, epochs=5, curvature="hessian", damping=3.0
    )
    for row in rows_of(problem, Condition(batch_sizes=(2,), pairs=3, budget=60.0)):
        assert math.isnan(row["heterogeneity"])
        assert math.isnan(row["noise_constant"])
        assert row["noise"] > 0


@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_noise_of_all_draws_is_the_second_moments_too(heavy_tailed: bool) -> None:
    problem = dense_problem(random_psd_examples(30, 16, 1, heavy_tailed=heavy_tailed), damping=0.1)
    operator = problem.operator
    assert isinstance(operator, DenseOperator)
    study = Condition(batch_sizes=(1, 5), pairs=2, budget=60.0, products=12)
    for row in rows_of(problem, study):
        exact = operator.second_moment(row["batch_size"]) - operator.matrix @ operator.matrix
        assert abs(row["noise"] - float(exact.trace())) <= 5 * row["noise_error"]
        assert 0 < row["noise_error"] < 0.2 * row["noise"]
        assert row["pairs"] == 0


def test_with_as_many_vectors_as_parameters_it_is_exact() -> None:
    problem = dense_problem(random_psd_examples(30, 6, 1, heavy_tailed=True), damping=0.1)
    operator = problem.operator
    assert isinstance(operator, DenseOperator)
    (row,) = rows_of(problem, Condition(batch_sizes=(4,), pairs=2, budget=60.0, products=12))
    exact = operator.second_moment(4) - operator.matrix @ operator.matrix
    assert row["noise"] == pytest.approx(float(exact.trace()), rel=1e-9)
    assert row["noise_error"] == 0


def test_an_example_that_pairs_miss_is_not_missed() -> None:
    """One of 200 examples carries all: few pairs of single examples see it, and all draws do."""
    examples = torch.zeros(200, 6, 6, dtype=torch.float64)
    examples[17] = 200 * torch.diag(torch.tensor([3.0, 1, 0, 0, 0, 0], dtype=torch.float64))
    problem = dense_problem(examples, damping=0.1)
    exact = 200 * (9 + 1) - (9 + 1)  # Tr(E h²) − Tr(H²) with H = diag(3, 1)
    (row,) = rows_of(problem, Condition(batch_sizes=(1,), pairs=2, budget=60.0, products=12))
    assert row["noise"] == pytest.approx(exact, rel=1e-9)
    (row,) = rows_of(problem, Condition(batch_sizes=(1,), pairs=5, budget=60.0))
    assert row["noise"] == 0


NETWORK = "image_classifier:width=2,training_size=200,epochs=5,damping=1"


@pytest.mark.parametrize("products", [0, 12])
@pytest.mark.parametrize("name", ["quadratic", NETWORK])
def test_the_work_that_is_expected_is_taken_but_for_a_factor_of_two(name: str, products: int) -> None:
    asked = parse(name)
    problem = problems.load(asked.name, **asked.settings)
    study = Condition(pairs=50, budget=60.0, products=products)
    expected = study.expected_work(problem)
    before = problem.operator.work.total
    rows_of(problem, study)
    assert expected / 2 <= problem.operator.work.total - before <= 2 * expected


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_scales_are_well_formed(scale: str) -> None:
    found = plan(Specification("condition", {}), scale=scale)
    assert [str(cell.problem).partition("(")[0] for cell in found.cells[::4]][:2] == ["resnet18", "resnet50"]
    assert len(found.cells) == 3 * 4
    if scale == "paper":
        assert all(family.damping == 5 for family in found.families.values())
        assert found.cells[-1].problem.startswith("smollm2-135m(")
        assert all("num_queries=1" in cell.problem for cell in found.cells)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"batch_sizes": ()}, "batch_sizes"),
        ({"batch_sizes": (0,)}, "batch_sizes"),
        ({"pairs": 1}, "pairs"),
        ({"products": 2}, "products"),
        ({"tokens_per_example": 0}, "tokens_per_example"),
        ({"budget": 3.0}, "budget"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Condition(**settings)
