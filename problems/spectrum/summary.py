"""What is known of H's spectrum, and how a given amount of work is best spent on knowing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from problems.operators.base import CurvatureOperator
from problems.spectrum.density import Density, spectral_density
from problems.spectrum.estimate import Estimate
from problems.spectrum.heterogeneity import AGAIN, FINALISTS, Heterogeneity, heterogeneity
from problems.spectrum.lanczos import Extremes, extreme_eigenvalues
from problems.spectrum.pencil import TopOfPencil
from problems.spectrum.sampling_noise import SamplingNoise, sampling_noise
from problems.spectrum.sequence_correlation import SequenceCorrelation, has_sequences, sequence_correlation
from problems.spectrum.smoothness import noise_constant
from problems.spectrum.trace import hutchinson, xtrace
from problems.validation import check_damping

Found = TypeVar("Found")

# Shares of the budget. λ_max and what limits the step decide whether LiSSA converges at all; the rest
# decides how well it does.
SHARES = {
    "extremes": 0.2,
    "trace": 0.15,
    "density": 0.25,
    "heterogeneity": 0.1,
    "noise": 0.1,
    "constant": 0.2,
}
# Lanczos steps of one start of the density.
DENSITY_STEPS = 12
# Below this no estimate has an error worth stating.
SMALLEST_BUDGET = 30.0
# Units of the mini-batches whose noise is measured: small ones, of which more are had for the same work.
NOISE_BATCH = 16
MOST_PAIRS = 400
# Steps of LOBPCG below which its quotient says little.
LEAST_STEPS = 3
# What XTrace may hold, in bytes.
LARGEST_MEMORY = 2**31


@dataclass(frozen=True)
class Spectrum:
    """Estimates of H's spectrum and of how mini-batches sample it; `spent` in gradient equivalents.

    `trace_of_noise` is b Tr(E H̃² − H²) for mini-batches of b units: Tr(E h² − H²) of single examples. Where
    the `unit` is the token it is that of whole sequences, whose tokens are drawn together: `correlation`
    tells how many independent ones they are worth. `heterogeneity` and `noise_constant` are of whole
    sequences there, each one draw of `units_per_draw` tokens on average.
    `heterogeneity` and `noise_constant` are None where H offers no single examples' curvature, the last
    also where no λ was given. Where few examples carry the noise, few draws carry its estimate, and its
    standard error is too small: `heterogeneity` tells.
    """

    size: int
    num_examples: int
    extremes: Extremes
    trace: Estimate
    trace_of_square: Estimate
    trace_of_noise: Estimate
    density: Density
    heterogeneity: Heterogeneity | None
    noise_constant: TopOfPencil | None
    damping: float | None
    spent: Mapping[str, float]
    unit: Literal["example", "token"]
    num_draws: int
    correlation: SequenceCorrelation | None

    @property
    def units_per_draw(self) -> float:
        """Tokens of a sequence on average; 1 where the unit is the example."""
        return self.num_examples / self.num_draws

    @property
    def largest(self) -> float:
        """λ_max with what the Ritz value may be short of it, so that step sizes err on the safe side."""
        return self.extremes.largest.value + self.extremes.largest_residual

    @property
    def is_indefinite(self) -> bool:
        """Whether an eigenvalue below 0 is certain: the smallest Ritz value lies below 0 beyond rounding."""
        return self.extremes.smallest.value < -1e-6 * abs(self.extremes.largest.value)

    @property
    def effective_rank(self) -> float:
        """Tr(H)/λ_max."""
        return self.trace.value / self.extremes.largest.value


def measure(
    operator: CurvatureOperator,
    *,
    budget: float = 200.0,
    damping: float | None = None,
    seed: int = 0,
    on_progress: Callable[[str, float], None] | None = None,
) -> Spectrum:
    """Measure H with about `budget` gradient equivalents, and say what was spent on what.

    `damping` is the λ for which R of the noise is measured. `on_progress` is told what is done next and
    what share of the budget is spent. Raises ValueError for a budget too small for any estimate.
    """
    if not budget >= SMALLEST_BUDGET:
        raise ValueError(
            f"budget is {budget:g} gradient equivalents; at least {SMALLEST_BUDGET:g} are needed for "
            "estimates with errors worth stating"
        )
    if damping is not None:
        check_damping(damping)
    spent: dict[str, float] = {}

    def spend(name: str, estimate: Callable[[float, torch.Generator], Found]) -> Found:
        """Run one estimator with its share, and a generator of its own."""
        if on_progress:
            on_progress(name, sum(spent.values()) / budget)
        before = operator.work.total
        generator = torch.Generator().manual_seed(len(SHARES) * seed + list(SHARES).index(name))
        found = estimate(SHARES[name] * budget, generator)
        spent[name] = operator.work.total - before
        return found

    # What a product of one column costs, in gradient equivalents.
    product = _cost_of_a_product(operator)

    def products(share: float, at_least: int) -> int:
        return max(at_least, int(share / product))

    def trace(share: float, generator: torch.Generator) -> Estimate:
        count = max(6, min(products(share, 6), 2 * operator.shape[0]))
        # XTrace holds half as many vectors as it takes products; where that is too much, Hutchinson.
        fits = 1.5 * count * operator.shape[0] * 8 <= LARGEST_MEMORY
        return xtrace(operator, count, generator) if fits else hutchinson(operator, count, generator)

    def density(share: float, generator: torch.Generator) -> Density:
        # Fewer starts rather than shorter ones, but two for an error.
        steps = min(DENSITY_STEPS, products(share, 8) // 2, operator.shape[0])
        return spectral_density(operator, products(share, 8) // steps, steps, generator)

    extremes = spend(
        "extremes",
        lambda share, generator: extreme_eigenvalues(
            operator, generator, tolerance=1e-3, max_products=products(share, 5)
        ),
    )
    found_trace = spend("trace", trace)
    found_density = spend("density", density)

    def noise_of_batches(
        share: float, generator: torch.Generator
    ) -> tuple[SamplingNoise, SequenceCorrelation | None]:
        sequences = has_sequences(operator)
        batch = 1 if sequences else max(1, min(NOISE_BATCH, operator.num_examples // 4))
        cost = _cost_of_a_product(operator.minibatch(batch, generator))
        # Of a language model one token costs as much as its whole sequence.
        pairs = min(MOST_PAIRS, max(4, int(share / ((4 if sequences else 2) * cost))))
        if not sequences:
            return sampling_noise(operator, batch, pairs, generator), None
        found = sequence_correlation(operator, pairs, generator)
        return found.whole, found

    sampled, correlation = spend("noise", noise_of_batches)
    draws = operator.draws_in(sampled.batch_size)

    def noise(share: float, generator: torch.Generator) -> TopOfPencil:
        # A step: of each vector an ordinary product and two of every example alone.
        steps = int(share / (3 * product))
        width = 3 if steps >= 3 * LEAST_STEPS else 1
        assert damping is not None
        return noise_constant(
            operator, damping, generator, width=width, max_steps=max(LEAST_STEPS, steps // width)
        )

    unequal, constant = None, None
    if operator.has_examples:
        # What the second look at a few examples adds, in proportion.
        again = (FINALISTS + 1) * AGAIN / operator.work.num_examples
        unequal = spend(
            "heterogeneity",
            lambda share, generator: heterogeneity(operator, max(2, int(share / (1 + again))), generator),
        )
        if damping is not None:
            constant = spend("constant", noise)
    return Spectrum(
        operator.shape[0],
        operator.num_examples,
        extremes,
        found_trace,
        # From the density, to which no mini-batch's noise is added.
        found_density.spectral_sum(torch.square),
        sampled.trace_of_noise.times(draws * operator.num_examples / operator.num_draws),
        found_density,
        unequal,
        constant,
        damping,
        spent,
        operator.unit,
        operator.num_draws,
        correlation,
    )


def _cost_of_a_product(operator: CurvatureOperator) -> float:
    """Gradient equivalents of one product with one column, counted by making one."""
    before = operator.work.total
    _ = operator @ torch.zeros(operator.shape[0], dtype=operator.dtype, device=operator.device)
    return operator.work.total - before
