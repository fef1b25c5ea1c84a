"""What error LiSSA will end with on given right-hand sides, from their spectral measure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from problems.spectrum.spectral_measure import SpectralMeasure

Start = Literal["rhs", "zero"]

# Relative error of taking a decay for none.
UNDAMPED = 1e-4


@dataclass(frozen=True)
class Schedule:
    """How LiSSA is run: η, and the mean of the iterates `first` < t ≤ `last` of each chain, over all chains.

    `first` = `last` − 1 is the last iterate itself. `batch_size` counts units; None is all data, no noise.
    """

    step_size: float
    batch_size: int | None
    first: int
    last: int
    chains: int = 1

    @property
    def averages(self) -> bool:
        """Whether the answer is a mean over steps."""
        return self.last - self.first > 1

    def until(self, last: int) -> Schedule:
        """The same, ended at another step."""
        return replace(self, first=self.first if self.averages else last - 1, last=last)


def mean_decay(schedule: Schedule, values: Tensor) -> Tensor:
    """The mean of (1 − ηx)ᵗ over the window, for x = μ + λ in `values`: what is left there of the start."""
    q = 1 - schedule.step_size * values
    length = schedule.last - schedule.first
    return q ** (schedule.first + 1) * (1 - q**length) / ((1 - q) * length)


def mean_variance(schedule: Schedule, values: Tensor) -> Tensor:
    """The window mean's variance in the direction of x = μ + λ, where each step adds η times unit noise.

    e_t = q e_{t−1} + η ξ_t from e_0 = 0, q = 1 − ηx; noise before the window decays through it, that within
    it through the rest. For the last iterate, and t → ∞: η/(x(2 − ηx)).
    """
    q = 1 - schedule.step_size * values
    length, before = schedule.last - schedule.first, schedule.first
    gap = 1 - q
    geometric = (1 - q**length) / gap
    earlier = geometric**2 * q**2 * (1 - q ** (2 * before)) / (1 - q**2)
    squares = q**2 * (1 - q ** (2 * length)) / (1 - q**2)
    within = (length - 2 * q * geometric + squares) / gap**2
    # Where hardly anything decays in the window its terms cancel, and Σ j² stands for it.
    undamped = length * (length + 1) * (2 * length + 1) / 6
    within = torch.where(gap * length < UNDAMPED, undamped, within)
    return (schedule.step_size / length) ** 2 * (earlier + within)


@dataclass(frozen=True)
class RightHandSides:
    """What the prediction wants to know of k right-hand sides b.

    `measure` of b; `noise` the measure of (H̃ − H)u*, u* the solution, for mini-batches of one unit, so that
    its weights sum to Δ̃.
    """

    measure: SpectralMeasure
    noise: SpectralMeasure
    damping: float
    start: Start = "rhs"

    @cached_property
    def norm(self) -> Tensor:
        """‖b‖, shape (k,)."""
        return self.measure.integral(torch.ones_like).sqrt()

    @cached_property
    def solution_norm(self) -> Tensor:
        """‖u*‖, shape (k,)."""
        return self.measure.integral(lambda values: (values + self.damping) ** -2).sqrt()

    def bias(self, schedule: Schedule) -> Tensor:
        """‖E u − u*‖/‖u*‖, shape (k,)."""

        def left(values: Tensor) -> Tensor:
            whole = values + self.damping
            start = values / self.damping if self.start == "rhs" else torch.ones_like(values)
            return (mean_decay(schedule, whole) * start / whole) ** 2

        return relative(self.measure.integral(left).sqrt(), self.solution_norm)

    def residual(self, schedule: Schedule) -> Tensor:
        """‖(H + λ)(E u − u*)‖/‖b‖, shape (k,): the residual that the bias leaves."""

        def left(values: Tensor) -> Tensor:
            start = values / self.damping if self.start == "rhs" else torch.ones_like(values)
            return (mean_decay(schedule, values + self.damping) * start) ** 2

        return relative(self.measure.integral(left).sqrt(), self.norm)

    def deviation(self, schedule: Schedule) -> Tensor:
        """Root mean square of ‖u − E u‖/‖u*‖, shape (k,), as if each step's noise were that at u*."""
        if schedule.batch_size is None:
            return torch.zeros_like(self.solution_norm)
        variance = self.noise.integral(lambda values: mean_variance(schedule, values + self.damping))
        return relative((variance / (schedule.batch_size * schedule.chains)).sqrt(), self.solution_norm)

    def residual_deviation(self, schedule: Schedule) -> Tensor:
        """Root mean square of ‖(H + λ)(u − E u)‖/‖b‖, shape (k,)."""
        if schedule.batch_size is None:
            return torch.zeros_like(self.solution_norm)

        def seen(values: Tensor) -> Tensor:
            whole = values + self.damping
            return mean_variance(schedule, whole) * whole**2

        variance = self.noise.integral(seen) / (schedule.batch_size * schedule.chains)
        return relative(variance.sqrt(), self.norm)

    def error(self, schedule: Schedule) -> Tensor:
        """Root mean square of ‖u − u*‖/‖u*‖, shape (k,)."""
        return torch.hypot(self.bias(schedule), self.deviation(schedule))


def relative(lengths: Tensor, to: Tensor) -> Tensor:
    """lengths/to, and 0 for a right-hand side that is 0."""
    return torch.where(to > 0, lengths / to.where(to > 0, 1), 0)
