"""How well estimated scores agree with the truth: correlations and top-k overlap, each with an interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

Array = npt.NDArray[np.float64]
Scores = Tensor | npt.NDArray[np.floating]
# Of each of c resamples: how often it holds each row, (m, c), to the measure of each column, (q, c).
Measure = Callable[[Array], Array]

FEWEST_ROWS = 3
# Numbers of a block of resamples, which is to stay in a processor's cache.
BLOCK = 2**15
# What rounding leaves of the variance of a column that does not vary, relative to its squares.
ROUNDING = 1e-13


@dataclass(frozen=True)
class Agreement:
    """A measure of agreement and its interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


def pearson(
    estimate: Scores, truth: Scores, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Agreement:
    """Pearson's correlation over rows, the mean over columns, with a percentile bootstrap interval.

    Scores are (m,), (m, q), or (s, m, q) with s seeds; a truth that is the same for all seeds may be without
    them. Rows are what is resampled: training examples, or subsets of them. Where there are seeds, each
    resample draws seeds, and then one set of rows for all of them, since a row is the same example in each
    (Owen 2007). Of few seeds the interval shows too little: of their variance the share (s − 1)/s.

    A column that does not vary, or holds NaN or inf, makes the mean NaN; a resample in which one does not
    vary is left out of the interval. Raises ValueError for shapes that do not fit and fewer than 3 rows.
    """
    return _mean(_pair(_pearson, estimate, truth), seed, resamples, level)


def spearman(
    estimate: Scores, truth: Scores, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Agreement:
    """Spearman's, ties at their average rank, each resample ranked afresh; as `pearson` otherwise."""
    return _mean(_pair(_spearman, estimate, truth), seed, resamples, level)


def top_overlap(
    estimate: Scores,
    truth: Scores,
    top: int,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Agreement:
    """The share of the truth's `top` largest that are among the estimate's; as `pearson` otherwise.

    For the smallest pass −scores. By chance it is top/m. Of equal scores the first row counts as larger; a
    row that a resample holds twice fills two places.
    """
    return _mean(_pair(_overlap(top), estimate, truth), seed, resamples, level)


def pearson_per_column(
    estimate: Scores, truth: Scores, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> list[Agreement]:
    """Pearson's correlation of each column, with an interval of its own; as `pearson` otherwise."""
    return _each(_pair(_pearson, estimate, truth), seed, resamples, level)


def spearman_per_column(
    estimate: Scores, truth: Scores, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> list[Agreement]:
    """Spearman's correlation of each column, with an interval of its own; as `pearson` otherwise."""
    return _each(_pair(_spearman, estimate, truth), seed, resamples, level)


def top_overlap_per_column(
    estimate: Scores,
    truth: Scores,
    top: int,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> list[Agreement]:
    """The overlap of each column, with an interval of its own; as `top_overlap`."""
    return _each(_pair(_overlap(top), estimate, truth), seed, resamples, level)


def pearson_resampled(
    estimate: Scores, truth: Scores, *, seed: int = 0, resamples: int = 1000
) -> tuple[Array, Array]:
    """Pearson's correlation of each column, (q,), and the same in each resample, (q, r).

    Of one seed and one shape the resamples are the same: differences of two estimates are paired.
    """
    return _bootstrap(_pair(_pearson, estimate, truth), seed, resamples, 0.95)


def spearman_resampled(
    estimate: Scores, truth: Scores, *, seed: int = 0, resamples: int = 1000
) -> tuple[Array, Array]:
    """Spearman's correlation likewise; as `pearson_resampled`."""
    return _bootstrap(_pair(_spearman, estimate, truth), seed, resamples, 0.95)


def top_overlap_resampled(
    estimate: Scores, truth: Scores, top: int, *, seed: int = 0, resamples: int = 1000
) -> tuple[Array, Array]:
    """The overlap likewise; as `pearson_resampled` and `top_overlap`."""
    return _bootstrap(_pair(_overlap(top), estimate, truth), seed, resamples, 0.95)


def over_columns(
    value: Array, drawn: Array, *, seed: int = 0, level: float = 0.95
) -> tuple[Agreement, Array]:
    """The mean over columns (q,) with an interval over rows and columns, and that of each resample, (r,).

    Each resample of `drawn` (q, r) also draws columns with replacement, so that what is said holds beyond
    these columns; the interval is rather too wide (Owen 2007). Of one column there are rows alone.
    """
    chosen = np.random.default_rng(seed).integers(len(drawn), size=drawn.shape)
    means = np.take_along_axis(drawn, chosen, axis=0).mean(axis=0)
    return _agreement(value.mean(), means, level), means


@dataclass(frozen=True)
class _Paired:
    """A measure for each seed, m, and which columns have none, (q,)."""

    measures: list[Measure]
    rows: int
    undefined: npt.NDArray[np.bool_]


def _mean(paired: _Paired, seed: int, resamples: int, level: float) -> Agreement:
    value, drawn = _bootstrap(paired, seed, resamples, level)
    return _agreement(value.mean(axis=0), drawn.mean(axis=0), level)


def _each(paired: _Paired, seed: int, resamples: int, level: float) -> list[Agreement]:
    value, drawn = _bootstrap(paired, seed, resamples, level)
    return [_agreement(each, samples, level) for each, samples in zip(value, drawn, strict=True)]


def _agreement(value: float, drawn: Array, level: float) -> Agreement:
    """`drawn` (r,) are the measure in the resamples."""
    defined = drawn[np.isfinite(drawn)]
    if not len(defined):
        return Agreement(float(value), np.nan, np.nan)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Agreement(float(value), float(low), float(high))


def _bootstrap(paired: _Paired, seed: int, resamples: int, level: float) -> tuple[Array, Array]:
    """Mean over seeds of the measure of each column, (q,), and the same in each resample, (q, r)."""
    if resamples < 2:
        raise ValueError(f"resamples is {resamples}; an interval takes at least 2, and 1000 are usual")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1, 0.95 for an interval of 95 %")
    generator = np.random.default_rng(seed)
    once = np.ones((paired.rows, 1))
    value = np.mean([measure(once)[:, 0] for measure in paired.measures], axis=0)
    count, blocks = len(paired.measures), []
    for times in _resamples(paired.rows, resamples, generator):
        of_seeds = np.stack([measure(times) for measure in paired.measures])
        seeds = generator.integers(count, size=(count, 1, times.shape[1]))
        blocks.append(np.take_along_axis(of_seeds, seeds, axis=0).mean(axis=0))
    drawn = np.concatenate(blocks, axis=1)
    value[paired.undefined], drawn[paired.undefined] = np.nan, np.nan
    return value, drawn


def _resamples(rows: int, resamples: int, generator: np.random.Generator) -> Iterator[Array]:
    """How often each row is drawn, (m, c), in blocks of c resamples."""
    size = max(1, BLOCK // rows)
    for first in range(0, resamples, size):
        count = min(size, resamples - first)
        drawn = generator.integers(rows, size=(rows, count)) * count + np.arange(count)
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _pair(measure: Callable[[Array, Array], Measure], estimate: Scores, truth: Scores) -> _Paired:
    found, true = _array(estimate), _array(truth)
    if found.ndim not in (1, 2, 3) or true.shape not in (found.shape, found.shape[-2:]):
        raise ValueError(
            f"the estimate has shape {found.shape} and the truth {true.shape}; both must be (m,), (m, q) or "
            "(s, m, q) for s seeds, and agree; the truth may be without seeds"
        )
    if found.ndim == 1:
        found, true = found[:, None], true[:, None]
    seeds = found if found.ndim == 3 else found[None]
    truths = np.broadcast_to(true, seeds.shape)
    rows = seeds.shape[1]
    if rows < FEWEST_ROWS or 0 in seeds.shape:
        raise ValueError(
            f"the scores have shape {_array(estimate).shape}; they need at least {FEWEST_ROWS} rows, "
            "a column, and a seed where there are seeds"
        )
    undefined = ~(_varies(seeds) & _varies(truths)).all(axis=0)
    # Where a column is not defined, numbers that raise no warning stand in for it.
    kept = np.where(undefined, 0.0, seeds), np.where(undefined, 0.0, truths)
    measures = [measure(each, its_truth) for each, its_truth in zip(*kept, strict=True)]
    return _Paired(measures, rows, np.asarray(undefined))


def _array(scores: Scores) -> Array:
    if isinstance(scores, Tensor):
        scores = scores.detach().cpu().double().numpy()
    return np.asarray(scores, dtype=np.float64)


def _varies(scores: Array) -> npt.NDArray[np.bool_]:
    """Which columns (s, q) of (s, m, q) are finite and hold more than one number."""
    return np.isfinite(scores).all(axis=1) & (scores != scores[:, :1]).any(axis=1)


def _pearson(estimate: Array, truth: Array) -> Measure:
    x, y = _scaled(estimate), _scaled(truth)
    moments = np.concatenate([x, y, x * x, y * y, x * y], axis=1).T / len(x)

    def measure(times: Array) -> Array:
        x1, y1, x2, y2, xy = np.split(moments @ times, 5)
        return _correlation(xy - x1 * y1, _variance(x2, x1), _variance(y2, y1))

    return measure


def _scaled(scores: Array) -> Array:
    """Each column about its median, which an outlier that a resample lacks does not move, at most 1."""
    # Halved and doubled, so that the difference of the largest numbers is one.
    centred = scores / 2 - np.median(scores / 2, axis=0)
    largest = np.abs(centred).max(axis=0)
    return centred / np.where(largest > 0, largest, 1)


def _variance(squares: Array, mean: Array) -> Array:
    """0 where it is rounding alone."""
    variance = squares - mean * mean
    return np.where(variance > ROUNDING * squares, variance, 0)


def _spearman(estimate: Array, truth: Array) -> Measure:
    columns = [(_ranking(x), _ranking(y)) for x, y in zip(estimate.T, truth.T, strict=True)]

    def measure(times: Array) -> Array:
        found = []
        for of_estimate, of_truth in columns:
            x, y = of_estimate(times), of_truth(times)
            wx, wy = times * x, times * y
            sums = (np.einsum("mc,mc->c", *pair) for pair in ((wx, y), (wx, x), (wy, y)))
            found.append(_correlation(*sums))
        return np.stack(found)

    return measure


def _ranking(scores: Array) -> Measure:
    """Of scores (m,) each row's rank among a resample's rows, ties at their average, (m, c).

    The ranks are doubled and taken from their mean, which makes them whole numbers: those below minus those
    above.
    """
    order = np.argsort(scores, kind="stable")
    in_order = scores[order]
    below, upto = (np.searchsorted(in_order, scores, side) for side in ("left", "right"))

    def ranks(times: Array) -> Array:
        counts = np.zeros((len(times) + 1, times.shape[1]))
        np.cumsum(times[order], axis=0, out=counts[1:])
        return counts[below] + counts[upto] - len(times)

    return ranks


def _overlap(top: int) -> Callable[[Array, Array], Measure]:
    def prepare(estimate: Array, truth: Array) -> Measure:
        if not 1 <= top <= len(estimate):
            raise ValueError(f"top is {top}; it must be between 1 and the number of rows, {len(estimate)}")
        columns = [(_places(x, top), _places(y, top)) for x, y in zip(estimate.T, truth.T, strict=True)]

        def measure(times: Array) -> Array:
            shared = [np.minimum(x(times), y(times)).sum(axis=0) for x, y in columns]
            return np.stack(shared) / top

        return measure

    return prepare


def _places(scores: Array, top: int) -> Measure:
    """How many of the first `top` places of a resample each row of scores (m,) fills, (m, c)."""
    order = np.argsort(-scores, kind="stable")
    back = np.argsort(order)

    def places(times: Array) -> Array:
        in_order = times[order]
        before = np.cumsum(in_order, axis=0) - in_order
        return np.clip(top - before, 0, in_order)[back]

    return places


def _correlation(covariance: Array, first: Array, second: Array) -> Array:
    """Covariance over the root of both variances, at most 1; NaN where one of them is 0."""
    varies = (first > 0) & (second > 0)
    scale = np.sqrt(np.where(varies, first, 1)) * np.sqrt(np.where(varies, second, 1))
    return np.where(varies, np.clip(covariance / scale, -1, 1), np.nan)
