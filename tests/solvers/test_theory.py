"""Theory against brute force over all mini-batches, and its bounds against exact recursions."""

import itertools
import math

import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

import problems
from solvers import solve
from solvers.cg import ConjugateGradient
from solvers.theory import (
    MeanSquare,
    batch_by_trace,
    batch_for_full_step,
    bias_from_rhs,
    cg_energy_error,
    cg_steps,
    largest_mean_step,
    mean_square_threshold,
    plan_from_zero,
    rate,
    second_moment_bound,
    second_moment_step,
)
from tests.conftest import random_psd_examples


def all_batches(per_example: torch.Tensor, batch_size: int) -> torch.Tensor:
    indices = torch.tensor(list(itertools.product(range(len(per_example)), repeat=batch_size)))
    return per_example[indices].mean(dim=1)


def brute_force_step(
    s: torch.Tensor, batches: torch.Tensor, damping: float, step_size: float
) -> torch.Tensor:
    """E[(I − η(H̃ + λ)) S (I − η(H̃ + λ))] over equally likely mini-batches."""
    identity = torch.eye(s.shape[0], dtype=s.dtype)
    shrink = identity - step_size * (batches + damping * identity)
    return (shrink @ s @ shrink).mean(dim=0)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_second_moment_step_is_the_average_over_all_batches(batch_size: int, heavy_tailed: bool) -> None:
    per_example = random_psd_examples(4, 3, seed=7, heavy_tailed=heavy_tailed)
    s = random_psd_examples(5, 3, seed=8).mean(dim=0)
    expected = brute_force_step(s, all_batches(per_example, batch_size), 0.2, 0.4)
    torch.testing.assert_close(second_moment_step(s, per_example, 0.2, batch_size, 0.4), expected)


@pytest.mark.parametrize("seed", range(8))
def test_the_recursion_turns_from_decay_to_growth_exactly_at_the_threshold(seed: int) -> None:
    batch_size = 1 + seed % 3
    per_example = random_psd_examples(5, 2 + seed % 4, seed=seed, heavy_tailed=seed % 2 == 0)
    damping = 10.0 ** -(seed % 3 + 1)
    batches = all_batches(per_example, batch_size)
    threshold = mean_square_threshold(per_example, damping, batch_size)
    for factor, grows in ((0.99, False), (1.01, True)):
        s = torch.eye(per_example.shape[1], dtype=torch.float64)
        growth = 1.0
        for _ in range(2000):
            s = brute_force_step(s, batches, damping, factor * threshold)
            growth = float(s.trace())
            s = s / growth
        assert (growth > 1) is grows


@pytest.mark.parametrize("size", [8, 20])
def test_matrix_free_and_dense_spectra_agree(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    per_example = random_psd_examples(30, size, seed=size, heavy_tailed=True)
    monkeypatch.setattr("solvers.theory._DENSE_LIMIT", 10**6)
    dense = mean_square_threshold(per_example, 0.01, 4)
    monkeypatch.setattr("solvers.theory._DENSE_LIMIT", 0)
    assert mean_square_threshold(per_example, 0.01, 4) == pytest.approx(dense, rel=1e-8)


def test_one_dimension_in_closed_form() -> None:
    """Scalars: E(1 − η(h + λ))² < 1 iff η < 2 E(h + λ)/E(h + λ)²."""
    values = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    expected = 2 * float((values + 0.1).mean() / (values + 0.1).square().mean())
    assert mean_square_threshold(values.reshape(3, 1, 1), 0.1, 1) == pytest.approx(expected, rel=1e-12)


def test_a_large_batch_brings_back_the_edge_of_the_mean() -> None:
    per_example = random_psd_examples(20, 4, seed=3)
    edge = 2 / (float(torch.linalg.eigvalsh(per_example.mean(dim=0))[-1]) + 0.1)
    assert mean_square_threshold(per_example, 0.1, 10**8) == pytest.approx(edge, rel=1e-5)


# Thirty-six problems: equal and heavy-tailed traces, λ over three decades, batches of 1, 4 and n.
SIZE, EXAMPLES = 8, 24
CASES = [
    (heavy_tailed, damping, batch_size, seed)
    for heavy_tailed in (False, True)
    for damping in (1.0, 0.1, 0.01)
    for batch_size in (1, 4, EXAMPLES)
    for seed in (0, 1)
]


class Exact:
    """A problem of explicit examples, on which all that theory bounds is known."""

    def __init__(self, heavy_tailed: bool, relative_damping: float, batch_size: int, seed: int) -> None:
        self.matrices = random_psd_examples(EXAMPLES, SIZE, seed=seed, heavy_tailed=heavy_tailed)
        self.mean = self.matrices.mean(dim=0)
        self.values = torch.linalg.eigvalsh(self.mean)
        self.largest = float(self.values[-1])
        self.damping = relative_damping * self.largest
        self.batch_size = batch_size
        self.shifted = self.mean + self.damping * torch.eye(SIZE, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        self.rhs = torch.randn(SIZE, generator=generator, dtype=torch.float64)
        self.solution = torch.linalg.solve(self.shifted, self.rhs)
        self.mean_square = (self.matrices @ self.matrices).mean(dim=0)
        spread = (self.mean_square - self.mean @ self.mean) / batch_size
        self.noise = float(self.solution @ spread @ self.solution)
        self.second_moment = self.top(self.shifted @ self.shifted + spread)
        self.noise_constant = self.top(self.mean_square)

    def top(self, matrix: torch.Tensor) -> float:
        pencil = (matrix.numpy(), self.shifted.numpy())
        return float(scipy.linalg.eigh(*pencil, eigvals_only=True)[-1])

    def root_mean_squares(
        self, start: torch.Tensor, step_size: float, num_steps: int, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(E eᵀWe)^½, e = u_t − u*, for t = 1 to T, by the exact recursion of mean and second moment."""
        error = start - self.solution
        moment, mean_error = torch.outer(error, error), error
        shrink = torch.eye(SIZE, dtype=torch.float64) - step_size * self.shifted
        found = []
        for _ in range(num_steps):
            mixed = torch.outer(mean_error, self.solution)
            sampled = mixed + mixed.T + torch.outer(self.solution, self.solution)
            noise = (self.matrices @ sampled @ self.matrices).mean(dim=0) - self.mean @ sampled @ self.mean
            moment = second_moment_step(moment, self.matrices, self.damping, self.batch_size, step_size)
            moment = moment + step_size**2 * noise / self.batch_size
            mean_error = shrink @ mean_error
            weighted = moment if weight is None else weight @ moment
            found.append(weighted.trace().clamp_min(0).sqrt())
        return torch.stack(found)


@pytest.mark.parametrize("case", CASES)
def test_two_over_l_b_is_safe_and_within_a_factor_of_two(case: tuple[bool, float, int, int]) -> None:
    exact = Exact(*case)
    threshold = mean_square_threshold(exact.matrices, exact.damping, exact.batch_size)
    assert 0.5 <= 2 / exact.second_moment / threshold <= 1 + 1e-9
    bound = second_moment_bound(exact.largest, exact.damping, exact.noise_constant, exact.batch_size)
    assert exact.second_moment <= bound * (1 + 1e-9)


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("case", CASES)
def test_errors_and_floors_are_bounded(case: tuple[bool, float, int, int], factor: float) -> None:
    exact = Exact(*case)
    theory = MeanSquare(factor / exact.second_moment, exact.damping, exact.second_moment, exact.noise)
    assert theory.stable
    start = exact.rhs / exact.damping
    distance = float((start - exact.solution).norm())
    found = exact.root_mean_squares(start, theory.step_size, 300)
    for step in (1, 10, 100, 300):
        assert float(found[step - 1]) <= theory.error(distance, step) * (1 + 1e-9)
    # From the solution itself all error is noise.
    settled = exact.root_mean_squares(exact.solution, theory.step_size, 300)
    assert float(settled.max()) <= theory.floor * (1 + 1e-9)
    energies = exact.root_mean_squares(exact.solution, theory.step_size, 300, exact.shifted)
    assert float(energies.square().mean().sqrt()) <= theory.energy_floor * (1 + 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_planned_steps_reach_their_target(case: tuple[bool, float, int, int]) -> None:
    exact = Exact(*case)
    norm = float(exact.solution.norm())
    step_size, num_steps = plan_from_zero(0.3, norm, exact.damping, exact.second_moment, exact.noise)
    count = min(num_steps, 3000)
    found = exact.root_mean_squares(torch.zeros(SIZE, dtype=torch.float64), step_size, count)
    if count == num_steps:
        assert float(found[-1]) <= 0.3 * norm
    else:
        theory = MeanSquare(step_size, exact.damping, exact.second_moment, exact.noise)
        assert float(found[-1]) <= theory.error(norm, count)


@given(st.floats(0.01, 1), st.floats(1e-3, 10), st.integers(1, 400), st.integers(0, 50))
def test_the_bias_from_rhs_over_damping(
    share: float, relative_damping: float, num_steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(30, generator=generator, dtype=torch.float64)
    damping = relative_damping * float(values.max())
    step_size = share / (float(values.max()) + damping)
    rhs = torch.randn(30, generator=generator, dtype=torch.float64)
    start_error = rhs / damping - rhs / (values + damping)
    left = (1 - step_size * (values + damping)) ** num_steps * start_error
    bound = bias_from_rhs(step_size, damping, num_steps) * float(rhs.norm()) / damping
    assert float(left.norm()) <= bound * (1 + 1e-9)


def test_the_papers_setting_has_the_bias_that_it_has() -> None:
    """ηλT = 2.25 from b/λ: 1.7 %."""
    assert bias_from_rhs(0.01, 1.0, 225) == pytest.approx(0.0172, abs=1e-4)


def test_the_unstable_is_called_so() -> None:
    theory = MeanSquare(step_size=2.1, smallest=0.1, second_moment=1.0, noise=1.0)
    assert not theory.stable
    assert theory.floor == theory.energy_floor == theory.error(1.0, 5) == math.inf
    assert theory.contraction < 0


@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_the_batch_that_keeps_half_of_the_step(heavy_tailed: bool) -> None:
    for seed in range(5):
        exact = Exact(heavy_tailed, 0.1, 1, seed)
        batch = batch_for_full_step(exact.largest, exact.damping, exact.noise_constant)
        bound = second_moment_bound(exact.largest, exact.damping, exact.noise_constant, batch)
        assert bound <= 2 * (exact.largest + exact.damping) * (1 + 1e-12)
        by_trace = batch_by_trace(float(exact.values.sum()), exact.largest, exact.damping)
        if heavy_tailed:
            assert batch > by_trace


def test_rates_of_neumann_and_the_edge_of_the_mean() -> None:
    edge = largest_mean_step(3.0, 1.0)
    assert edge == 0.5
    assert rate(edge, 0.0, 3.0, 1.0) == pytest.approx(1.0)
    assert rate(0.25, 0.0, 3.0, 1.0) == pytest.approx(0.75)


def test_cg_keeps_to_its_bound() -> None:
    problem = problems.load("quadratic", dimension=40, num_examples=60, damping=0.01)
    assert problem.condition_number is not None
    solution = solve(problem, ConjugateGradient(1e-12), max_steps=60)
    for record in solution.history:
        assert record.energy_error is not None
        assert record.energy_error <= cg_energy_error(problem.condition_number, record.step) + 1e-9
    steps = cg_steps(problem.condition_number, 1e-3)
    assert (
        cg_energy_error(problem.condition_number, steps)
        <= 1e-3
        < cg_energy_error(problem.condition_number, steps - 1)
    )
    assert cg_steps(1.0, 1e-3) == 1
