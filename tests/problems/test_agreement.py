"""Agreement of scores against SciPy, resamples written out, and simulated coverage."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from problems import agreement
from problems.agreement import (
    Agreement,
    over_columns,
    pearson,
    pearson_per_column,
    pearson_resampled,
    spearman,
    spearman_per_column,
    spearman_resampled,
    top_overlap,
    top_overlap_per_column,
    top_overlap_resampled,
)

TOP = 4


def overlap_of_four(estimate: np.ndarray, truth: np.ndarray, **settings: int) -> Agreement:
    return top_overlap(estimate, truth, TOP, **settings)


def shared_of_four(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Rows by their place: sorted() keeps the first of equals first."""
    first, second = (sorted(range(len(x)), key=lambda row: -x[row])[:TOP] for x in (estimate, truth))
    return len(set(first) & set(second)) / TOP


def scipy_pearson(estimate: np.ndarray, truth: np.ndarray) -> float:
    return float(stats.pearsonr(estimate, truth).statistic)


def scipy_spearman(estimate: np.ndarray, truth: np.ndarray) -> float:
    return float(stats.spearmanr(estimate, truth).statistic)


MEASURES = [
    pytest.param(pearson, scipy_pearson, id="pearson"),
    pytest.param(spearman, scipy_spearman, id="spearman"),
    pytest.param(overlap_of_four, shared_of_four, id="top_overlap"),
]
Measure = Callable[..., Agreement]
Oracle = Callable[[np.ndarray, np.ndarray], float]


def scores(*shape: int, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Two correlated arrays."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=shape)
    estimate = truth + generator.normal(size=shape)
    return (estimate.round(), truth.round()) if ties else (estimate, truth)


@pytest.mark.parametrize(("measure", "oracle"), MEASURES)
@pytest.mark.parametrize("ties", [False, True])
def test_values_are_means_over_columns_and_seeds(measure: Measure, oracle: Oracle, ties: bool) -> None:
    estimate, truth = scores(2, 23, 3, ties=ties)
    expected = [[oracle(estimate[s, :, q], truth[s, :, q]) for q in range(3)] for s in range(2)]
    assert measure(estimate, truth, resamples=2).value == pytest.approx(np.mean(expected), rel=1e-12)
    assert measure(estimate[0], truth[0], resamples=2).value == pytest.approx(np.mean(expected[0]), rel=1e-12)
    one = measure(estimate[1, :, 2], truth[1, :, 2], resamples=2).value
    assert one == pytest.approx(expected[1][2], rel=1e-12)
    against_one_truth = np.mean(
        [oracle(estimate[s, :, q], truth[0, :, q]) for s in range(2) for q in range(3)]
    )
    assert measure(estimate, truth[0], resamples=2).value == pytest.approx(against_one_truth, rel=1e-12)


@pytest.mark.parametrize(("measure", "oracle"), MEASURES)
@pytest.mark.parametrize("ties", [False, True])
def test_intervals_are_quantiles_of_resampled_rows(
    measure: Measure, oracle: Oracle, ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measure of the resamples written out, each row as often as it was drawn, against SciPy's."""
    estimate, truth = scores(2, 15, 2, ties=ties, seed=3)
    generator = np.random.default_rng(4)
    rows = np.sort(generator.integers(15, size=(40, 15)), axis=1)
    times = np.stack([np.bincount(drawn, minlength=15) for drawn in rows], axis=1).astype(float)
    seeds: list[np.ndarray] = []

    class Drawn(np.random.Generator):
        def integers(self, *arguments: Any, **keywords: Any) -> Any:
            seeds.append(super().integers(*arguments, **keywords))
            return seeds[-1]

    monkeypatch.setattr(agreement, "_resamples", lambda *_: iter([times[:, :25], times[:, 25:]]))
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Drawn(np.random.PCG64(seed)))
    found = measure(estimate, truth, seed=7, resamples=40, level=0.8)
    chosen = np.concatenate(seeds, axis=2)[:, 0].T
    values = [
        np.mean([oracle(estimate[s, drawn, q], truth[s, drawn, q]) for s in some for q in range(2)])
        for drawn, some in zip(rows, chosen, strict=True)
    ]
    assert {tuple(sorted(some)) for some in chosen.tolist()} == {(0, 0), (0, 1), (1, 1)}
    expected = np.quantile(values, [0.1, 0.9])
    assert [found.low, found.high] == pytest.approx(expected.tolist(), rel=1e-12)


def test_resamples_draw_all_rows_alike() -> None:
    times = np.concatenate(list(agreement._resamples(5000, 20, np.random.default_rng(0))), axis=1)
    assert times.shape == (5000, 20)
    assert (times.sum(axis=0) == 5000).all()
    # Binomial of 5000 · 20 draws at 1/5000: mean 20, standard deviation 4.5 of the sum of each row.
    assert times.sum(axis=1).std() == pytest.approx(20**0.5, rel=0.1)
    assert len({tuple(column) for column in times.T}) == 20


@pytest.mark.parametrize("measure", [pearson, spearman])
def test_intervals_cover_the_correlation_of_a_normal_distribution(measure: Measure) -> None:
    """Of 200 intervals of 90 % about 180 hold it, give or take 4.2; the bootstrap's bias comes to that."""
    rho = 0.6
    expected = rho if measure is pearson else 6 / np.pi * np.arcsin(rho / 2)
    generator = np.random.default_rng(5)
    held = 0
    for trial in range(200):
        x, noise = generator.normal(size=(2, 60))
        found = measure(x, rho * x + (1 - rho**2) ** 0.5 * noise, seed=trial, resamples=200, level=0.9)
        held += found.low <= expected <= found.high
    assert 160 <= held <= 195


def test_intervals_show_what_seeds_add() -> None:
    """A seed whose estimate is the truth, one of pure noise: resamples of seeds lie at 0, ½ and 1."""
    truth = scores(400)[1]
    estimate = np.stack([truth, np.random.default_rng(9).normal(size=400)])[:, :, None]
    found = pearson(estimate, np.stack([truth, truth])[:, :, None])
    assert found.value == pytest.approx(0.5, abs=0.05)
    assert found.low == pytest.approx(0, abs=0.15)
    assert found.high == pytest.approx(1)


finite = st.floats(-1e3, 1e3, width=32)


@given(arrays(np.float64, (2, 9), elements=finite), st.floats(0.01, 100), st.floats(-100, 100), st.booleans())
@settings(max_examples=40, deadline=None)
def test_laws(pair: np.ndarray, scale: float, shift: float, negate: bool) -> None:
    estimate, truth = pair.round(1)
    sign = -1 if negate else 1
    moved = scale * estimate + shift
    for measure, other in ((pearson, sign * moved), (spearman, sign * np.exp(estimate / 1e3))):
        found = measure(estimate, truth, resamples=20)
        same = measure(other, truth, resamples=20)
        if np.ptp(estimate) == 0 or np.ptp(truth) == 0:
            assert np.isnan([found.value, found.low, found.high, same.value]).all()
            continue
        # Of nearly constant scores no resample need vary.
        assert np.isnan(found.low) == np.isnan(found.high)
        assert np.isnan(found.low) or -1 <= found.low <= found.high <= 1
        assert same.value == pytest.approx(sign * found.value, abs=1e-6)
        assert measure(truth, estimate, resamples=2).value == pytest.approx(found.value, abs=1e-12)
    same = top_overlap(moved, moved, 3, resamples=20)
    assert np.isnan(same.value) or (same.value, same.low, same.high) == (1, 1, 1)


def test_columns_have_intervals_of_their_own() -> None:
    estimate, truth = scores(2, 30, 3)
    for each, alone in (
        (pearson_per_column, pearson),
        (spearman_per_column, spearman),
        (lambda *a: top_overlap_per_column(*a, 5), lambda *a: top_overlap(*a, 5)),  # type: ignore[call-arg]
    ):
        one_by_one = [alone(estimate[:, :, [q]], truth[:, :, [q]]) for q in range(3)]
        assert each(estimate, truth) == one_by_one


def test_what_does_not_vary_has_no_correlation() -> None:
    estimate, truth = scores(20, 4)
    estimate[:, 1] = 1e300
    truth[3, 2] = np.nan
    estimate[5, 3] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for columns in (
            pearson_per_column(estimate, truth),
            spearman_per_column(estimate, truth),
            top_overlap_per_column(estimate, truth, 3),
        ):
            assert np.isfinite([columns[0].value, columns[0].low, columns[0].high]).all()
            assert np.isnan([[each.value, each.low, each.high] for each in columns[1:]]).all()
        whole = pearson(estimate, truth)
    assert np.isnan([whole.value, whole.low, whole.high]).all()


def test_resamples_in_which_nothing_varies_are_left_out() -> None:
    """Of three rows all drawn alike in 1 of 9; the others lie on two points, or on all three."""
    found = pearson(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.4]), resamples=500, level=0.9)
    assert found.value == pytest.approx(9 / 84**0.5)  # deviations (−1, 0, 1) and (−4, −1, 5)/3
    assert 0.9 < found.low <= found.high <= 1


def test_large_and_far_numbers_are_told_apart() -> None:
    estimate, truth = scores(50)
    expected = pearson(estimate, truth)
    for scale, shift in ((1e-200, 0.0), (1e200, 0.0), (1.0, 1e6)):
        assert pearson(estimate * scale + shift, truth).value == pytest.approx(expected.value, rel=1e-6)


def test_an_outlier_leaves_the_resamples_without_it_exact() -> None:
    """Resamples that lack it have the correlation of the rest, which is −1; those with it about 1."""
    x = np.append(np.arange(10.0), 1e9)
    found = pearson(x, np.append(-np.arange(10.0), 1e9), resamples=300)
    assert found.low == pytest.approx(-1, abs=1e-9)
    assert found.high == pytest.approx(1, abs=1e-9)


def test_a_seed_fixes_the_interval_and_tensors_are_taken() -> None:
    estimate, truth = scores(40, 2)
    found = spearman(estimate, truth, seed=1)
    assert spearman(torch.from_numpy(estimate), torch.from_numpy(truth), seed=1) == found
    assert spearman(estimate, truth, seed=2).low != found.low
    assert pearson(estimate.astype(np.float32), truth).value == pytest.approx(pearson(estimate, truth).value)


@pytest.mark.parametrize(
    ("estimate", "truth", "settings", "message"),
    [
        ((4, 2), (4, 3), {}, r"shape \(4, 2\) and the truth \(4, 3\); both must be"),
        ((4,), (4, 1), {}, r"shape \(4,\) and the truth \(4, 1\)"),
        ((2, 5, 1), (3, 5, 1), {}, r"\(3, 5, 1\)"),
        ((2, 3), (2, 3), {}, r"shape \(2, 3\); they need at least 3 rows"),
        ((4, 0), (4, 0), {}, "a column"),
        ((4,), (4,), {"resamples": 1}, "resamples is 1; an interval takes at least 2"),
        ((4,), (4,), {"level": 95}, "level is 95; it must be between 0 and 1"),
    ],
)
def test_bad_input(
    estimate: tuple[int, ...], truth: tuple[int, ...], settings: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pearson(scores(*estimate)[0], scores(*truth)[1], **settings)


@pytest.mark.parametrize("top", [0, 5])
def test_top_is_a_number_of_rows(top: int) -> None:
    with pytest.raises(ValueError, match=f"top is {top}; it must be between 1 and the number of rows, 4"):
        top_overlap(*scores(4), top)


def test_resamples_are_those_of_the_interval_and_paired() -> None:
    generator = np.random.default_rng(5)
    truth = generator.normal(size=(40, 3))
    first, second = (truth + noise * generator.normal(size=truth.shape) for noise in (0.3, 2.0))
    for whole, resampled in ((pearson, pearson_resampled), (spearman, spearman_resampled)):
        value, drawn = resampled(first, truth, seed=3, resamples=200)
        wanted = whole(first, truth, seed=3, resamples=200)
        assert value.mean() == pytest.approx(wanted.value)
        ends = np.quantile(drawn.mean(axis=0), [0.025, 0.975])
        assert tuple(ends) == pytest.approx((wanted.low, wanted.high))
        # Both see the same rows: an increasing map of the estimate changes none of them.
        np.testing.assert_allclose(resampled(5 * first + 1, truth, seed=3, resamples=200)[1], drawn)
        others = resampled(second, truth, seed=3, resamples=200)[1]
        assert (drawn.mean(axis=0) > others.mean(axis=0)).all()
    value, drawn = top_overlap_resampled(first, truth, 5, seed=3, resamples=50)
    assert value.mean() == pytest.approx(top_overlap(first, truth, 5).value)
    assert drawn.shape == (3, 50)


def test_over_columns_the_interval_also_holds_what_columns_differ_by() -> None:
    """Of columns that each vary by nothing, the variance of a mean of q drawn from them is theirs over q."""
    value = np.array([0.1, 0.5, 0.9, 0.3])
    found, means = over_columns(value, np.tile(value[:, None], (1, 4000)))
    assert found.value == pytest.approx(0.45)
    assert means.std() == pytest.approx(value.std() / 2, rel=0.05)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    alone, _ = over_columns(value[:1], np.linspace(0, 1, 101)[None])
    assert (alone.low, alone.high) == pytest.approx((0.025, 0.975))
