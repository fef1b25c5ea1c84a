"""What the spectrum predicts of a solver before it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

# Up to this many entries of W a dense eigenvalue solve is both fast and safe; ARPACK takes over beyond.
_DENSE_LIMIT = 256


def largest_mean_step(largest: float, damping: float) -> float:
    """2/(λ_max + λ): below it LiSSA's mean iterate, and Neumann's series, converge, and only below it."""
    return 2 / (largest + damping)


def rate(step_size: float, smallest: float, largest: float, damping: float) -> float:
    """max |1 − η(μ + λ)| over the eigenvalues μ: the factor of the mean error, or of Neumann's, a step."""
    return max(abs(1 - step_size * (smallest + damping)), abs(1 - step_size * (largest + damping)))


def bias_from_rhs(step_size: float, damping: float, num_steps: int) -> float:
    """Bound of ‖E u_T − u*‖ relative to ‖b‖/λ, from u_0 = b/λ with η ≤ 1/(λ_max + λ), H ⪰ 0.

    e_0 = H(H + λ)⁻¹b/λ, and (1 − η(μ + λ))ᵀ μ/(μ + λ) ≤ e^{−a} min(1, 1/(e a)) for all μ ≥ 0, a = ηλT.
    """
    a = step_size * damping * num_steps
    return math.exp(-a) * min(1.0, 1 / (math.e * a))


def second_moment_bound(largest: float, damping: float, noise_constant: float, batch_size: float) -> float:
    """Upper bound of L_b, the least L with E (H̃ + λ)² ⪯ L (H + λ), from R with E h² ⪯ R (H + λ).

    λ_max + λ − λ_max²/(b(λ_max + λ)) + R/b: the top of the first part, at λ_max, and of the second, apart.
    """
    whole = largest + damping
    return whole - largest**2 / (batch_size * whole) + noise_constant / batch_size


def batch_for_full_step(largest: float, damping: float, noise_constant: float) -> float:
    """The batch size b* from which L_b ≤ 2(λ_max + λ): the step is at least half of what all data allow.

    Smaller batches need smaller steps in proportion, larger ones save at most every second step.
    """
    return max(1.0, (noise_constant - largest**2 / (largest + damping)) / (largest + damping))


def batch_by_trace(trace: float, largest: float, damping: float) -> float:
    """Tr(H)/(λ_max + λ), the rule of Klochkov & Liu (2024); too small where examples are unequal."""
    return max(1.0, trace / (largest + damping))


@dataclass(frozen=True)
class MeanSquare:
    """LiSSA's mean-square error at step size η with E (H̃ + λ)² ⪯ L (H + λ), for any right-hand side.

    `noise` is Δ̃ = E‖(H̃ − H)u*‖². u_t − u* is the sum of what is left of the start, whose mean square
    contracts by 1 − ρ a step, and of noise, whose mean is 0 (Klochkov & Liu 2024, Theorem 1).
    """

    step_size: float
    damping: float
    second_moment: float
    noise: float

    @property
    def stable(self) -> bool:
        """η < 2/L: sufficient, and within a factor of two of necessary in all cases tried."""
        return 0 < self.step_size < 2 / self.second_moment

    @property
    def contraction(self) -> float:
        """ρ = η(2 − ηL)λ: a step takes at least this share of the squared error away; ≤ 0 where unstable."""
        return self.step_size * (2 - self.step_size * self.second_moment) * self.damping

    @property
    def floor(self) -> float:
        """Bound of the noise's root mean square in 2-norm, √(η²Δ̃/ρ); ∞ where unstable."""
        return self.step_size * math.sqrt(self.noise / self.contraction) if self.stable else math.inf

    @property
    def energy_floor(self) -> float:
        """Bound of the noise in the norm ‖e‖² = eᵀ(H + λ)e, averaged over the steps: √(ηΔ̃/(2 − ηL))."""
        return self.floor * math.sqrt(self.damping) if self.stable else math.inf

    def error(self, start: float, num_steps: int) -> float:
        """Bound of (E‖u_T − u*‖²)^½ from ‖u_0 − u*‖ = `start`; ∞ where unstable."""
        if not self.stable:
            return math.inf
        return (1 - self.contraction) ** (num_steps / 2) * start + self.floor


def plan_from_zero(
    target: float, solution_norm: float, damping: float, second_moment: float, noise: float
) -> tuple[float, int]:
    """(η, T) that bring the root mean square error from u_0 = 0 below `target` · ‖u*‖, whatever b is.

    η = min(1/L, ε²λ‖u*‖²/(4Δ̃)), T = 2/(ηλ) · log(2/ε): half of ε for the start, half for the noise. A worst
    case over right-hand sides, some ten times what a given one needs.
    """
    step = 1 / second_moment
    if noise > 0:
        step = min(step, target**2 * damping * solution_norm**2 / (4 * noise))
    return step, math.ceil(2 / (step * damping) * math.log(2 / target))


def cg_energy_error(condition_number: float, num_steps: int) -> float:
    """Bound of CG's relative energy-norm error, 2((√κ − 1)/(√κ + 1))ᵗ (Hestenes & Stiefel 1952)."""
    root = math.sqrt(condition_number)
    return min(1.0, 2 * ((root - 1) / (root + 1)) ** num_steps)


def cg_steps(condition_number: float, target: float) -> int:
    """Steps after which CG's relative energy-norm error is certain to be below `target`."""
    root = math.sqrt(condition_number)
    if root == 1:
        return 1
    return max(1, math.ceil(math.log(target / 2) / math.log((root - 1) / (root + 1))))


def second_moment_step(
    second_moment: Tensor, per_example: Tensor, damping: float, batch_size: int, step_size: float
) -> Tensor:
    """S ↦ A S A + η² E[(H̃ − H) S (H̃ − H)]: LiSSA's error covariance one step on, for g = 0.

    `second_moment` (p, p) is S = E e eᵀ, `per_example` (n, p, p) the h_i, A = I − η(H + λ) and H̃ the mean of
    `batch_size` examples drawn with replacement. Klochkov & Liu (2024), the recursion behind Theorem 1.
    """
    mean = per_example.mean(dim=0)
    shrink = torch.eye(len(mean), dtype=mean.dtype) - step_size * (mean + damping * torch.eye(len(mean)))
    noise = _sampling_noise(second_moment, per_example, mean, batch_size)
    return shrink @ second_moment @ shrink + step_size**2 * noise


def mean_square_threshold(per_example: Tensor, damping: float, batch_size: int) -> float:
    """The step size η* below which LiSSA's error covariance contracts, and only below it; exact.

    η* = 1/ρ(L⁻¹Q) with L(W) = (H + λ)W + W(H + λ) and Q(W) = E[(H̃ + λ) W (H̃ + λ)]. It is a statement
    about the second moment, not about single paths. For small p: costs a few dozen maps of n·p³ flops each.
    """
    mean = per_example.mean(dim=0)
    eigenvalues, basis = torch.linalg.eigh(mean)
    # In H's eigenbasis L is diagonal, so that its inverse is a division.
    rotated = basis.T @ per_example @ basis
    shifted = eigenvalues + damping
    sums = shifted[:, None] + shifted[None, :]
    diagonal = torch.diag(eigenvalues)

    def inverse_times_map(flat: np.ndarray) -> np.ndarray:
        w = torch.from_numpy(flat).reshape(sums.shape)
        moment = shifted[:, None] * w * shifted + _sampling_noise(w, rotated, diagonal, batch_size)
        return (moment / sums).flatten().numpy()

    return 1 / _spectral_radius(inverse_times_map, sums.numel())


def _sampling_noise(w: Tensor, per_example: Tensor, mean: Tensor, batch_size: int) -> Tensor:
    """E[(H̃ − H) W (H̃ − H)] = (mean h W h − H W H)/b."""
    return ((per_example @ w @ per_example).mean(dim=0) - mean @ w @ mean) / batch_size


def _spectral_radius(matvec: Callable[[np.ndarray], np.ndarray], size: int) -> float:
    if size <= _DENSE_LIMIT:
        matrix = np.stack([matvec(column) for column in np.eye(size)], axis=1)
        return float(np.abs(np.linalg.eigvals(matrix)).max())
    operator = scipy.sparse.linalg.LinearOperator((size, size), matvec=matvec, dtype=np.float64)
    # The map keeps W ⪰ 0, so its radius is an eigenvalue with W ⪰ 0, to which the identity is not orthogonal.
    start = np.eye(round(size**0.5)).flatten()
    return float(np.abs(scipy.sparse.linalg.eigs(operator, k=1, v0=start, return_eigenvectors=False))[0])
