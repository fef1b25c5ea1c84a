"""Eigenvectors of matrices on which torch's own routine may fail."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from solvers.solver import Breakdown

# Relative to the mean of the diagonal: less than what rounding to float32 leaves in a factor.
JITTER = 1e-12


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, none below 0, and eigenvectors of a positive semi-definite matrix, in float64.

    torch's routine fails on some matrices that are near singular or have many equal eigenvalues; then with
    a little on the diagonal, then by SciPy's QR iteration. Breakdown where none works.
    """
    matrix = matrix.to(torch.float64)
    matrix = (matrix + matrix.T) / 2
    if not torch.isfinite(matrix).all():
        raise Breakdown("a Kronecker factor holds NaN or inf: use float64, or check weights and inputs")
    shift = JITTER * float(matrix.diagonal().mean())

    def shifted() -> tuple[Tensor, Tensor]:
        moved = matrix.clone()
        moved.diagonal().add_(shift)
        values, vectors = torch.linalg.eigh(moved)
        return values - shift, vectors

    def by_scipy() -> tuple[Tensor, Tensor]:
        values, vectors = scipy.linalg.eigh(matrix.cpu().numpy(), driver="ev")
        return torch.from_numpy(values).to(matrix), torch.from_numpy(vectors).to(matrix)

    for decompose in (lambda: torch.linalg.eigh(matrix), shifted, by_scipy):
        try:
            values, vectors = decompose()
        except (RuntimeError, np.linalg.LinAlgError):
            continue
        if torch.isfinite(values).all() and torch.isfinite(vectors).all():
            return values.clamp_min(0), vectors
    raise Breakdown(
        f"the eigenvectors of a Kronecker factor of size {len(matrix)} could not be computed: raise damping "
        "or leave its layer out of the parameters"
    )
