import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from problems import DenseOperator
from tests.conftest import random_psd_examples


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 10_000))
def test_product_equals_numpy(num_examples: int, size: int, columns: int, seed: int) -> None:
    per_example = random_psd_examples(num_examples, size, seed)
    vectors = torch.randn(size, columns, dtype=torch.float64)
    operator = DenseOperator(per_example)
    expected = np.mean(per_example.numpy(), axis=0) @ vectors.numpy()
    np.testing.assert_allclose((operator @ vectors).numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose((operator @ vectors[:, 0]).numpy(), expected[:, 0], rtol=1e-12, atol=1e-12)


def test_second_moment_is_the_mean_over_all_batches() -> None:
    per_example = random_psd_examples(3, 4, seed=1, heavy_tailed=True)
    operator = DenseOperator(per_example)
    pairs = [operator.subset(torch.tensor([i, j])).matrix for i in range(3) for j in range(3)]
    expected = torch.stack([pair @ pair for pair in pairs]).mean(dim=0)
    torch.testing.assert_close(operator.second_moment(2), expected)


def test_mean_over_all_batches_is_h() -> None:
    operator = DenseOperator(random_psd_examples(3, 4, seed=2))
    pairs = [operator.subset(torch.tensor([i, j])).dense() for i in range(3) for j in range(3)]
    torch.testing.assert_close(torch.stack(pairs).mean(dim=0), operator.dense())


def test_minibatch_draws_with_replacement_uniformly() -> None:
    # h_i = (i-th power of 4)·1: the mini-batch's value tells how often each example was drawn.
    operator = DenseOperator(torch.tensor([1.0, 1e3, 1e6], dtype=torch.float64).reshape(3, 1, 1))
    generator = torch.Generator().manual_seed(3)
    draws = 4000
    counts = torch.zeros(3)
    repeated = 0
    for _ in range(draws):
        total = round(float(operator.minibatch(2, generator).matrix) * 2)
        drawn = [total % 10, total // 1000 % 10, total // 10**6]
        counts += torch.tensor(drawn)
        repeated += 2 in drawn
    assert counts.sum() == 2 * draws
    # Binomial with p = 1/3: five standard deviations.
    assert (counts / (2 * draws) - 1 / 3).abs().max() < 5 * (2 / 9 / (2 * draws)) ** 0.5
    assert abs(repeated / draws - 1 / 3) < 5 * (2 / 9 / draws) ** 0.5


def test_work_counts_gradient_equivalents_also_on_minibatches_and_copies() -> None:
    operator = DenseOperator(random_psd_examples(10, 3, seed=0))
    vectors = torch.ones(3, 2, dtype=torch.float64)
    _ = operator @ vectors
    assert operator.work.total == pytest.approx((1 + 4 * 2) / 3)
    _ = operator.minibatch(5, torch.Generator()) @ vectors[:, 0]
    assert operator.work.total == pytest.approx(3 + 5 / 3 / 2)
    _ = operator.to(torch.float32).dense()
    assert operator.work.total == pytest.approx(3 + 5 / 6 + (1 + 4 * 3) / 3)


def test_psd_is_told_from_the_matrix() -> None:
    assert DenseOperator(random_psd_examples(4, 6, seed=0)).is_psd
    assert not DenseOperator.from_matrix(torch.diag(torch.tensor([1.0, -1e-3]))).is_psd


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.ones(4, dtype=torch.float64), r"shape \(4,\); H is 3 × 3"),
        (torch.ones(3, 2, 1, dtype=torch.float64), r"takes \(3,\) or \(3, k\)"),
        (torch.ones(3), "torch.float32, H is torch.float64"),
        (torch.ones(3, dtype=torch.float64, device="meta"), "on meta, H is on cpu"),
    ],
)
def test_wrong_vectors_are_refused(vectors: torch.Tensor, message: str) -> None:
    operator = DenseOperator(random_psd_examples(2, 3, seed=0))
    with pytest.raises(ValueError, match=message):
        _ = operator @ vectors


def test_wrong_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="not symmetric"):
        DenseOperator(torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]))
    with pytest.raises(ValueError, match="NaN or inf"):
        DenseOperator(torch.full((1, 2, 2), float("nan")))
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        DenseOperator(torch.eye(2))


def test_a_minibatch_has_at_least_one_example() -> None:
    operator = DenseOperator(random_psd_examples(2, 3, seed=0))
    with pytest.raises(ValueError, match="batch_size is 0"):
        operator.minibatch(0, torch.Generator())
