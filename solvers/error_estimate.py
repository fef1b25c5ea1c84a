"""How far a sampled answer is from the solution, from what can be seen of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from solvers.geometry import Geometry
from solvers.prediction import RightHandSides, Schedule, relative

# Noise is a root mean square; with this factor the worst of several columns is within it, too.
SAFETY = 1.25


def estimate_error(
    geometry: Geometry,
    sample: CurvatureOperator,
    sides: RightHandSides,
    schedule: Schedule,
    tails: list[Tensor],
    x: Tensor,
    b: Tensor,
    excess: float,
) -> tuple[Tensor, float]:
    """The error (k,) of the mean of `tails`, and how many times as large as predicted its noise is.

    What the chains' differences show of the noise counts as much as its prediction. The residual of the
    average, on the pilot's sample, makes the predicted bias larger where it is itself larger than predicted.
    """
    spread = torch.stack(tails).double().var(dim=0).sum(dim=0).cpu() / len(tails)
    length = x.double().norm(dim=0).cpu()
    predicted = excess * sides.deviation(schedule)
    seen = relative(spread.sqrt(), length)
    known = predicted > 0
    ratios = torch.where(known, relative(seen, predicted), 1).square()
    # A single column's two chains say little: half of it, and no less than all columns together.
    common = ratios.mean()
    noise = ((1 + torch.maximum(common, (common + ratios) / 2)) / 2).sqrt()
    residual = geometry.residual(sample, x, b)
    size = geometry.half(b).double().norm(dim=0).cpu()
    seen_residual = relative(residual.double().norm(dim=0).cpu(), size)
    expected = torch.hypot(sides.residual(schedule), noise * excess * sides.residual_deviation(schedule))
    if sample is not geometry.operator:
        # The sample's own noise.
        own = sides.noise.integral(torch.ones_like) / sample.num_examples
        expected = torch.hypot(expected, relative(own.sqrt(), sides.norm))
    surplus = bound(seen_residual, expected).clamp_min(1)
    bias = torch.where(surplus.isinf(), seen_residual, surplus * sides.bias(schedule))
    return torch.hypot(bias, SAFETY * noise * predicted), float(noise.max())


def bound(error: Tensor, length: Tensor) -> Tensor:
    """error/length, ∞ where only the error is not 0."""
    return torch.where(length > 0, error / length.where(length > 0, 1), torch.where(error > 0, math.inf, 0.0))
