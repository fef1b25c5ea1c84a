"""The benchmark against counterparts: that both sides of a pair solve the same, and how they are compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import problems
from bench.suite import bench_counterparts as suite
from bench.suite.counterparts import TOLERANCES
from problems import Problem


@pytest.fixture(scope="module")
def problem() -> Problem:
    """With more dimensions than Lanczos's steps, and fewer examples than both."""
    settings = {"dimension": 70, "num_examples": 20, "damping": 0.05}
    return problems.load("quadratic", device=torch.device("cpu"), dtype=torch.float64, seed=0, **settings)


@pytest.mark.parametrize("name", list(suite.pairs()))
def test_a_counterpart_solves_what_ours_solves(problem: Problem, name: str) -> None:
    pair = suite.pairs()[name]
    suite.check_agreement(pair, problem, slice(1, 4))
    if name != "lanczos":  # whose answer is that of a low rank
        reference, b = problem.reference, problem.columns(slice(1, 4))
        assert reference is not None
        for counterpart in pair.counterparts.values():
            x = counterpart(problem, slice(1, 4))
            assert ((x - reference[:, 1:4]).norm(dim=0) <= pair.apart * b.norm(dim=0) / problem.damping).all()


def test_eigsh_and_lanczos_are_of_the_rank_they_are_asked_for(problem: Problem) -> None:
    eigenvalues, vectors = problem.ground_truth.eigen
    values = eigenvalues[-suite.LANCZOS_RANK :]
    leading, b = vectors[:, -suite.LANCZOS_RANK :], problem.columns()
    low_rank = (
        b - leading @ ((values / (values + problem.damping))[:, None] * (leading.T @ b))
    ) / problem.damping
    for answer in (suite.pairs()["lanczos"].ours, suite.pairs()["lanczos"].counterparts["eigsh"]):
        torch.testing.assert_close(answer(problem, slice(None)), low_rank, rtol=0, atol=1e-7)


def test_an_answer_to_something_else_is_found(problem: Problem) -> None:
    pair = suite.pairs()["cg"]
    right = pair.counterparts["SciPy alone"]
    wrong = replace(pair, counterparts={"wrong": lambda p, columns: 1.01 * right(p, columns)})
    with pytest.raises(AssertionError, match="wrong differ"):
        suite.check_agreement(wrong, problem, slice(0, 1))


def test_products_are_counted_by_calls_and_by_columns(problem: Problem) -> None:
    def entry(problem: Problem, columns: slice) -> torch.Tensor:
        problem.operator @ problem.columns()
        return problem.operator.root_transpose_product(
            problem.operator.root_product(problem.columns()[:, :1])
        )

    # A second time too: counting leaves no trace.
    for _ in range(2):
        _, products, columns = suite.counted(entry, problem, slice(None))
        assert (products, columns) == (3, 4 + 1 + 1)


def test_settings_of_scipy_are_the_loosest_that_keep_the_tolerance(problem: Problem) -> None:
    x = suite.pairs()["minres"].counterparts["SciPy alone"](problem, slice(0, 4))
    assert problem.residual(x, problem.columns()).max() <= TOLERANCES[torch.float64]


def test_the_median_of_the_ratios_counts() -> None:
    seconds = np.array([[1.0, 2.0, 4.0], [1.0, 1.0, 2.0], [9.0, 1.0, 3.0]])
    first, second = suite.compare(["a", "b"], seconds, [(5, 6), (7, 8), (1, 2)])
    assert first["name"] == "a"
    assert (first["ratio"], first["quartile_low"], first["quartile_high"]) == (1, 0.75, 5)
    assert (first["seconds"], first["products"], first["product_columns"]) == (1, 7, 8)
    assert (second["ratio"], second["seconds"], second["products"]) == (0.5, 3, 1)
