"""What LiSSA's settings follow from: the largest eigenvalue, and what limits the step on mini-batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from problems.operators.base import CurvatureOperator
from problems.operators.tokens import sequences_for
from problems.spectrum.lanczos import Extremes, extreme_eigenvalues
from problems.spectrum.smoothness import noise_constant, sampled_noise_constant
from problems.spectrum.trace import xtrace
from solvers import theory
from solvers.prediction import Schedule
from solvers.solver import Breakdown

# Curvature is measured on all data or, where there are more, on this many draws: its largest eigenvalue and
# its noise are means, which a sample shows well.
SAMPLE = 2048
# A Ritz residual of this share of λ_max, which is added to it, costs as much of the step size.
TOLERANCE = 0.03
MOST_PRODUCTS = 30
NOISE_STEPS = 10
# Of each part of a sequence all of it is computed: some hundred parts, and few steps, show enough.
PARTS, STEPS_OF_PARTS = 256, 4
TRACE_PRODUCTS = 30
SAMPLED_EXAMPLES = 64


@dataclass(frozen=True)
class Measured:
    """What was measured of H for LiSSA, on `operator`: all data or a sample of them.

    `noise_constant` is R of E h² ⪯ R (H + λ), h of one draw: an example, or a whole sequence, which is
    `units_per_draw` units.
    """

    operator: CurvatureOperator
    damping: float
    largest: float
    smallest: float
    noise_constant: float
    units_per_draw: float
    # λ_min(H + λI) is no less; λ itself for H ⪰ 0.
    margin: float
    # What each step takes besides its draws, in draws: a preconditioner.
    overhead: float = 0.0
    # R of draws that are parts of sequences, by batch size.
    _of_parts: dict[int, float] = field(default_factory=dict, compare=False, repr=False)

    def second_moment(self, batch_size: int) -> float:
        """Upper bound of L_b for mini-batches of `batch_size` units.

        Where a draw keeps a part of its sequence R is that of such parts, measured when it is first asked
        for: it does not follow from that of whole sequences, since mean h_t² of their tokens t may be
        larger in some direction than N·(mean h_t)², where the h_t do not commute.
        """
        draws, share = sequences_for(batch_size, self.units_per_draw)
        constant = self.noise_constant
        if share < 1:
            if batch_size not in self._of_parts:
                generator = torch.Generator().manual_seed(batch_size)
                self._of_parts[batch_size] = _noise_constant(
                    self.operator, self.damping, generator, batch_size
                )
            constant = self._of_parts[batch_size]
        return theory.second_moment_bound(self.largest, self.damping, constant, draws)

    @property
    def sufficient_batch(self) -> float:
        """b* in units, of whole draws: from there on a step of half of what all data allow is safe."""
        return self.units_per_draw * theory.batch_for_full_step(
            self.largest, self.damping, self.noise_constant
        )


@dataclass(frozen=True)
class PapersMeasurements:
    """λ_max and Tr(H), of which Klochkov & Liu (2024) make η = 1/(λ_max + λ), b = Tr(H)/(λ_max + λ).

    H is a mean over units, so b counts tokens of a language model, as theirs does; the rule takes them to be
    independent, which those of one sequence are not (`problems.spectrum.sequence_correlation`).
    """

    largest: float
    trace: float

    def schedule(self, damping: float, step_size: float | None = None) -> Schedule:
        """That rule's schedule, T for ηλT = 2.25; with a step size that was set, T for that."""
        step = 1 / (self.largest + damping) if step_size is None else step_size
        batch = math.ceil(theory.batch_by_trace(self.trace, self.largest, damping))
        last = math.ceil(theory.PAPERS_TIME / (step * damping))
        return Schedule(step, batch, last - 1, last)


def measure_curvature(
    operator: CurvatureOperator, damping: float, generator: torch.Generator, overhead: float = 0.0
) -> Measured:
    """Measure λ_max, and R of the noise. Breakdown where H + λI is found not to be positive definite."""
    operator = sample_of(operator, generator)
    extremes = _extremes(operator, damping, generator)
    noise = _noise_constant(operator, damping, generator)
    return Measured(
        operator,
        damping,
        max(0.0, extremes.largest.value + extremes.largest_residual),
        extremes.smallest.value,
        noise,
        operator.num_examples / operator.num_draws,
        margin(operator, damping, extremes),
        overhead,
    )


def measure_for_papers_rule(
    operator: CurvatureOperator, damping: float, generator: torch.Generator
) -> PapersMeasurements:
    """Measure λ_max and Tr(H). Breakdown where H + λI is found not to be positive definite."""
    operator = sample_of(operator, generator)
    extremes = _extremes(operator, damping, generator)
    products = max(6, min(TRACE_PRODUCTS, 2 * operator.shape[0]))
    return PapersMeasurements(extremes.largest.value, xtrace(operator, products, generator).value)


def sample_of(
    operator: CurvatureOperator, generator: torch.Generator, size: int = SAMPLE
) -> CurvatureOperator:
    """The operator itself, or the mean over `size` draws without replacement where it has more than twice."""
    if operator.num_draws <= 2 * size:
        return operator
    return operator.subset(torch.randperm(operator.num_draws, generator=generator)[:size])


def margin(operator: CurvatureOperator, damping: float, extremes: Extremes) -> float:
    """A lower bound of λ_min(H + λI) by the Ritz value's residual; the Ritz value where that is not > 0."""
    if operator.is_psd:
        return damping
    smallest = min(0.0, extremes.smallest.value)
    sure = smallest - extremes.smallest_residual + damping
    return sure if sure > 0 else smallest + damping


def _noise_constant(
    operator: CurvatureOperator, damping: float, generator: torch.Generator, batch_size: int | None = None
) -> float:
    """R of whole draws, or of those that mini-batches of `batch_size` units are made of."""
    parts, steps = None, NOISE_STEPS
    if batch_size is not None:
        share = sequences_for(batch_size, operator.num_examples / operator.num_draws)[1]
        parts = min(math.ceil(1 / share), max(1, PARTS // operator.num_draws))
        steps = STEPS_OF_PARTS
    if not operator.has_examples:
        found = sampled_noise_constant(operator, damping, SAMPLED_EXAMPLES, generator, batch_size=batch_size)
    else:
        found = noise_constant(
            operator,
            damping,
            generator,
            batch_size=batch_size,
            parts=parts,
            width=1,
            tolerance=TOLERANCE,
            max_steps=steps,
        )
    return found.value.value


def _extremes(operator: CurvatureOperator, damping: float, generator: torch.Generator) -> Extremes:
    found = extreme_eigenvalues(operator, generator, tolerance=TOLERANCE, max_products=MOST_PRODUCTS)
    smallest = found.smallest.value
    if smallest + damping <= 0:
        raise Breakdown(
            f"H is indefinite: it has an eigenvalue of at most {smallest:.3g}, so that with λ = {damping:g} "
            "H + λI is not positive definite and LiSSA diverges. Raise damping above "
            f"{found.smallest_residual - smallest:.3g}, use the Gauss–Newton matrix, or minres"
        )
    return found
