"""The linear datamodelling score, against SciPy's Spearman and losses that are known to be linear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from problems.datamodels import (
    SubsetLosses,
    linear_datamodelling_score,
    predicted_losses,
    random_subsets,
    reliability,
    subset_losses,
)
from problems.influence import influence_scores
from tests.problems.test_leave_one_out import ridge


def linear(noise: float = 0.0, seeds: int = 1) -> tuple[Tensor, SubsetLosses]:
    """Influences (30, 6), and losses of 40 halves that are exactly what they foretell, up to noise."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    subsets = random_subsets(30, 40, seed=2)
    exact = 2 + torch.stack([scores[subset].sum(dim=0) for subset in subsets]) / 30
    drawn = torch.randn(seeds, 40, 6, generator=generator, dtype=torch.float64)
    return scores, SubsetLosses(subsets, exact + noise * drawn, torch.ones(seeds, 40, dtype=torch.bool), 0.0)


def test_perfect_scores_have_1_and_their_opposites_minus_1() -> None:
    scores, truth = linear()
    for sign in (1, -1):
        found = linear_datamodelling_score(sign * scores, truth, resamples=50)
        assert found.score.value == pytest.approx(sign)
        assert (found.score.low, found.score.high) == pytest.approx((sign, sign))
        np.testing.assert_allclose(found.per_query, sign)


def test_random_scores_have_an_interval_about_0() -> None:
    _, truth = linear()
    other = torch.randn(30, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = linear_datamodelling_score(other, truth).score
    assert found.low < 0 < found.high
    assert abs(found.value) < 0.3


def test_it_is_scipys_spearman_of_sums() -> None:
    scores, truth = linear(noise=0.3, seeds=3)
    found = linear_datamodelling_score(scores, truth, resamples=20)
    sums = np.array([scores.numpy()[subset.numpy()].sum(axis=0) for subset in truth.subsets])
    losses = truth.losses.numpy().mean(axis=0)
    wanted = [spearmanr(sums[:, query], losses[:, query]).statistic for query in range(6)]
    np.testing.assert_allclose(found.per_query, wanted)
    assert found.score.value == pytest.approx(np.mean(wanted))
    assert found.score.low < found.score.value < found.score.high
    assert len(found.drawn) == 20


def test_by_hand() -> None:
    """Three subsets of three examples, ranked 1, 2, 3 and 1, 3, 2: ρ = 1 − 6 · 2/(3 · 8) = ½."""
    subsets = torch.tensor([[True, False, False], [False, True, False], [False, False, True]])
    losses = torch.tensor([[[0.1], [0.9], [0.5]]], dtype=torch.float64)
    truth = SubsetLosses(subsets, losses, torch.ones(1, 3, dtype=torch.bool), 0.0)
    scores = torch.tensor([[1.0], [2.0], [3.0]])
    assert linear_datamodelling_score(scores, truth, resamples=5).score.value == pytest.approx(0.5)
    torch.testing.assert_close(predicted_losses(scores, subsets), scores / 3)


def test_draws_of_two_solvers_are_paired() -> None:
    """Of scores and the same by an increasing function of the sums all resamples are alike."""
    scores, truth = linear(noise=0.5)
    first = linear_datamodelling_score(scores, truth, seed=4).drawn
    np.testing.assert_allclose(linear_datamodelling_score(7 * scores, truth, seed=4).drawn, first)
    assert not np.allclose(linear_datamodelling_score(scores, truth, seed=5).drawn, first)


def test_reliability_is_1_without_noise_and_falls_with_it() -> None:
    assert reliability(linear()[1]) is None
    sure, noisy = (reliability(linear(noise, seeds=2)[1]) for noise in (0.0, 1.0))
    assert sure is not None
    assert noisy is not None
    assert sure.score.value == pytest.approx(1)
    assert noisy.score.value < 0.7
    truth = linear(1.0, seeds=2)[1]
    wanted = [spearmanr(*truth.losses[:, :, query].numpy()).statistic for query in range(6)]
    np.testing.assert_allclose(noisy.per_query, wanted)


def test_subsets_have_their_share_and_differ() -> None:
    subsets = random_subsets(20, 50, share=0.3, seed=1)
    assert subsets.sum(dim=1).tolist() == [6] * 50
    assert len(subsets.unique(dim=0)) > 45
    assert torch.equal(subsets, random_subsets(20, 50, share=0.3, seed=1))
    # Every example is drawn about as often: 50 times 0.3, with a deviation of √(50 · 0.3 · 0.7) = 3.2.
    assert (subsets.sum(dim=0) - 15).abs().max() < 13


def test_of_linear_regression_influence_has_a_high_score() -> None:
    problem, _, _ = ridge(150)
    truth = subset_losses(problem, random_subsets(150, 24, share=0.9), seeds=(0, 1), workers=1)
    assert truth.losses.shape == (2, 24, 4)
    assert torch.equal(truth.losses[0], truth.losses[1])
    assert truth.converged.all()
    assert problem.task is not None
    assert problem.reference is not None
    scores = influence_scores(problem.task, problem.reference)
    assert linear_datamodelling_score(scores, truth).score.value > 0.97
    assert linear_datamodelling_score(-scores, truth).score.value < -0.97


def test_what_cannot_be_asked() -> None:
    problem, _, _ = ridge(10)
    with pytest.raises(ValueError, match="num_subsets is 2; a rank correlation takes at least 3"):
        random_subsets(10, 2)
    for share in (0.0, 1.0, -1, 2):
        with pytest.raises(ValueError, match=f"share is {share}; it must be between 0 and 1"):
            random_subsets(10, 5, share=share)
    with pytest.raises(ValueError, match=r"share is 0.01, which of 10 examples keeps 0"):
        random_subsets(10, 5, share=0.01)
    with pytest.raises(ValueError, match="a column for each of the 10 training examples"):
        subset_losses(problem, torch.ones(5, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"there are 2 subsets; take at least 3"):
        subset_losses(problem, torch.ones(2, 10, dtype=torch.bool))
    empty = torch.ones(3, 10, dtype=torch.bool)
    empty[1] = False
    with pytest.raises(ValueError, match="a subset is empty"):
        subset_losses(problem, empty)
