"""Limits of difference quotients whose polynomials are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from problems.extrapolation import limit

number = st.floats(-3, 3, width=32)


def values(coefficients: list[float], steps: list[float]) -> torch.Tensor:
    nodes = torch.tensor(steps, dtype=torch.float64)
    return sum(c * nodes**power for power, c in enumerate(coefficients))[:, None]  # type: ignore[index]


@limits(max_examples=25, deadline=None)
@given(st.lists(number, min_size=4, max_size=4))
def test_both_signs_of_two_sizes_are_exact_to_the_third_power(coefficients: list[float]) -> None:
    steps = [0.2, -0.1, -0.2, 0.1]
    found = limit(torch.tensor(steps, dtype=torch.float64), values(coefficients, steps))
    assert float(found.values) == pytest.approx(coefficients[0], abs=1e-12)
    # The mean of the smaller pair alone would be off by the square's coefficient.
    assert float(found.errors) == pytest.approx(abs(coefficients[2]) * 0.1**2, abs=1e-12)


@limits(max_examples=25, deadline=None)
@given(st.lists(number, min_size=3, max_size=3))
def test_without_both_signs_of_each_the_polynomial_goes_through_all(coefficients: list[float]) -> None:
    steps = [0.2, 0.1, -0.2]
    found = limit(torch.tensor(steps, dtype=torch.float64), values(coefficients, steps))
    assert float(found.values) == pytest.approx(coefficients[0], abs=1e-12)
    # The line through 0.1 and 0.2 ends at c₀ − 0.02 c₂.
    assert float(found.errors) == pytest.approx(abs(coefficients[2]) * 0.02, abs=1e-12)


def test_a_pair_has_the_odd_term_for_its_error_and_a_single_step_none() -> None:
    pair = limit(torch.tensor([-0.1, 0.1], dtype=torch.float64), values([2, 3, 0], [-0.1, 0.1]))
    assert float(pair.values) == pytest.approx(2)
    assert float(pair.errors) == pytest.approx(0.3)
    single = limit(torch.tensor([0.1], dtype=torch.float64), values([2, 3], [0.1]))
    assert float(single.values) == pytest.approx(2.3)
    assert bool(single.errors.isnan())


@pytest.mark.parametrize("steps", [[], [0.0, 0.1], [0.1, 0.1]])
def test_steps_that_have_no_limit(steps: list[float]) -> None:
    with pytest.raises(ValueError, match="none of them 0 and all different"):
        limit(torch.tensor(steps, dtype=torch.float64), torch.ones(len(steps), 1, dtype=torch.float64))
