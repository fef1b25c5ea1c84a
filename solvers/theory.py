"""What the spectrum predicts of a solver before it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

# Expected condition number after a Nyström preconditioner of `nystrom_rank` (Frangella, Tropp & Udell 2023).
NYSTROM_CONDITION = 28.0

# Up to this many entries of W a dense eigenvalue solve is both fast and safe; ARPACK takes over beyond.
_DENSE_LIMIT = 256


# ηλT of the settings that Klochkov & Liu (2024) publish lies between 2 and 2.5.
PAPERS_TIME = 2.25


def largest_mean_step(largest: float, damping: float) -> float:
    """2/(λ_max + λ): below it LiSSA's mean iterate, and Neumann's series, converge, and only below it."""
    return 2 / (largest + damping)


def rate(step_size: float, smallest: float, largest: float, damping: float) -> float:
    """max |1 − η(μ + λ)| over the eigenvalues μ: the factor of the mean error, or of Neumann's, a step."""
    return max(abs(1 - step_size * (smallest + damping)), abs(1 - step_size * (largest + damping)))


def neumann_steps(contraction: float, target: float, start: float = 1.0) -> int:
    """Steps after which an error of `start` that falls by the factor `contraction` a step is within `target`.

    From x = 0 the relative error starts at 1. Raises ValueError where the series does not converge.
    """
    if not 0 <= contraction < 1:
        raise ValueError(
            f"contraction is {contraction:g}; only in [0, 1) do steps help: lower the step size below "
            "2/(λ_max + λ)"
        )
    if start <= target:
        return 0
    return 1 if contraction == 0 else math.ceil(math.log(start / target) / -math.log(contraction))


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


def batch_by_effective_dimension(effective_dimension: float, heterogeneity: float = 1.0) -> float:
    """C d(λ): the batch from which LiSSA under P = H + λI keeps at least half of its full step, L_b ≤ 2.

    With k_i = P^-½ h_i P^-½ and K = mean k_i: Tr K = Tr H(H + λ)⁻¹ = d(λ), and h'_i = k_i + λP⁻¹ has mean I,
    so that L_b = 1 + λ_max(E k² − K²)/b. From k_i ⪯ Tr(k_i) I follows E k² ⪯ C d(λ) K with C = max Tr(k_i)
    over their mean, `heterogeneity`, and K ⪯ I. Without P the same argument gives `batch_by_trace`: the
    trace has become an effective dimension and λ_max + λ has become 1.
    """
    return max(1.0, heterogeneity * effective_dimension)


@dataclass(frozen=True)
class MeanSquare:
    """LiSSA's mean-square error at step size η with E (H̃ + λ)² ⪯ L (H + λ), for any right-hand side.

    `smallest` is the least eigenvalue of H + λ that is known for certain: λ without a preconditioner, and
    λ_min(P⁻¹(H + λ)) with one, where L is that of `preconditioned` and norms are ‖e‖² = eᵀPe. `noise` is
    Δ̃ = E‖(H̃ − H)u*‖², with P of the preconditioned matrices. u_t − u* is the sum of what is left of the
    start, whose mean square contracts by 1 − ρ a step, and of noise, whose mean is 0 (Klochkov & Liu 2024,
    Theorem 1).
    """

    step_size: float
    smallest: float
    second_moment: float
    noise: float

    @property
    def stable(self) -> bool:
        """η < 2/L: sufficient, and within a factor of two of necessary in all cases tried."""
        return 0 < self.step_size < 2 / self.second_moment

    @property
    def contraction(self) -> float:
        """ρ = η(2 − ηL)μ, μ = `smallest`: the least share of the squared error that a step takes away.

        ≤ 0 where unstable.
        """
        return self.step_size * (2 - self.step_size * self.second_moment) * self.smallest

    @property
    def floor(self) -> float:
        """Bound of the noise's root mean square in 2-norm, √(η²Δ̃/ρ); ∞ where unstable."""
        return self.step_size * math.sqrt(self.noise / self.contraction) if self.stable else math.inf

    @property
    def energy_floor(self) -> float:
        """Bound of the noise in the norm ‖e‖² = eᵀ(H + λ)e, averaged over the steps: √(ηΔ̃/(2 − ηL))."""
        return self.floor * math.sqrt(self.smallest) if self.stable else math.inf

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


def cg_energy_error_of_spectrum(shifted_eigenvalues: Sequence[float], num_steps: int) -> float:
    """CG's bound where the spectrum of H + λI is known: the least over r of r steps for the r largest.

    A polynomial of degree t with roots at the r largest eigenvalues is at most 1 times a polynomial of degree
    t − r on the rest: 2((√κ_r − 1)/(√κ_r + 1))^(t−r), κ_r the condition number without them (Axelsson &
    Lindskog 1986). Raises ValueError unless all eigenvalues are > 0.
    """
    descending = sorted(shifted_eigenvalues, reverse=True)
    if not descending or not descending[-1] > 0:
        raise ValueError("the eigenvalues of H + λI must all be > 0: raise the damping")
    bounds = [
        cg_energy_error(largest / descending[-1], num_steps - outliers)
        for outliers, largest in enumerate(descending[: num_steps + 1])
    ]
    # As many steps as there are different eigenvalues end it.
    return 0.0 if num_steps >= len(set(descending)) else min(bounds)


def nystrom_rank(effective_dimension: float) -> int:
    """2⌈1.5 d(λ)⌉ + 1: from this rank on E κ(P^-½(H + λ)P^-½) < 28, P = Nyström's preconditioner.

    P⁻¹ = (σ̂_r + λ) U(Σ̂ + λ)⁻¹Uᵀ + (I − UUᵀ) from Ĥ = UΣ̂Uᵀ, H on r Gaussian vectors, H ⪰ 0 (Frangella, Tropp
    & Udell 2023, Theorem 1.1). By Markov κ ≤ 56 at least every second time.
    """
    return 2 * math.ceil(1.5 * effective_dimension) + 1


def nystrom_condition(smallest_kept: float, remainder: float, damping: float) -> float:
    """Bound of κ under that preconditioner from σ̂_r and ‖H − Ĥ‖: (σ̂_r + λ + ‖H − Ĥ‖)/λ.

    Certain, for every 0 ⪯ Ĥ ⪯ H (Frangella, Tropp & Udell 2023, Proposition 5.3).
    """
    return (smallest_kept + damping + remainder) / damping


def low_rank_error(remainder: float, damping: float) -> float:
    """Bound of ‖(Ĥ + λ)⁻¹b − u*‖ relative to ‖b‖/λ for 0 ⪯ Ĥ ⪯ H: s/(s + λ), s = ‖H − Ĥ‖.

    Of r exact eigenpairs s is the largest eigenvalue left out; of Nyström's Ĥ its error (Frangella, Tropp &
    Udell 2023, Proposition 3.1). Ĥ + λ must keep the complement (1/λ)(I − UUᵀ).
    """
    return remainder / (remainder + damping)


def identity_error(largest: float, damping: float) -> float:
    """Bound of ‖b/λ − u*‖ relative to ‖b‖/λ: λ_max/(λ_max + λ), a low rank of 0; attained by the top."""
    return low_rank_error(largest, damping)


def preconditioned(per_example: Tensor, damping: float, preconditioner: Tensor) -> Tensor:
    """h'_i = P^-½(h_i + λI)P^-½, shape (n, p, p), of the h_i (n, p, p) and P ≻ 0 (p, p).

    LiSSA with P, u ← u − ηP⁻¹((H̃ + λ)u − g), is LiSSA on h' with damping 0 for P^½u. So all that is said
    here of plain LiSSA holds with them, damping 0 and the norm ‖e‖² = eᵀPe: E (H̃')² ⪯ L H' is
    E (H̃ + λ)P⁻¹(H̃ + λ) ⪯ L (H + λ). Raises ValueError unless P is symmetric and positive definite.
    """
    size = per_example.shape[-1]
    if preconditioner.shape != (size, size):
        shape = tuple(preconditioner.shape)
        raise ValueError(f"preconditioner has shape {shape}; it must be ({size}, {size}), as every h_i")
    scale = float(preconditioner.abs().max())
    asymmetry = float((preconditioner - preconditioner.T).abs().max())
    values, basis = torch.linalg.eigh(preconditioner)
    if not (asymmetry <= 1e-6 * scale and values[0] > 0):
        raise ValueError(
            f"the preconditioner's smallest eigenvalue is {float(values[0]):.3g} and its asymmetry "
            f"{asymmetry:.3g}; it must be symmetric and positive definite: raise its damping"
        )
    root = basis * values.rsqrt() @ basis.T
    identity = torch.eye(size, dtype=per_example.dtype, device=per_example.device)
    return root @ (per_example + damping * identity) @ root


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
