"""Leave-one-out retraining: what a query's loss becomes when a training example was never there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from problems.problem import Problem
from problems.retraining import (
    OnTrained,
    Start,
    attempts_of,
    retrain,
    retraining_of,
    seconds_of,
)


@dataclass(frozen=True, eq=False)
class LeftOut:
    """`changes` L_q(θ₋ₘ) − L_q(θ) of s seeds, m examples and q queries, (s, m, q), float64.

    θ is what the same training, of the same seed, makes of all examples. `converged` (s, m) says of which
    both trainings are at their optimum; recipes always count as such. `seconds` is what they all took, on one
    thread each, whenever that was.
    """

    examples: Tensor
    changes: Tensor
    converged: Tensor
    seconds: float


def leave_one_out(
    problem: Problem,
    examples: Tensor,
    *,
    start: Start = "warm",
    seeds: Sequence[int] = (0,),
    workers: int | None = None,
    on_trained: OnTrained | None = None,
) -> LeftOut:
    """Train without each of the training `examples` (m,), whose weight in the objective becomes 0.

    Influence I(m, q) = −∇L_qᵀ(H + λI)⁻¹∇L_m predicts −I(m, q)/N: the weight 1/N is taken away. A warm start
    goes from θˢ to an optimum. Of softmax regression that is the optimum of the objective that θˢ minimises,
    with the family's own regularisation; of a network, for which θˢ is no optimum, the nearest of the mean
    loss + (λ/2)‖θ − θˢ‖², and θ is that with all examples. A cold start trains by the recipe from a fresh
    initialisation for each seed: one example changes less than the rounding that training amplifies, so that
    it takes many seeds.

    Everything is kept: see `retrain`. Raises ValueError, before any work, for examples that do not exist or
    are there twice, and where the problem cannot be trained again.
    """
    retraining = retraining_of(problem)
    count = retraining.count
    indices = examples.to("cpu", torch.int64).flatten()
    if not len(indices) or len(indices.unique()) < len(indices):
        raise ValueError(f"examples is {indices.tolist()}; name at least one, and each once")
    if indices.min() < 0 or indices.max() >= count:
        raise ValueError(
            f"examples has {int(indices.min())} to {int(indices.max())}; {problem.name} has the training "
            f"examples 0 to {count - 1}"
        )
    if count < 2:
        raise ValueError(f"{problem.name} has one training example; without it there is nothing to train on")
    everything = torch.arange(count)
    subsets = [everything, *(everything[everything != left_out] for left_out in indices)]
    attempts = attempts_of(problem, subsets, seeds, start)
    found = retrain(retraining, attempts, workers=workers, on_trained=on_trained)
    shape = (len(seeds), len(subsets))
    losses = torch.stack([each.losses for each in found]).unflatten(0, shape)
    converged = torch.tensor([each.converged for each in found]).unflatten(0, shape)
    return LeftOut(
        indices,
        losses[:, 1:] - losses[:, :1],
        converged[:, 1:] & converged[:, :1],
        seconds_of(found),
    )
