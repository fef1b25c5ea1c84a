"""Fisher matrices: outer products of gradients at the data's targets, or at targets the model draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.operators import retained
from problems.operators.curvature import (
    Batch,
    BlockProduct,
    Curvature,
    OutputCurvature,
    OutputRoot,
    Retain,
)
from problems.operators.ggn import like_outputs, through_outputs
from problems.validation import check_counts


@dataclass(frozen=True)
class EmpiricalFisher(Curvature):
    """H = mean g gᵀ, g = Jᵀ ∇ℓ the gradient of one unit's loss at its own target (an example, or a token).

    Not an approximation of the Hessian or of the Fisher matrix, though often used as one (Kunstner,
    Balles & Hennig 2019). A product with k columns costs 1 + 4k forward passes, like the Gauss–Newton
    matrix's: S = ∇ℓ ∇ℓᵀ takes the place of ∇²ℓ, and no gradient is formed.
    """

    def block_product(self, function: ModelFunction, loss: Loss) -> BlockProduct:
        return through_outputs(function, self.output_curvature(loss))

    def retain(self, function: ModelFunction, loss: Loss) -> Retain:
        return retained.through_outputs(function, self.output_curvature(loss))

    def output_curvature(self, loss: Loss) -> OutputCurvature:
        def curve(outputs: Tensor, batch: Batch, tangents: Tensor) -> Tensor:
            return _outer(loss.gradient(outputs, batch.targets), batch.weights, tangents)

        return curve

    def root_rank(self, outputs: int) -> int:
        return 1

    def output_root(self, loss: Loss) -> OutputRoot:
        def root(outputs: Tensor, batch: Batch) -> Tensor:
            return (loss.gradient(outputs, batch.targets) * like_outputs(batch.weights.sqrt(), outputs))[None]

        return root


@dataclass(frozen=True)
class MonteCarloFisher(Curvature):
    """H = mean g gᵀ, g the gradient at a target drawn from the model; E H is the Gauss–Newton matrix.

    `num_samples` targets for each unit are drawn once, when the operator is made and with `seed`, so that H
    is one fixed matrix, which mini-batches sample; drawing costs a forward pass over the data. Where a
    loss is a multiple of a negative log-likelihood, the outer products are scaled to the loss's Hessian.
    """

    num_samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(num_samples=self.num_samples)

    def block_product(self, function: ModelFunction, loss: Loss) -> BlockProduct:
        return through_outputs(function, self.output_curvature(loss))

    def retain(self, function: ModelFunction, loss: Loss) -> Retain:
        return retained.through_outputs(function, self.output_curvature(loss))

    def output_curvature(self, loss: Loss) -> OutputCurvature:
        def curve(outputs: Tensor, batch: Batch, tangents: Tensor) -> Tensor:
            weights = batch.weights / (len(batch.sampled) * loss.power(outputs))
            terms = [_outer(loss.gradient(outputs, drawn), weights, tangents) for drawn in batch.sampled]
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            return total

        return curve

    def root_rank(self, outputs: int) -> int:
        return self.num_samples

    def output_root(self, loss: Loss) -> OutputRoot:
        def root(outputs: Tensor, batch: Batch) -> Tensor:
            weights = batch.weights / (len(batch.sampled) * loss.power(outputs))
            gradients = torch.stack([loss.gradient(outputs, drawn) for drawn in batch.sampled])
            return gradients * like_outputs(weights.sqrt(), outputs)

        return root


def _outer(gradient: Tensor, weights: Tensor, tangents: Tensor) -> Tensor:
    """weight · g gᵀ applied to the tangents of every unit."""
    weighted = gradient * like_outputs(weights, gradient)
    outputs_of_a_unit = tuple(range(weights.ndim - gradient.ndim, 0))
    return gradient * (weighted * tangents).sum(dim=outputs_of_a_unit, keepdim=True)
