"""What theory asks of a problem for the batch-size study: λ_max, Tr(H), and how mini-batches sample H."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.experiments._budget import product_work
from problems import Problem
from problems.operators.base import CurvatureOperator
from problems.spectrum.lanczos import extreme_eigenvalues
from problems.spectrum.second_moments import SecondMoments, second_moment_constants
from problems.spectrum.trace import xtrace
from solvers.measured import SAMPLE, PapersMeasurements, sample_of

# λ_max to this share of it, L_b and R to that one; where p is dense more exactly.
TOLERANCE, MOST_PRODUCTS = 1e-2, 30
ROUNDS, DENSE_TOLERANCE, DENSE_ROUNDS = 2, 1e-3, 10
TRACE_PRODUCTS = 16
# Parts of sequences whose E h² stands for that of all parts; where p is dense more of them.
PARTS, DENSE_PARTS = 128, 1024
# Measured on the named networks, for the forecast: products that λ_max takes, and vectors of the space that
# L_b is found in.
EXTREMES_PRODUCTS, SPACE = 10, 14


@dataclass(frozen=True)
class Sampling:
    """How mini-batches sample H, by their size in units: L_b, and Δ̃ = x*ᵀ(E H̃² − H²)x* of shape (k,).

    `noise_constant` is R of whole draws, whatever batches there are. R and L_b are estimates: from below by
    Rayleigh–Ritz, and of a sample where that is all that was looked at, whose own may be less or more.
    """

    noise_constant: float
    second_moments: Mapping[int, float]
    noises: Mapping[int, Tensor]


def measure_spectrum(problem: Problem) -> tuple[PapersMeasurements, float]:
    """λ_max and Tr(H), and what that took; from the eigenvalues where p is dense."""
    if problem.eigenvalues is not None:
        return PapersMeasurements(float(problem.eigenvalues[-1]), float(problem.eigenvalues.sum())), 0.0
    work, before = problem.operator.work, problem.operator.work.passes
    generator = torch.Generator().manual_seed(0)
    extremes = extreme_eigenvalues(
        problem.operator, generator, tolerance=TOLERANCE, max_products=MOST_PRODUCTS
    )
    # With what the Ritz value may be short of it, so that η errs on the safe side.
    largest = extremes.largest.value + extremes.largest_residual
    trace = xtrace(problem.operator, min(TRACE_PRODUCTS, 2 * problem.size), generator).value
    return PapersMeasurements(largest, trace), work.equivalents(work.passes - before)


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

    parts = max(1, (DENSE_PARTS if problem.is_dense else PARTS) // operator.num_draws)
    draws = {size: operator.draws_in(size) for size in sizes}
    singles = {size: operator.single_draws(size, generator, parts) for size in sizes}
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
    """Gradient equivalents that both take where p is not dense, about."""
    operator, product = problem.operator, product_work(problem)
    # Of parts of sequences one more space for each size, whose squares are means over more of them.
    length = operator.num_examples / operator.num_draws
    partial = sum(units < math.floor(length) for units in sizes)
    repeats = max(1, (DENSE_PARTS if problem.is_dense else PARTS) // operator.num_draws)
    sample = min(1.0, SAMPLE / operator.num_draws) if operator.num_draws > 2 * SAMPLE else 1.0
    spaces = sample * SPACE * product * (3 + partial * (1 + 2 * repeats))
    return spaces + (EXTREMES_PRODUCTS + TRACE_PRODUCTS) * product
