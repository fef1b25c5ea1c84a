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
    length = schedule.last - schedule.first
    q, geometric = _sums(schedule.step_size * values, length)
    return q ** (schedule.first + 1) * geometric / length


def mean_variance(schedule: Schedule, values: Tensor) -> Tensor:
    """The window mean's variance in the direction of x = μ + λ, where each step adds η times unit noise.

    e_t = q e_{t−1} + η ξ_t from e_0 = 0, q = 1 − ηx; noise before the window decays through it, that within
    it through the rest. For the last iterate, and t → ∞: η/(x(2 − ηx)).
    """
    gap = schedule.step_size * values
    length, before = schedule.last - schedule.first, schedule.first
    q, geometric = _sums(gap, length)
    # 1 − q² = gap (2 − gap)
    _, even = _sums(gap * (2 - gap), before)
    earlier = geometric**2 * q**2 * even
    squares = q**2 * _sums(gap * (2 - gap), length)[1]
    within = (length - 2 * q * geometric + squares) / gap**2
    # Where hardly anything decays in the window its terms cancel, and Σ j² stands for it.
    undamped = length * (length + 1) * (2 * length + 1) / 6
    within = torch.where(gap * length < UNDAMPED, undamped, within)
    return (schedule.step_size / length) ** 2 * (earlier + within)


def transient_variance(schedule: Schedule, start: Tensor, values: Tensor) -> Tensor:
    """What noise of the way from the start leaves in the window, for start (m,) and noise (n,): shape (m, n).

    The start's part at x decays as (1 − ηx)ᵗ and at step t adds η² times its square of noise, which then
    decays through the rest as that at y does. Noise added within the window is left out: the start is gone
    by then.
    """
    length, before = schedule.last - schedule.first, schedule.first
    q, geometric = _sums(schedule.step_size * values, length)
    from_start = (1 - schedule.step_size * start[:, None]) ** 2
    through = (q**2).expand(len(start), -1)
    # Σ_{s ≤ first} aˢ⁻¹ bᶠⁱʳˢᵗ⁻ˢ = (a^first − b^first)/(a − b)
    apart = (from_start - through).abs() > 1e-6 * (from_start + through)
    difference = torch.where(apart, from_start - through, 1)
    middle = before * ((from_start + through) / 2) ** max(0, before - 1)
    summed = torch.where(apart, (from_start**before - through**before) / difference, middle)
    return (schedule.step_size / length) ** 2 * geometric**2 * q**2 * summed


def _sums(gap: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """q = 1 − gap and Σ_{j < count} qʲ = (1 − q^count)/gap, which does not cancel where gap is small."""
    power = torch.where(
        gap < 0.5,
        -torch.expm1(count * torch.log1p(-gap.clamp(max=0.5))),
        1 - (1 - gap) ** count,
    )
    return 1 - gap, power / gap


@dataclass(frozen=True)
class RightHandSides:
    """What the prediction wants to know of k right-hand sides b.

    `measure` of b; `noise` the measure of (H̃ − H)u*, u* the solution, for mini-batches of one unit, so that
    its weights sum to Δ̃. `start_noise` (k,) is the same of u_0 − u* over its energy, None for none. `unseen`
    is the relative error that the measure of b leaves in u*: with 1, nothing is known.

    Under a preconditioner P all measures are those of P^½u; `noise_stretch` and `bias_stretch` (k,) are then
    how many times larger, relative to u*, noise and start's error are in u itself.
    """

    measure: SpectralMeasure
    noise: SpectralMeasure
    damping: float
    start: Start = "rhs"
    start_noise: Tensor | None = None
    unseen: float = 0.0
    noise_stretch: Tensor | float = 1.0
    bias_stretch: Tensor | float = 1.0

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

        return self.bias_stretch * relative(self.measure.integral(left).sqrt(), self.solution_norm)

    def residual(self, schedule: Schedule) -> Tensor:
        """‖(H + λ)(E u − u*)‖/‖b‖, shape (k,): the residual that the bias leaves."""

        def left(values: Tensor) -> Tensor:
            start = values / self.damping if self.start == "rhs" else torch.ones_like(values)
            return (mean_decay(schedule, values + self.damping) * start) ** 2

        return relative(self.measure.integral(left).sqrt(), self.norm)

    def deviation(self, schedule: Schedule) -> Tensor:
        """Root mean square of ‖u − E u‖/‖u*‖, shape (k,), from the noise at u* and that on the way to it."""
        if schedule.batch_size is None:
            return torch.zeros_like(self.solution_norm)
        variance = self.noise.integral(lambda values: mean_variance(schedule, values + self.damping))
        if self.start_noise is not None:
            variance = variance + self.start_noise * self._transient(schedule)
        deviation = (variance / (schedule.batch_size * schedule.chains)).sqrt()
        return self.noise_stretch * relative(deviation, self.solution_norm)

    def _transient(self, schedule: Schedule) -> Tensor:
        """Variance (k,) that a noise of 1 times the start's energy leaves, spread as the noise at u* is."""
        total = self.noise.weights.sum(dim=1, keepdim=True)
        shape = self.noise.weights / total.where(total > 0, 1)
        nodes = self.measure.nodes
        whole = nodes + self.damping
        start = nodes / self.damping if self.start == "rhs" else torch.ones_like(nodes)
        # e_0ᵀ(H + λ)e_0 by parts.
        energy = self.measure.weights * start**2 / whole
        left = transient_variance(schedule, whole.flatten(), self.noise.nodes[0] + self.damping)
        return (energy * (left.reshape(*nodes.shape, -1) @ shape[..., None])[..., 0]).sum(dim=1)

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
