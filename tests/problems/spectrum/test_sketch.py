"""The random sketch on known spectra: its error, its shift, and what a seed fixes."""

from __future__ import annotations

import math

import pytest
import torch

from problems import DenseOperator
from problems.spectrum.sketch import sketch
from tests.problems.spectrum.known import SPECTRA, operator_with

SIZE, ROWS = 80, 32


def matched_errors(values: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Positive estimates against the top eigenvalues in order, negative ones against the bottom."""
    ascending = values.sort().values
    positive, negative = found[found > 0].flip(0), found[found <= 0]
    top, bottom = ascending.flip(0)[: len(positive)], ascending[: len(negative)]
    return torch.cat([positive - top, negative - bottom]).abs()


def worst_errors(spectrum: str, count: int, shifted: bool = True) -> torch.Tensor:
    """Largest error of the k estimates in units of ‖H‖_F/√k, for `count` seeds."""
    values = SPECTRA[spectrum](SIZE)
    operator = operator_with(values)
    unit = float(values.norm()) / math.sqrt(ROWS)
    found = [sketch(operator, ROWS, seed) for seed in range(count)]
    return (
        torch.stack(
            [
                matched_errors(values, each.eigenvalues if shifted else each.raw_eigenvalues).max()
                for each in found
            ]
        )
        / unit
    )


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_errors_are_as_the_theorem_says(spectrum: str) -> None:
    errors = worst_errors(spectrum, 60)
    assert float(errors.median()) <= 2.1
    assert float(errors.quantile(0.98)) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_errors_are_as_the_theorem_says_in_a_thousand_runs(spectrum: str) -> None:
    errors = worst_errors(spectrum, 1000)
    assert float(errors.median()) <= 2.1
    assert float(errors.quantile(0.99)) <= 4


def test_without_the_shift_a_long_tail_spoils_all_of_them() -> None:
    values = torch.full((2000,), 0.05, dtype=torch.float64)
    values[0] = 1.0
    operator = DenseOperator.from_matrix(torch.diag(values))
    unit = float(values.norm()) / math.sqrt(ROWS)
    found = sketch(operator, ROWS, 0)
    assert abs(float(found.raw_eigenvalues[-1]) - 1) > 4 * unit
    assert abs(float(found.eigenvalues[-1]) - 1) <= 2.1 * unit


def test_trace_and_norm_come_along() -> None:
    values = SPECTRA["power_law"](SIZE)
    found = [sketch(operator_with(values), ROWS, seed) for seed in range(100)]
    traces = torch.tensor([each.trace.value for each in found])
    squares = torch.tensor([each.frobenius_norm**2 for each in found])
    for draws, truth in ((traces, values.sum()), (squares, values.square().sum())):
        assert abs(float(draws.mean() - truth)) <= 4.5 * float(draws.std()) / 10
    low, high = found[0].trace.interval()
    assert low <= float(values.sum()) <= high


def test_a_seed_fixes_it_and_segments_are_drawn_apart() -> None:
    operator = operator_with(SPECTRA["power_law"](SIZE))
    once, again, other = sketch(operator, 20, 1), sketch(operator, 20, 1), sketch(operator, 20, 2)
    assert torch.equal(once.matrix, again.matrix)
    assert not torch.allclose(once.matrix, other.matrix)
    parts = sketch(operator, 20, 1, segments=[30, 50])
    assert not torch.allclose(parts.matrix, once.matrix)
    assert parts.eigenvalues[-1] == pytest.approx(1, abs=4 * 1.1 / math.sqrt(20))
    # More rows of one seed begin with the same ones, whose norm is another.
    longer = sketch(operator, 40, 1).matrix[:16, :16] * 2
    torch.testing.assert_close(longer, once.matrix[:16, :16])


def test_segments_that_do_not_fit_are_refused() -> None:
    operator = operator_with(SPECTRA["flat"](9))
    with pytest.raises(ValueError, match=r"sum to 8.*p = 9"):
        sketch(operator, 4, 0, segments=[4, 4])
    with pytest.raises(ValueError, match="rows is 0"):
        sketch(operator, 0, 0)
