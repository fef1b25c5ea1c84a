"""H = RᵀR: the root's rows, its products and what is made of them, against explicit Jacobians."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from problems import EmpiricalFisher, GaussNewton, Hessian, MonteCarloFisher, NetworkOperator
from problems.operators.dense import DenseOperator
from problems.operators.fisher import Curvature
from problems.work import BACKWARD_COST, FORWARD_COST
from tests.problems.operators.small_networks import small
from tests.problems.operators.test_curvatures import CASES, close, drawn_labels

ROOTED = [GaussNewton(), EmpiricalFisher(), MonteCarloFisher(num_samples=2)]


def rows(operator: NetworkOperator | DenseOperator) -> Tensor:
    """R, shape (rows, p)."""
    return torch.cat([block.flatten(0, 1) for block in operator.root_blocks()]) / operator.num_draws**0.5


@pytest.mark.parametrize("curvature", ROOTED, ids=str)
@pytest.mark.parametrize(("model", "loss"), CASES)
def test_rows_make_h(model: str, loss: str, curvature: Curvature) -> None:
    network = small(model, loss)
    operator = network.operator(curvature)
    root = rows(operator)
    if isinstance(curvature, GaussNewton):
        expected = network.gauss_newton()
    elif isinstance(curvature, EmpiricalFisher):
        expected = network.fisher(network.labels)
    else:
        drawn = drawn_labels(network, operator)
        expected = torch.stack([network.fisher(labels) for labels in drawn]).mean(dim=0)
        expected = expected / operator.loss.power(network.outputs(network.flat))
    close(root.T @ root, expected)
    close(operator.diagonal(), expected.diagonal())


@pytest.mark.parametrize("curvature", ROOTED, ids=str)
@pytest.mark.parametrize(("model", "loss"), CASES)
def test_products_with_the_root_are_those_of_its_rows(model: str, loss: str, curvature: Curvature) -> None:
    operator = small(model, loss).operator(curvature)
    root = rows(operator)
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(operator.shape[0], 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(len(root), 2, generator=generator, dtype=torch.float64)
    close(operator.root_product(vectors), root @ vectors)
    close(operator.root_transpose_product(weights), root.T @ weights)


@pytest.mark.parametrize("model", ["mlp", "convolutional"])
def test_blocks_of_any_size_hold_the_same_rows(model: str) -> None:
    network = small(model, "cross_entropy")
    whole = rows(network.operator(GaussNewton()))
    operator = network.operator(GaussNewton())
    operator.micro_batches.max_bytes = 4 * operator.root_rank * operator.shape[0] * 8
    assert len(list(operator.root_blocks())) > 1
    close(rows(operator), whole)


def test_a_mini_batch_has_the_rows_of_its_examples() -> None:
    operator = small("mlp", "cross_entropy").operator(GaussNewton())
    blocks = torch.cat(list(operator.root_blocks()))
    indices = torch.tensor([3, 3, 7])
    close(torch.cat(list(operator.subset(indices).root_blocks())), blocks[indices])


def test_work_is_counted() -> None:
    operator = small("mlp", "cross_entropy").operator(GaussNewton())
    number, rank = operator.num_examples, operator.root_rank
    for call, columns, cost in (
        (lambda: list(operator.root_blocks()), rank, BACKWARD_COST),
        (lambda: operator.root_product(torch.zeros(operator.shape[0], 3).double()), 3, FORWARD_COST),
        (lambda: operator.root_transpose_product(torch.zeros(number * rank, 2).double()), 2, BACKWARD_COST),
    ):
        before = operator.work.passes
        call()
        assert operator.work.passes - before == (cost.shared + columns * cost.per_column) * number


def test_matrix_algebra_counts_by_the_networks_own_multiplications() -> None:
    operator = small("mlp", "cross_entropy").operator(GaussNewton())
    # 4·5 + 5·3 multiplications of an example's forward pass.
    assert operator.work.forward_multiplications == 35
    before = operator.work.passes
    operator.work.count_algebra(351)
    assert operator.work.passes - before == 11


def test_the_hessian_has_no_root_but_a_diagonal() -> None:
    network = small("mlp", "cross_entropy")
    operator = network.operator(Hessian())
    assert operator.root_rank == 0
    for call in (
        lambda: list(operator.root_blocks()),
        lambda: operator.root_product(torch.zeros(operator.shape[0], 1).double()),
        lambda: operator.root_transpose_product(torch.zeros(1, 1).double()),
    ):
        with pytest.raises(ValueError, match="root"):
            call()
    close(operator.diagonal(), network.hessian().diagonal())


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 4), size=st.integers(1, 5), rank=st.integers(1, 5), seed=st.integers(0, 99))
def test_roots_of_explicit_matrices(count: int, size: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(count, rank, size, generator=generator, dtype=torch.float64)
    operator = DenseOperator(factors.mT @ factors)
    assert operator.root_rank <= min(rank, size)
    (blocks,) = operator.root_blocks()
    torch.testing.assert_close(blocks.mT @ blocks, factors.mT @ factors, rtol=1e-9, atol=1e-9)
    root = rows(operator)
    vectors = torch.randn(size, 2, generator=generator, dtype=torch.float64)
    close(operator.root_product(vectors), root @ vectors)
    close(operator.root_transpose_product(root @ vectors), root.T @ (root @ vectors))
    torch.testing.assert_close(operator.diagonal(), operator.dense().diagonal(), rtol=1e-9, atol=1e-9)


def test_explicit_matrices_that_are_indefinite_have_no_root() -> None:
    operator = DenseOperator(torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64))[None])
    assert operator.root_rank == 0
    with pytest.raises(ValueError, match="negative eigenvalue"):
        list(operator.root_blocks())
    close(operator.diagonal(), torch.tensor([1.0, -0.5], dtype=torch.float64))


@pytest.mark.parametrize("model", ["mlp", "language_model"])
def test_mean_square_with_a_matrix_between(model: str) -> None:
    loss = "cross_entropy" if model == "mlp" else "token_cross_entropy"
    operator = small(model, loss).operator(GaussNewton())
    size = operator.shape[0]
    generator = torch.Generator().manual_seed(5)
    middle = torch.randn(size, size, generator=generator, dtype=torch.float64)
    vectors = torch.randn(size, 2, generator=generator, dtype=torch.float64)
    each = [operator.subset(torch.tensor([i])).dense() for i in range(operator.num_draws)]
    expected = torch.stack([h @ (middle @ (h @ vectors)) for h in each]).mean(dim=0)
    close(operator.mean_square(vectors, lambda v: middle @ v), expected)
    dense = DenseOperator(torch.stack(each))
    close(dense.mean_square(vectors, lambda v: middle @ v), expected)
    close(dense.mean_square(vectors[:, 0], lambda v: middle @ v), expected[:, 0])
