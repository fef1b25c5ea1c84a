"""The mean of the examples' inverses, against explicit inverses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from problems import NetworkOperator
from solvers import solve
from solvers.datainf import DataInf
from solvers.harmonic_mean import HarmonicMean
from tests.conftest import dense_problem, random_psd_examples
from tests.solvers.test_kfac import COUNT, problem_of


def mean_inverse(matrices: Tensor, damping: float) -> Tensor:
    identity = torch.eye(matrices.shape[1], dtype=matrices.dtype)
    return torch.linalg.inv(matrices + damping * identity).mean(dim=0)


def close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 6),
    size=st.integers(1, 6),
    rank=st.integers(1, 3),
    seed=st.integers(0, 99),
    exponent=st.floats(-4, 1),
)
def test_is_the_mean_of_explicit_inverses(
    count: int, size: int, rank: int, seed: int, exponent: float
) -> None:
    matrices = random_psd_examples(count, size, seed, rank=rank, heavy_tailed=True)
    problem = dense_problem(matrices, 10**exponent)
    close(solve(problem, HarmonicMean()).x, mean_inverse(matrices, problem.damping) @ problem.columns())
    # Operator convexity: never below the inverse of the mean, in any direction, and within 1/λ.
    inverse = mean_inverse(matrices, problem.damping)
    exact = mean_inverse(matrices.mean(dim=0)[None], problem.damping)
    assert float(torch.linalg.eigvalsh(inverse - exact)[0]) >= -1e-9 / problem.damping
    assert float(torch.linalg.eigvalsh(inverse)[-1]) <= (1 + 1e-9) / problem.damping
    # Hence its bound, which is that of b/λ.
    assert problem.reference is not None
    assert problem.eigenvalues is not None
    largest = float(problem.eigenvalues[-1])
    bound = largest / (largest + problem.damping) / problem.damping * problem.columns().norm(dim=0)
    x = solve(problem, HarmonicMean()).x
    assert x is not None
    assert ((x - problem.reference).norm(dim=0) <= bound * (1 + 1e-9)).all()


def test_exact_where_all_examples_are_equal() -> None:
    matrices = random_psd_examples(1, 5, seed=0, rank=2).expand(4, 5, 5).clone()
    solution = solve(dense_problem(matrices, 0.01), HarmonicMean())
    assert solution.error is not None
    assert float(solution.error.max()) <= 1e-11


@pytest.mark.parametrize("curvature", ["ggn", "empirical_fisher"])
@pytest.mark.parametrize(
    ("model", "loss"),
    [
        ("mlp", "cross_entropy"),
        ("images", "mse"),
        ("language_model", "next_token_cross_entropy"),
    ],
)
def test_a_networks_examples(model: str, loss: str, curvature: str) -> None:
    problem = problem_of(model, loss, curvature=curvature)
    operator = problem.operator
    assert isinstance(operator, NetworkOperator)
    each = torch.stack([operator.subset(torch.tensor([i])).dense() for i in range(COUNT)])
    expected = mean_inverse(each, problem.damping) @ problem.columns()
    close(solve(problem, HarmonicMean()).x, expected)
    if curvature == "ggn":
        # One example's rows at a time.
        operator.micro_batches.max_bytes = 4 * operator.root_rank * problem.size * 8
        close(solve(problem, HarmonicMean()).x, expected)


def test_on_one_module_of_an_empirical_fisher_matrix_it_is_datainf() -> None:
    problem = problem_of("mlp", "cross_entropy", curvature="empirical_fisher", parameters="^0")
    ours, theirs = solve(problem, HarmonicMean()).x, solve(problem, DataInf()).x
    assert theirs is not None
    close(ours, theirs)


def test_work_is_the_rows_and_the_algebra() -> None:
    problem = problem_of("mlp", "cross_entropy")
    forward, size = problem.operator.work.forward_multiplications, problem.size
    algebra = COUNT * (9 * size / 2 + 27 / 6 + 2 * 3 * size * 2)
    solution = solve(problem, HarmonicMean())
    assert solution.setup_work == 0
    assert solution.work == ((1 + 2 * 3) * COUNT + -(-algebra // forward)) / (3 * COUNT)


def test_bad_input() -> None:
    hessian = problem_of("mlp", "cross_entropy", curvature="hessian")
    assert "needs a root" in str(HarmonicMean().skip(hessian))
    assert "3 rows of p = 43" in str(HarmonicMean(memory_gib=1e-9).skip(problem_of("mlp", "cross_entropy")))
    with pytest.raises(ValueError, match="memory_gib is -1"):
        HarmonicMean(memory_gib=-1)
