"""Predictions against recursions carried out in full."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from problems.spectrum.smoothness import noise_constant
from problems.spectrum.spectral_measure import SpectralMeasure
from solvers.pilot import pilot
from solvers.prediction import RightHandSides, Schedule, Start, mean_decay, mean_variance, transient_variance
from solvers.theory import second_moment_bound
from tests.conftest import dense_problem, random_psd_examples

windows = st.tuples(st.integers(0, 30), st.integers(1, 30)).map(lambda pair: (pair[0], sum(pair)))


@settings(deadline=None)
@given(window=windows, product=st.floats(1e-3, 1.9))
def test_mean_decay_is_the_mean_of_the_powers(window: tuple[int, int], product: float) -> None:
    first, last = window
    powers = [(1 - product) ** t for t in range(first + 1, last + 1)]
    found = mean_decay(Schedule(product, 1, first, last), torch.ones(1, dtype=torch.float64))
    assert float(found) == pytest.approx(sum(powers) / len(powers), rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(window=windows, step=st.floats(0.01, 1.0), value=st.floats(0.01, 1.9))
def test_mean_variance_is_that_of_the_recursion(window: tuple[int, int], step: float, value: float) -> None:
    """e_t = q e_{t−1} + η ξ_t: the window's mean is linear in the ξ, so its variance a sum of squares."""
    first, last = window
    q = 1 - step * value
    weights = [
        sum(q ** (t - s) for t in range(max(s, first + 1), last + 1)) * step / (last - first)
        for s in range(1, last + 1)
    ]
    found = mean_variance(Schedule(step, 1, first, last), torch.tensor([value], dtype=torch.float64))
    assert float(found) == pytest.approx(sum(weight**2 for weight in weights), rel=1e-4)


@pytest.mark.parametrize("product", [1e-9, 1e-8, 1e-6, 1e-4, 0.3, 1.7])
@pytest.mark.parametrize("window", [(0, 1), (100_000, 240_000), (199_999, 200_000), (60_000, 200_000)])
def test_no_step_is_too_small(product: float, window: tuple[int, int]) -> None:
    """In rational arithmetic, where nothing cancels."""
    first, last = window
    length = last - first
    gap = Fraction(product)
    q = 1 - gap
    # Powers are rounded to 60 digits, not more: they would have millions.
    with localcontext() as context:
        context.prec = 60
        base = Decimal(q.numerator) / Decimal(q.denominator)
        small = Decimal(gap.numerator) / Decimal(gap.denominator)
        geometric = (1 - base**length) / small
        earlier = geometric**2 * base**2 * (1 - base ** (2 * first)) / (1 - base**2)
        squares = base**2 * (1 - base ** (2 * length)) / (1 - base**2)
        within = (length - 2 * base * geometric + squares) / small**2
        expected = float((earlier + within) / length**2)
        decay = float(base ** (first + 1) * geometric / length)
    schedule = Schedule(product, 1, first, last)
    one = torch.ones(1, dtype=torch.float64)
    assert float(mean_variance(schedule, one)) / product**2 == pytest.approx(expected, rel=2e-4)
    assert float(mean_decay(schedule, one)) == pytest.approx(decay, rel=1e-6, abs=1e-300)


def test_transient_variance_is_that_of_the_recursion() -> None:
    """Noise of the size of what is left of the start, summed step by step."""
    step, first, last = 0.3, 12, 20
    start = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    values = torch.tensor([0.1, 0.2, 2.0, 3.0], dtype=torch.float64)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for i, j in itertools.product(range(3), range(4)):
        q_start, q = 1 - step * float(start[i]), 1 - step * float(values[j])
        for s in range(1, first + 1):
            through = sum(q ** (t - s) for t in range(first + 1, last + 1)) * step / (last - first)
            expected[i, j] += q_start ** (2 * (s - 1)) * through**2
    found = transient_variance(Schedule(step, 1, first, last), start, values)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("damping", [0.016, 0.3])
def test_noise_of_the_way_from_the_start_is_predicted(damping: float) -> None:
    """One dimension, heavy-tailed examples: at b/λ the noise is κ² times that at u*."""
    generator = torch.Generator().manual_seed(0)
    curvatures = (1 - torch.rand(500, generator=generator, dtype=torch.float64)) ** -0.7
    problem = dense_problem(curvatures[:, None, None], damping=damping, columns=1)
    b, reference = problem.columns(), problem.reference
    assert reference is not None
    step, batch, num_steps = 0.25 / float(curvatures.mean()), 32, 24
    sides = pilot(problem.operator, problem.operator, damping, damping, b, generator, "rhs")
    runs = (b / damping).expand(4000, -1, -1)
    for _ in range(num_steps):
        drawn = curvatures[torch.randint(500, (4000, batch), generator=generator)].mean(dim=1)
        runs = runs - step * ((drawn[:, None, None] + damping) * runs - b)
    measured = float(runs.std() / reference.norm())
    schedule = Schedule(step, batch, num_steps - 1, num_steps)
    assert float(sides.deviation(schedule)) == pytest.approx(measured, rel=0.3)
    if damping < 0.1:
        assert float(replace(sides, start_noise=None).deviation(schedule)) < 0.7 * measured


@pytest.mark.parametrize("start", ["rhs", "zero"])
@pytest.mark.parametrize("window", [(39, 40), (12, 40), (0, 25)])
def test_bias_is_that_of_the_mean_recursion(start: Start, window: tuple[int, int]) -> None:
    problem = dense_problem(random_psd_examples(30, 8, seed=1), damping=0.05, columns=3)
    b, reference = problem.columns(), problem.reference
    assert reference is not None
    first, last = window
    u = b / problem.damping if start == "rhs" else torch.zeros_like(b)
    kept = []
    for t in range(1, last + 1):
        u = u - 0.2 * (problem.operator @ u + problem.damping * u - b)
        if t > first:
            kept.append(u)
    mean = torch.stack(kept).mean(dim=0)
    measure = SpectralMeasure.of(*problem.ground_truth.eigen, b)
    sides = RightHandSides(measure, measure, problem.damping, start)
    schedule = Schedule(0.2, 4, first, last)
    expected = (mean - reference).norm(dim=0) / reference.norm(dim=0)
    torch.testing.assert_close(sides.bias(schedule), expected, rtol=1e-7, atol=1e-12)
    residual = (b - problem.operator @ mean - problem.damping * mean).norm(dim=0) / b.norm(dim=0)
    torch.testing.assert_close(sides.residual(schedule), residual, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(sides.solution_norm, reference.norm(dim=0), rtol=1e-10, atol=0)


def test_deviation_is_that_of_noise_with_the_covariance_at_the_solution() -> None:
    """The covariance of the chains' mean, carried along as a matrix, with each step's noise that at u*."""
    per_example = random_psd_examples(30, 5, seed=2)
    problem = dense_problem(per_example, damping=0.1, columns=1)
    reference = problem.reference
    assert reference is not None
    identity = torch.eye(5, dtype=torch.float64)
    shifted = problem.operator.dense() + 0.1 * identity
    products = (per_example - per_example.mean(dim=0)) @ reference[:, 0]
    covariance = products.T @ products / len(per_example)
    step, batch, chains, first, last = 0.3, 4, 2, 20, 60
    shrink = identity - step * shifted
    # The window's mean is Σ_s W_s ξ_s; its covariance Σ_s W_s C W_sᵀ.
    total = torch.zeros_like(shifted)
    for s in range(1, last + 1):
        powers = [torch.linalg.matrix_power(shrink, t - s) for t in range(max(s, first + 1), last + 1)]
        weight = step * torch.stack(powers).sum(dim=0) / (last - first)
        total += weight @ covariance @ weight.T / (batch * chains)
    eigenvalues, basis = problem.ground_truth.eigen
    noise = SpectralMeasure(eigenvalues[None], (basis.T @ covariance @ basis).diagonal()[None])
    measure = SpectralMeasure.of(eigenvalues, basis, problem.columns())
    sides = RightHandSides(measure, noise, 0.1)
    schedule = Schedule(step, batch, first, last, chains)
    expected = total.trace().sqrt() / reference.norm()
    assert float(sides.deviation(schedule)) == pytest.approx(float(expected), rel=1e-9)
    seen = (shifted @ total @ shifted).trace().sqrt() / problem.columns().norm()
    assert float(sides.residual_deviation(schedule)) == pytest.approx(float(seen), rel=1e-9)


def test_a_right_hand_side_of_zero_has_no_error() -> None:
    nothing = SpectralMeasure(torch.zeros(1, 3).double(), torch.zeros(1, 3).double())
    sides = RightHandSides(nothing, nothing, 0.1)
    assert sides.error(Schedule(0.1, 2, 5, 10)).tolist() == [0.0]


def test_the_pilots_prediction_is_within_a_factor_of_three_of_measured_runs() -> None:
    """Plain LiSSA on 36 random problems: equal and heavy-tailed examples, λ over decades, b from 1 to n."""
    ratios = []
    for seed, (heavy_tailed, damping, batch) in enumerate(
        itertools.product([False, True], [1.0, 0.1, 0.01], [1, 2, 4, 8, 20, 40])
    ):
        per_example = random_psd_examples(40, 8, seed=seed, heavy_tailed=heavy_tailed)
        problem = dense_problem(per_example, damping=damping, seed=seed, columns=1)
        b, reference = problem.columns(), problem.reference
        assert reference is not None
        generator = torch.Generator().manual_seed(seed)
        largest = float(problem.ground_truth.eigen[0][-1])
        constant = noise_constant(problem.operator, damping, generator).value.value
        step = 0.5 / second_moment_bound(largest, damping, constant, batch)
        num_steps = min(3000, math.ceil(1.5 / (step * damping)))
        sides = pilot(problem.operator, problem.operator, damping, damping, b, generator, "rhs")
        predicted = sides.error(Schedule(step, batch, num_steps - 1, num_steps))
        runs = (b / damping).expand(30, -1, -1)
        for _ in range(num_steps):
            drawn = per_example[torch.randint(40, (30, batch), generator=generator)].mean(dim=1)
            runs = runs - step * (drawn @ runs + damping * runs - b)
        measured = (runs - reference).square().sum(dim=(1, 2)).mean().sqrt() / reference.norm()
        ratios.append(float(measured / predicted))
    assert 1 / 3 <= statistics.median(ratios) <= 3
    assert sum(1 / 3 <= ratio <= 3 for ratio in ratios) >= 0.9 * len(ratios), sorted(ratios)
