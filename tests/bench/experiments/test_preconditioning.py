"""What preconditioners save, against textbook CG in NumPy and the dense pencil of H + λI and P."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

import problems
from bench.experiments.preconditioning import OF_LISSA, PRECONDITIONERS, Preconditioning
from problems import Problem
from tests.conftest import dense_problem, random_psd_examples

TARGETS = (0.1, 1e-3)
STUDY = Preconditioning(targets=TARGETS, target=0.1, max_steps=400)


@pytest.fixture(scope="module")
def network() -> Problem:
    return problems.load("image_classifier", width=2, training_size=60, epochs=5, num_queries=3, damping=1e-2)


def rows_of(
    problem: Problem, method: str, preconditioner: str, study: Preconditioning = STUDY
) -> list[dict[str, Any]]:
    prepared = study.prepare(problem, lambda what, share: None)
    piece = {"method": method, "preconditioner": preconditioner}
    return list(study.measure(problem, prepared, piece, 0, lambda what, share: None))


def reached(rows: list[dict[str, Any]]) -> dict[float, dict[str, Any]]:
    return {row["target"]: row for row in rows if not math.isnan(row["target"])}


def system(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    matrix = problem.operator.dense() + problem.damping * torch.eye(problem.size, dtype=torch.float64)
    return matrix.numpy(), problem.columns().numpy()


def textbook_steps(
    matrix: np.ndarray, b: np.ndarray, scale: np.ndarray, targets: tuple[float, ...]
) -> list[int]:
    """Steps of CG on D^-½AD^-½ until every column of D^-½y is within each target of A⁻¹b."""
    solution = np.linalg.solve(matrix, b)
    scaled = matrix / scale[:, None] / scale
    worst = np.zeros(100)
    for column, expected in zip((b / scale[:, None]).T, solution.T, strict=True):
        y, r = np.zeros_like(column), column.copy()
        p = r.copy()
        for step in range(len(worst)):
            product = scaled @ p
            alpha = r @ r / (p @ product)
            y = y + alpha * p
            after = r - alpha * product
            p, r = after + (after @ after) / (r @ r) * p, after
            error = np.linalg.norm(y / scale - expected) / np.linalg.norm(expected)
            worst[step] = max(worst[step], error)
    return [int(np.argmax(worst <= target)) + 1 for target in targets]


@pytest.mark.parametrize("preconditioner", ["none", "jacobi"])
def test_steps_are_those_of_textbook_cg(network: Problem, preconditioner: str) -> None:
    matrix, b = system(network)
    scale = np.sqrt(matrix.diagonal()) if preconditioner == "jacobi" else np.ones(len(matrix))
    found = reached(rows_of(network, "cg", preconditioner))
    for target, steps in zip(TARGETS, textbook_steps(matrix, b, scale, TARGETS), strict=True):
        # After some dozens rounding makes one more or less.
        assert found[target]["step"] == pytest.approx(steps, abs=0 if steps < 20 else 1)
    for target, row in found.items():
        assert row["error"] <= target


def test_a_step_is_a_product_with_each_column(network: Problem) -> None:
    for row in reached(rows_of(network, "cg", "none")).values():
        assert row["products"] == 3 * row["step"]
        assert row["work"] == pytest.approx(row["step"] * (1 + 4 * 3) / 3)
        assert row["setup_work"] == row["setup_products"] == 0


def test_a_sketch_of_rank_r_is_r_products(network: Problem) -> None:
    for row in reached(rows_of(network, "cg", "nystrom(rank=20)")).values():
        assert row["setup_products"] == 20
        assert row["products"] == 20 + 3 * row["step"]
        assert row["setup_work"] > (1 + 4 * 20) / 3
        assert row["work"] > row["setup_work"] + row["step"] * (1 + 4 * 3) / 3


def test_what_is_automatic_counts_its_estimates(network: Problem) -> None:
    row = rows_of(network, "cg", "nystrom(remainder=50)")[0]
    # Ten steps of power iteration for each estimate of what is left.
    assert row["setup_products"] >= row["rank"] + 10
    assert row["setup_products"] % 10 == row["rank"] % 10


def test_condition_numbers_are_those_of_the_pencil(network: Problem) -> None:
    matrix, _ = system(network)
    values = scipy.linalg.eigvalsh(matrix)
    row = rows_of(network, "cg", "none")[0]
    assert row["condition"] == pytest.approx(values[-1] / values[0], rel=1e-6)
    assert row["preconditioned_condition"] == pytest.approx(row["condition"], rel=1e-6)
    assert row["effective_dimension"] == pytest.approx(np.sum((values - 1e-2) / values), rel=1e-6)
    pencil = scipy.linalg.eigh(matrix, np.diag(matrix.diagonal()), eigvals_only=True)
    row = rows_of(network, "cg", "jacobi")[0]
    assert row["preconditioned_smallest"] == pytest.approx(pencil[0], rel=1e-6)
    assert row["preconditioned_largest"] == pytest.approx(pencil[-1], rel=1e-6)
    assert row["preconditioned_condition"] == pytest.approx(pencil[-1] / pencil[0], rel=1e-6)


def test_a_path_leads_to_the_targets(network: Problem) -> None:
    rows = rows_of(network, "cg", "ekfac")
    path = [row for row in rows if math.isnan(row["target"])]
    steps = [row["step"] for row in path]
    assert steps == sorted(set(steps))
    assert steps[:10] == list(range(1, 11))[: len(steps)]
    assert path[-1]["error"] <= min(TARGETS)
    assert {row["step"] for row in reached(rows).values()} <= set(steps)
    assert all(row["setup_products"] == 0 < row["setup_work"] for row in rows)


def test_lissa_tells_what_it_chose_and_where_it_ended(network: Problem) -> None:
    end, *path = rows_of(network, "lissa", "ekfac")
    assert end["target"] == 0.1
    assert end["status"] == "finished"
    assert end["error"] <= 2 * 0.1
    assert end["batch_size"] in range(1, 61)
    assert end["step_size"] > 0
    assert end["planned_steps"] >= 1
    assert path[-1]["step"] == end["step"]
    assert path[-1]["work"] == end["work"] > end["setup_work"] > 0


def test_lissa_ends_at_its_limit_of_steps(network: Problem) -> None:
    end = rows_of(network, "lissa", "none", Preconditioning(target=0.01, max_steps=5))[0]
    assert (end["status"], end["step"]) == ("budget_spent", 5)


def test_what_a_bare_matrix_lacks_is_skipped() -> None:
    problem = dense_problem(random_psd_examples(30, 6, 1), damping=0.1)
    (row,) = rows_of(problem, "cg", "ekfac")
    assert row["status"] == "skipped"
    assert "layers" in row["reason"]
    assert math.isnan(row["step"])
    assert reached(rows_of(problem, "cg", "none"))[TARGETS[1]]["error"] <= TARGETS[1]


def test_every_method_has_its_plain_form() -> None:
    pieces = STUDY.pieces()
    assert [piece["preconditioner"] for piece in pieces if piece["method"] == "cg"] == list(PRECONDITIONERS)
    assert [piece["preconditioner"] for piece in pieces if piece["method"] == "lissa"] == list(OF_LISSA)
    assert PRECONDITIONERS[0] == OF_LISSA[0] == "none"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"targets": ()}, "targets"),
        ({"targets": (2.0,)}, "target"),
        ({"target": 0.0}, "target"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Preconditioning(**settings)


def test_indefinite_curvature_is_refused() -> None:
    problem = problems.load(
        "image_classifier", width=2, training_size=60, epochs=5, curvature="hessian", damping=3.0
    )
    with pytest.raises(ValueError, match="ggn"):
        STUDY.prepare(problem, lambda what, share: None)
