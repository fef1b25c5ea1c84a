"""Lanczos against LAPACK, and power iteration as an oracle of its own."""

from __future__ import annotations

import pytest
import torch

from problems.spectrum.lanczos import extreme_eigenvalues, lanczos, power_iteration
from tests.problems.spectrum.known import SPECTRA, Diagonal, operator_with

SIZE = 40


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_extremes_are_within_their_residuals_and_on_their_side(spectrum: str) -> None:
    values = SPECTRA[spectrum](SIZE).sort().values
    found = extreme_eigenvalues(operator_with(values), torch.Generator().manual_seed(0), tolerance=1e-6)
    for ritz, residual, truth in (
        (found.largest, found.largest_residual, values[-1]),
        (found.smallest, found.smallest_residual, values[0]),
    ):
        assert (values - ritz.value).abs().min() <= residual + 1e-12
        assert values[0] - 1e-12 <= ritz.value <= values[-1] + 1e-12
        if residual < 1e-6:
            assert ritz.value == pytest.approx(float(truth), abs=1e-5)
    assert found.largest_residual <= 1e-6 * float(values.abs().max())
    assert found.largest.value == pytest.approx(float(values[-1]), abs=1e-5)


def test_flat_spectrum_is_known_after_one_product() -> None:
    found = extreme_eigenvalues(operator_with(SPECTRA["flat"](SIZE)), torch.Generator().manual_seed(0))
    assert found.products == 1
    assert found.largest.kind == found.smallest.kind == "exact"
    assert found.largest.value == pytest.approx(1)


def test_all_steps_find_the_whole_spectrum_once() -> None:
    """Without reorthogonalisation copies of the large ones would appear."""
    values = SPECTRA["power_law"](SIZE).sort().values
    start = torch.randn(SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    *_, last = lanczos(operator_with(values), start, 3 * SIZE)
    torch.testing.assert_close(last.eigen[0], values, rtol=1e-8, atol=1e-10)


def test_the_measure_integrates_polynomials_of_twice_its_steps_exactly() -> None:
    values = SPECTRA["indefinite"](SIZE)
    operator = operator_with(values)
    start = torch.randn(SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    *_, last = lanczos(operator, start, 5)
    nodes, weights = last.measure
    unit = start / start.norm()
    power = unit
    for degree in range(10):
        assert float((weights * nodes**degree).sum()) == pytest.approx(
            float(unit @ power), rel=1e-9, abs=1e-11
        )
        power = operator @ power
    assert last.start_norm == pytest.approx(float(start.norm()))


def test_power_iteration_agrees() -> None:
    for spectrum in ("power_law", "spiked", "indefinite"):
        operator = operator_with(SPECTRA[spectrum](SIZE))
        generator = torch.Generator().manual_seed(3)
        slow = power_iteration(operator, generator, tolerance=1e-4)
        fast = extreme_eigenvalues(operator, generator, tolerance=1e-4).largest
        assert slow.value == pytest.approx(fast.value, rel=1e-3)


def test_a_zero_start_is_refused() -> None:
    operator = operator_with(SPECTRA["flat"](4))
    with pytest.raises(ValueError, match="norm 0"):
        list(lanczos(operator, torch.zeros(4, dtype=torch.float64), 2))


def test_float32_does_not_end_a_run_whose_space_is_not_invariant() -> None:
    values = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 1e-3
    values[0] = 1
    found = extreme_eigenvalues(
        Diagonal(values), torch.Generator().manual_seed(0), tolerance=1e-12, max_products=8
    )
    assert found.products > 3
    assert found.largest.value == pytest.approx(1, abs=1e-5)
    assert found.largest.kind == "lower bound"
    assert found.smallest.kind == "upper bound"
