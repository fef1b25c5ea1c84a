"""Measures of vectors against dense eigendecompositions."""

from __future__ import annotations

import torch

from problems.spectrum.spectral_measure import SpectralMeasure
from tests.problems.spectrum.known import SPECTRA, operator_with


def test_the_exact_measure_integrates_any_function() -> None:
    operator = operator_with(SPECTRA["power_law"](20))
    matrix = operator.dense()
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    measure = SpectralMeasure.of(*torch.linalg.eigh(matrix), vectors)
    inverse = torch.linalg.inv(matrix + 0.1 * torch.eye(20, dtype=torch.float64))
    expected = (vectors * (inverse @ inverse @ vectors)).sum(dim=0)
    torch.testing.assert_close(measure.integral(lambda values: (values + 0.1) ** -2), expected)
    torch.testing.assert_close(measure.integral(torch.ones_like), vectors.square().sum(dim=0))
