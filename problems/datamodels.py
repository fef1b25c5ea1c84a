"""The linear datamodelling score: do influences foretell the losses of models trained on subsets?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from problems.agreement import Agreement, over_columns, spearman_resampled
from problems.problem import Problem
from problems.retraining import OnTrained, Start, attempts_of, retrain, retraining_of, seconds_of

FEWEST_SUBSETS = 3


@dataclass(frozen=True, eq=False)
class SubsetLosses:
    """`losses` (s, j, q), float64, of q queries under models trained with s seeds on j `subsets`.

    `subsets` (j, n) says which examples each keeps; `converged` (s, j) which trainings are at their optimum,
    recipes always; `seconds` is what all took, on one thread each, whenever that was.
    """

    subsets: Tensor
    losses: Tensor
    converged: Tensor
    seconds: float

    @property
    def mean(self) -> Tensor:
        """Over seeds, (j, q)."""
        return self.losses.mean(dim=0)


@dataclass(frozen=True, eq=False)
class DatamodellingScore:
    """`score`: the mean over queries of Spearman's ρ over subsets; `per_query` (q,).

    `drawn` (r,) is the score in each resample of subsets and queries: those of two solvers, of one seed, are
    paired.
    """

    score: Agreement
    per_query: npt.NDArray[np.float64]
    drawn: npt.NDArray[np.float64]


def random_subsets(count: int, num_subsets: int, *, share: float = 0.5, seed: int = 0) -> Tensor:
    """Which of `count` examples each of `num_subsets` keeps, boolean (j, n): round(share · n), at random.

    ValueError for fewer than 3 subsets, and for a share that keeps nothing or everything.
    """
    check_subsets(num_subsets, share)
    kept = round(share * count)
    if not 0 < kept < count:
        raise ValueError(
            f"share is {share}, which of {count} examples keeps {kept}; it must leave some and not all"
        )
    generator = torch.Generator().manual_seed(seed)
    subsets = torch.zeros(num_subsets, count, dtype=torch.bool)
    for subset in subsets:
        subset[torch.randperm(count, generator=generator)[:kept]] = True
    return subsets


def check_subsets(num_subsets: int, share: float) -> None:
    """ValueError for fewer than 3 subsets and a share that is none."""
    if num_subsets < FEWEST_SUBSETS:
        raise ValueError(
            f"num_subsets is {num_subsets}; a rank correlation takes at least {FEWEST_SUBSETS}, a useful one "
            "dozens"
        )
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must be between 0 and 1, 0.5 for halves")


def subset_losses(
    problem: Problem,
    subsets: Tensor,
    *,
    start: Start = "cold",
    seeds: Sequence[int] = (0,),
    workers: int | None = None,
    on_trained: OnTrained | None = None,
) -> SubsetLosses:
    """Train on each of the `subsets` (j, n), with each seed; everything is kept, see `retrain`.

    What a start means is told by `leave_one_out`: of softmax regression both reach the optimum. ValueError,
    before any work, where the problem cannot be trained again, and for subsets of another shape.
    """
    retraining = retraining_of(problem)
    if subsets.dtype != torch.bool or subsets.ndim != 2 or subsets.shape[1] != retraining.count:
        raise ValueError(
            f"subsets is {subsets.dtype} of shape {tuple(subsets.shape)}; it must be boolean, a row for each "
            f"subset and a column for each of the {retraining.count} training examples"
        )
    if len(subsets) < FEWEST_SUBSETS:
        raise ValueError(f"there are {len(subsets)} subsets; take at least {FEWEST_SUBSETS}")
    indices = [subset.nonzero()[:, 0] for subset in subsets.cpu()]
    attempts = attempts_of(problem, indices, seeds, start)
    found = retrain(retraining, attempts, workers=workers, on_trained=on_trained)
    shape = (len(seeds), len(subsets))
    return SubsetLosses(
        subsets.cpu(),
        torch.stack([each.losses for each in found]).unflatten(0, shape),
        torch.tensor([each.converged for each in found]).unflatten(0, shape),
        seconds_of(found),
    )


def predicted_losses(scores: Tensor, subsets: Tensor) -> Tensor:
    """(1/N) Σ_{m ∈ S} I(m, q) of every subset and query, (j, q), for influences I (n, q).

    It is the loss of q under a model trained on S, up to a constant: those left out have −I(m, q)/N. So a
    positive correlation with that loss is good.
    """
    return subsets.to(scores) @ scores / len(scores)


def linear_datamodelling_score(
    scores: Tensor, truth: SubsetLosses, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> DatamodellingScore:
    """Of influences I (n, q) (Park et al. 2023, § 2; Ilyas et al. 2022), with a bootstrap interval.

    Losses are averaged over seeds. Subsets and queries are resampled, seeds are not: the noise that is left
    of them is the same for all solvers and lowers all scores; see `reliability`.
    """
    predicted = predicted_losses(scores.double().cpu(), truth.subsets)
    return _score(predicted, truth.mean, seed, resamples, level)


def reliability(truth: SubsetLosses, *, seed: int = 0, resamples: int = 1000) -> DatamodellingScore | None:
    """Spearman's ρ over subsets of the losses of one half of the seeds and those of the other; None of one.

    1 where training does not depend on its seed. With ρ so far below 1 the losses are noise by so much, and
    no prediction can have a score of 1.
    """
    half = len(truth.losses) // 2
    if not half:
        return None
    first, second = truth.losses[:half].mean(dim=0), truth.losses[half : 2 * half].mean(dim=0)
    return _score(first, second, seed, resamples, 0.95)


def _score(estimate: Tensor, truth: Tensor, seed: int, resamples: int, level: float) -> DatamodellingScore:
    per_query, drawn = spearman_resampled(estimate, truth, seed=seed, resamples=resamples)
    score, means = over_columns(per_query, drawn, seed=seed, level=level)
    return DatamodellingScore(score, per_query, means)
