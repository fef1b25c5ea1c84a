"""The exact mean-square threshold against brute force: averages over every possible mini-batch."""

import itertools

import pytest
import torch

from solvers.theory import mean_square_threshold, second_moment_step
from tests.conftest import random_psd_examples


def all_batches(per_example: torch.Tensor, batch_size: int) -> torch.Tensor:
    indices = torch.tensor(list(itertools.product(range(len(per_example)), repeat=batch_size)))
    return per_example[indices].mean(dim=1)


def brute_force_step(
    s: torch.Tensor, batches: torch.Tensor, damping: float, step_size: float
) -> torch.Tensor:
    """E[(I − η(H̃ + λ)) S (I − η(H̃ + λ))] over equally likely mini-batches."""
    identity = torch.eye(s.shape[0], dtype=s.dtype)
    shrink = identity - step_size * (batches + damping * identity)
    return (shrink @ s @ shrink).mean(dim=0)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_second_moment_step_is_the_average_over_all_batches(batch_size: int, heavy_tailed: bool) -> None:
    per_example = random_psd_examples(4, 3, seed=7, heavy_tailed=heavy_tailed)
    s = random_psd_examples(5, 3, seed=8).mean(dim=0)
    expected = brute_force_step(s, all_batches(per_example, batch_size), 0.2, 0.4)
    torch.testing.assert_close(second_moment_step(s, per_example, 0.2, batch_size, 0.4), expected)


@pytest.mark.parametrize("seed", range(8))
def test_the_recursion_turns_from_decay_to_growth_exactly_at_the_threshold(seed: int) -> None:
    batch_size = 1 + seed % 3
    per_example = random_psd_examples(5, 2 + seed % 4, seed=seed, heavy_tailed=seed % 2 == 0)
    damping = 10.0 ** -(seed % 3 + 1)
    batches = all_batches(per_example, batch_size)
    threshold = mean_square_threshold(per_example, damping, batch_size)
    for factor, grows in ((0.99, False), (1.01, True)):
        s = torch.eye(per_example.shape[1], dtype=torch.float64)
        growth = 1.0
        for _ in range(2000):
            s = brute_force_step(s, batches, damping, factor * threshold)
            growth = float(s.trace())
            s = s / growth
        assert (growth > 1) is grows


@pytest.mark.parametrize("size", [8, 20])
def test_matrix_free_and_dense_spectra_agree(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    per_example = random_psd_examples(30, size, seed=size, heavy_tailed=True)
    monkeypatch.setattr("solvers.theory._DENSE_LIMIT", 10**6)
    dense = mean_square_threshold(per_example, 0.01, 4)
    monkeypatch.setattr("solvers.theory._DENSE_LIMIT", 0)
    assert mean_square_threshold(per_example, 0.01, 4) == pytest.approx(dense, rel=1e-8)


def test_one_dimension_in_closed_form() -> None:
    """Scalars: E(1 − η(h + λ))² < 1 iff η < 2 E(h + λ)/E(h + λ)²."""
    values = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    expected = 2 * float((values + 0.1).mean() / (values + 0.1).square().mean())
    assert mean_square_threshold(values.reshape(3, 1, 1), 0.1, 1) == pytest.approx(expected, rel=1e-12)


def test_a_large_batch_brings_back_the_edge_of_the_mean() -> None:
    per_example = random_psd_examples(20, 4, seed=3)
    edge = 2 / (float(torch.linalg.eigvalsh(per_example.mean(dim=0))[-1]) + 0.1)
    assert mean_square_threshold(per_example, 0.1, 10**8) == pytest.approx(edge, rel=1e-5)
