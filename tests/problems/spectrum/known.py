"""Matrices whose spectra are known."""

from __future__ import annotations

import torch
from torch import Tensor

from problems import DenseOperator
from problems.operators.base import CurvatureOperator
from problems.work import Work

SPECTRA = {
    "flat": lambda size: torch.ones(size, dtype=torch.float64),
    "power_law": lambda size: torch.arange(1, size + 1, dtype=torch.float64) ** -1.5,
    "spiked": lambda size: torch.cat([torch.tensor([5.0, 3.0]), torch.full((size - 2,), 0.05)]).double(),
    "indefinite": lambda size: torch.linspace(-1, 2, size, dtype=torch.float64) ** 3,
}


def operator_with(eigenvalues: Tensor, seed: int = 0) -> DenseOperator:
    """H with these eigenvalues in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    matrix = (basis * eigenvalues) @ basis.T
    return DenseOperator.from_matrix((matrix + matrix.T) / 2)


class Diagonal(CurvatureOperator):
    """A diagonal H too large to write down whole."""

    is_psd = True

    def __init__(self, values: Tensor) -> None:
        super().__init__(len(values), 1, values.dtype, values.device, Work(1))
        self.values = values

    def subset(self, indices: Tensor) -> Diagonal:
        return self

    def to(self, dtype: torch.dtype) -> Diagonal:
        return Diagonal(self.values.to(dtype))

    def _product(self, columns: Tensor) -> Tensor:
        return self.values[:, None] * columns
