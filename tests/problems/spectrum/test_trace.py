"""Trace estimators: unbiased, exact where they can be, and honest about their error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from problems.operators.base import CurvatureOperator
from problems.spectrum.estimate import Estimate
from problems.spectrum.trace import hutch_plus_plus, hutchinson, xtrace
from tests.problems.spectrum.known import SPECTRA, Diagonal, operator_with

Estimator = Callable[[CurvatureOperator, int, torch.Generator], Estimate]
ESTIMATORS: list[Estimator] = [hutchinson, hutch_plus_plus, xtrace]
SIZE, PRODUCTS = 60, 30


def runs(estimator: Estimator, spectrum: str, count: int) -> tuple[float, list[Estimate]]:
    values = SPECTRA[spectrum](SIZE)
    operator = operator_with(values)
    generator = torch.Generator().manual_seed(1)
    return float(values.sum()), [estimator(operator, PRODUCTS, generator) for _ in range(count)]


def coverage(truth: float, found: list[Estimate]) -> float:
    inside = 0
    for each in found:
        low, high = each.interval(0.99)
        inside += low - 1e-9 <= truth <= high + 1e-9
    return inside / len(found)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_unbiased_and_covered_by_its_interval(estimator: Estimator, spectrum: str) -> None:
    truth, found = runs(estimator, spectrum, 200)
    values = torch.tensor([each.value for each in found])
    assert abs(float(values.mean()) - truth) <= 4.5 * float(values.std()) / 200**0.5 + 1e-9
    assert coverage(truth, found) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_intervals_cover_the_truth(estimator: Estimator, spectrum: str) -> None:
    truth, found = runs(estimator, spectrum, 1000)
    assert coverage(truth, found) >= 0.97


def test_the_better_estimators_are_better_where_eigenvalues_decay() -> None:
    errors = []
    for estimator in ESTIMATORS:
        truth, found = runs(estimator, "power_law", 100)
        errors.append(float(torch.tensor([each.value - truth for each in found]).square().mean().sqrt()))
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("estimator", [hutch_plus_plus, xtrace])
def test_exact_where_the_products_span_the_range(estimator: Estimator) -> None:
    values = torch.zeros(SIZE, dtype=torch.float64)
    values[:6] = torch.tensor([3.0, -2, 1, 0.5, 4, 1])
    found = estimator(operator_with(values), PRODUCTS, torch.Generator().manual_seed(0))
    assert found.value == pytest.approx(7.5, abs=1e-9)
    assert found.standard_error < 1e-9
    small = operator_with(values[:5])
    exact = estimator(small, PRODUCTS, torch.Generator().manual_seed(0))
    assert exact.value == pytest.approx(6.5, abs=1e-9)
    assert exact.kind == "exact"


def test_products_are_counted_and_bounded() -> None:
    for estimator in ESTIMATORS:
        operator = operator_with(SPECTRA["power_law"](SIZE))
        estimator(operator, PRODUCTS, torch.Generator().manual_seed(0))
        columns = operator.work.total * 3 / 4  # a product's shared forward pass aside
        assert columns <= PRODUCTS + 1


def test_too_few_products_are_refused() -> None:
    operator = operator_with(SPECTRA["flat"](5))
    generator = torch.Generator()
    with pytest.raises(ValueError, match="samples is 0"):
        hutchinson(operator, 0, generator)
    with pytest.raises(ValueError, match="products is 5; Hutch"):
        hutch_plus_plus(operator, 5, generator)
    with pytest.raises(ValueError, match="products is 3; XTrace"):
        xtrace(operator, 3, generator)


def test_one_sample_promises_nothing() -> None:
    found = hutchinson(operator_with(SPECTRA["power_law"](9)), 1, torch.Generator().manual_seed(0))
    assert found.interval() == (-float("inf"), float("inf"))


def test_a_long_small_tail_is_not_taken_for_nothing_in_float32() -> None:
    """The images of most vectors look dependent to float32; what the basis misses is measured too."""
    size = 4000
    values = torch.full((size,), 1e-6)
    values[:3] = torch.tensor([100.0, 50.0, 20.0])
    operator = Diagonal(values)
    found = xtrace(operator, 20, torch.Generator().manual_seed(0))
    low, high = found.interval(0.999)
    assert found.kind != "exact"
    assert low - 1e-4 <= float(values.double().sum()) <= high + 1e-4
