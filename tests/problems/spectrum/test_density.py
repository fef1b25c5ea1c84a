"""Sums over the spectrum by stochastic Lanczos quadrature, against the eigenvalues."""

from __future__ import annotations

import pytest
import torch

from problems.spectrum.density import spectral_density
from tests.problems.spectrum.known import SPECTRA, operator_with

SIZE = 60


@pytest.mark.parametrize("spectrum", ["power_law", "spiked", "flat"])
@pytest.mark.parametrize("damping", [1.0, 0.03])
def test_effective_dimension(spectrum: str, damping: float) -> None:
    values = SPECTRA[spectrum](SIZE)
    truth = float((values / (values + damping)).sum())
    found = [
        spectral_density(operator_with(values), 12, 15, torch.Generator().manual_seed(seed))
        for seed in range(30)
    ]
    inside = 0
    for each in found:
        low, high = each.effective_dimension(damping).interval(0.99)
        inside += low - 1e-6 * truth <= truth <= high + 1e-6 * truth
    assert inside >= 28


def test_all_steps_make_the_quadrature_exact_for_its_starts() -> None:
    values = SPECTRA["indefinite"](12)
    operator = operator_with(values)
    density = spectral_density(operator, 400, 12, torch.Generator().manual_seed(0))
    low, high = density.spectral_sum(torch.exp).interval(0.999)
    assert low <= float(values.exp().sum()) <= high
    at = torch.tensor([-2.0, 0.0, 9.0], dtype=torch.float64)
    shares = density.cumulative(at)
    truth = (values[None] <= at[:, None]).double().mean(dim=1)
    torch.testing.assert_close(shares, truth, rtol=0, atol=0.06)
    assert float(shares[0]) == 0
    assert float(shares[2]) == pytest.approx(1)
