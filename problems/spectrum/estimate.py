"""A number that was measured, with what is known of its error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy import stats
from torch import Tensor

Kind = Literal["exact", "estimate", "lower bound", "upper bound"]


@dataclass(frozen=True)
class Estimate:
    """`value`, with the standard error of the mean of `samples` draws; 0 and 1 where it is no mean.

    `kind` says whether the truth may lie on both sides ("estimate") or on one, or is known ("exact").
    """

    value: float
    standard_error: float = 0.0
    samples: int = 1
    kind: Kind = "estimate"

    def interval(self, confidence: float = 0.99) -> tuple[float, float]:
        """Student's interval around the value, of the given confidence."""
        if self.standard_error == 0:
            return self.value, self.value
        if self.samples < 2:
            return -math.inf, math.inf
        half = float(stats.t.ppf((1 + confidence) / 2, self.samples - 1)) * self.standard_error
        return self.value - half, self.value + half

    def times(self, factor: float) -> Estimate:
        """The same in other units."""
        return Estimate(self.value * factor, self.standard_error * abs(factor), self.samples, self.kind)


def mean(draws: Tensor) -> Estimate:
    """The mean of independent `draws` (k,), with its standard error."""
    count = len(draws)
    error = float(draws.std()) / math.sqrt(count) if count > 1 else math.inf
    return Estimate(float(draws.mean()), error, count)
