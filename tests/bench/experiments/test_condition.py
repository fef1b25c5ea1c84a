"""Both sides of the sampling condition against matrices that are explicit."""

from __future__ import annotations

import math

import pytest
import torch

import problems
from bench.experiments.condition import Condition
from problems import DenseOperator, Problem
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
