"""How mini-batches sample H, for the batch-size study: L_b, R and the noise at the solution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.experiments._batches import parts_of
from bench.experiments._budget import product_work
from problems import Problem
from problems.operators.base import CurvatureOperator
from problems.spectrum.second_moments import SecondMoments, second_moment_constants
from solvers.measured import SAMPLE, sample_of

# L_b and R to this share of them; where p is dense more exactly.
TOLERANCE, ROUNDS = 1e-2, 2
DENSE_TOLERANCE, DENSE_ROUNDS = 1e-3, 10
# Vectors of the space that L_b is found in, as measured on the named networks, for the forecast.
SPACE = 14


@dataclass(frozen=True)
class Sampling:
    """How mini-batches sample H, by their size in units: L_b, and Δ̃ = x*ᵀ(E H̃² − H²)x* of shape (k,).

    `noise_constant` is R of whole draws, whatever batches there are. R and L_b are estimates: from below by
    Rayleigh–Ritz, and of a sample where that is all that was looked at, whose own may be less or more.
    """

    noise_constant: float
    second_moments: Mapping[int, float]
    noises: Mapping[int, Tensor]


def measure_sampling(problem: Problem, sizes: Sequence[int]) -> Sampling:
    """Measured on all data, or on a sample of them as the self-tuned solver does.

    All batches of whole draws share E h² and so one space; each size of parts of a sequence has its own.
    """
    generator = torch.Generator().manual_seed(0)
    operator, reference = sample_of(problem.operator, generator), problem.reference
    assert reference is not None
    x = reference.to(operator.device, operator.dtype)
    once = (operator @ x).double().square().sum(dim=0)
    limits = (DENSE_TOLERANCE, DENSE_ROUNDS) if problem.is_dense else (TOLERANCE, ROUNDS)

    def constants(single: CurvatureOperator, draws: Sequence[int]) -> SecondMoments:
        return second_moment_constants(
            operator, problem.damping, draws, generator,
            single=single, tolerance=limits[0], max_rounds=limits[1],
        )  # fmt: skip

    def noise(single: CurvatureOperator, draws: int) -> Tensor:
        square = (x * single.mean_square(x)).double().sum(dim=0)
        return (square - once).clamp_min(0) / draws

    draws = {size: operator.draws_in(size) for size in sizes}
    singles = {size: operator.single_draws(size, generator, parts_of(problem, size)) for size in sizes}
    whole = [size for size in sizes if singles[size] is operator]
    found = constants(operator, sorted({draws[size] for size in whole}) or [1])
    moments = {size: found.constants[draws[size]] for size in whole}
    of_one = noise(operator, 1)
    noises = {size: of_one / draws[size] for size in whole}
    for size in sizes:
        if size not in moments:
            moments[size] = constants(singles[size], [draws[size]]).constants[draws[size]]
            noises[size] = noise(singles[size], draws[size])
    return Sampling(found.noise_constant, moments, noises)


def expected_work(problem: Problem, sizes: Sequence[int]) -> float:
    """Gradient equivalents that it takes, about."""
    operator = problem.operator
    # Of parts of sequences one more space for each size, whose squares are means over more of them.
    length = operator.num_examples / operator.num_draws
    parts = [parts_of(problem, size) for size in sizes if size < math.floor(length)]
    sample = min(1.0, SAMPLE / operator.num_draws) if operator.num_draws > 2 * SAMPLE else 1.0
    return sample * SPACE * product_work(problem) * (3 + sum(1 + 2 * repeats for repeats in parts))
