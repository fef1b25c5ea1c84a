"""What the spectrum predicts of a solver before it runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

# Up to this many entries of W a dense eigenvalue solve is both fast and safe; ARPACK takes over beyond.
_DENSE_LIMIT = 256


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
