"""How many independent tokens a sequence is worth: what it costs to draw its tokens together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from problems.operators.base import CurvatureOperator
from problems.spectrum.estimate import Estimate
from problems.spectrum.sampling_noise import SamplingNoise, sampling_noise


@dataclass(frozen=True)
class SequenceCorrelation:
    """Noise of mini-batches of one token, and of one whole sequence of `length` tokens on average.

    Of k tokens, drawn without replacement from one of many sequences of N, E h̃² is (1 − c) E g² + c E h², g
    the mean of all N and h one of them, c = (N − k)/(k(N − 1)): so k Tr V_k goes linearly in k from
    `one_token`'s trace to N times `whole`'s.
    """

    length: float
    one_token: SamplingNoise
    whole: SamplingNoise

    @property
    def worth(self) -> Estimate:
        """How many independent mini-batches of one token have the noise of a sequence; N where all differ.

        1 where a sequence's tokens are all alike; ∞ where sequences are. Standard error by the delta method.
        """
        one, whole = self.one_token.trace_of_noise, self.whole.trace_of_noise
        samples = min(one.samples, whole.samples)
        if not whole.value > 0:
            return Estimate(math.inf, math.inf, samples)
        ratio = one.value / whole.value
        share = math.hypot(
            one.standard_error / one.value if one.value > 0 else 0.0, whole.standard_error / whole.value
        )
        return Estimate(ratio, ratio * share, samples)

    @property
    def design_effect(self) -> Estimate:
        """Noise of a sequence over that of as many independent tokens, `length`/`worth` (Kish 1965)."""
        worth = self.worth
        value = self.length / worth.value if worth.value > 0 else math.inf
        share = worth.standard_error / worth.value if 0 < worth.value < math.inf else math.inf
        return Estimate(value, value * share if value > 0 else 0.0, worth.samples)


def has_sequences(operator: CurvatureOperator) -> bool:
    """Whether units are tokens and a mini-batch of one token is less than a sequence."""
    return operator.unit == "token" and operator.num_examples >= 2 * operator.num_draws


def sequence_correlation(
    operator: CurvatureOperator, samples: int, generator: torch.Generator
) -> SequenceCorrelation:
    """Both noises from `samples` pairs of mini-batches each; four products with one sequence a sample.

    Of sequences of unequal lengths both have the noise that lengths make. ValueError where mini-batches do
    not count tokens, or a sequence has fewer than two on average.
    """
    if not has_sequences(operator):
        raise ValueError(
            f"mini-batches count {operator.unit}s, {operator.num_examples / operator.num_draws:.3g} to a "
            "draw; tokens of a sequence are compared where there are at least 2"
        )
    length = operator.num_examples / operator.num_draws
    one = sampling_noise(operator, 1, samples, generator)
    return SequenceCorrelation(length, one, sampling_noise(operator, math.floor(length), samples, generator))
