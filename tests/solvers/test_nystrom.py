"""Nyström's approximation against its definition, its bounds against dense eigenvalues."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import problems
import solvers
from problems import DenseOperator, Problem
from solvers import Status, solve, theory
from solvers.low_rank import LowRankInverse
from solvers.nystrom import FIRST_RANK, POWER_STEPS, Nystrom, Sketch
from tests.conftest import dense_problem, random_psd_examples


def with_spectrum(
    values: Tensor, damping: float, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Problem:
    """H of these eigenvalues in a random basis, with isotropic right-hand sides."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[
        0
    ]
    matrix = (basis * values.double()) @ basis.T
    operator = DenseOperator.from_matrix(((matrix + matrix.T) / 2).to(dtype))
    rhs = torch.randn(len(values), 3, generator=generator, dtype=torch.float64)
    return Problem("spectrum", operator, damping, rhs.to(dtype))


def power_law(size: int, exponent: float) -> Tensor:
    return torch.arange(1, size + 1, dtype=torch.float64) ** -exponent


def dense(problem: Problem) -> Tensor:
    return problem.operator.to(torch.float64).dense()


def prepared(problem: Problem, seed: int = 0, **chosen: object) -> LowRankInverse:
    return Nystrom(**chosen).prepare(problem, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def approximation(inverse: LowRankInverse) -> Tensor:
    basis = inverse.basis.double()
    return (basis * inverse.values) @ basis.T


def remainder(problem: Problem, inverse: LowRankInverse) -> float:
    """‖H − Ĥ‖."""
    return float(torch.linalg.matrix_norm(dense(problem) - approximation(inverse), 2))


def condition(problem: Problem, inverse: LowRankInverse) -> float:
    """Of P^-½(H + λI)P^-½, from the pencil of both."""
    identity = problem.damping * torch.eye(problem.size, dtype=torch.float64)
    values = scipy.linalg.eigh(
        (dense(problem) + identity).numpy(), (approximation(inverse) + identity).numpy(), eigvals_only=True
    )
    return float(values[-1] / values[0])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 30),
    st.integers(1, 40),
    st.floats(0.3, 4),
    st.floats(-5, 1),
    st.integers(0, 100),
    st.integers(0, 5),
)
def test_the_bounds_hold(
    size: int, rank: int, exponent: float, log_damping: float, seed: int, missing: int
) -> None:
    damping = 10**log_damping
    values = power_law(size, exponent)
    values[max(1, size - missing) :] = 0
    problem = with_spectrum(values, damping, seed)
    inverse = prepared(problem, seed, rank=rank)
    matrix, below = dense(problem), approximation(inverse)
    # 0 ⪯ Ĥ ⪯ H.
    assert float(torch.linalg.eigvalsh(below)[0]) >= -1e-13
    assert float(torch.linalg.eigvalsh(matrix - below)[0]) >= -1e-10
    left = remainder(problem, inverse)
    assert problem.reference is not None
    error = (inverse.solve(problem.columns()) - problem.reference).norm(dim=0)
    scale = problem.columns().norm(dim=0) / damping
    assert (error / scale <= theory.low_rank_error(left, damping) + 1e-9).all()
    assert condition(problem, inverse) <= 1 + left / damping + 1e-6
    identity = torch.eye(inverse.basis.shape[1], dtype=torch.float64)
    torch.testing.assert_close(inverse.basis.T @ inverse.basis, identity, atol=1e-13, rtol=0)


@pytest.mark.parametrize("steps", [(7,), (3, 7), (1, 2, 4, 7)])
def test_is_nystroms_approximation_however_the_sketch_grew(steps: tuple[int, ...]) -> None:
    problem = with_spectrum(power_law(25, 1.0), 0.1)
    sketch = Sketch(problem, torch.Generator().manual_seed(3))
    for rank in steps:
        sketch.grow(rank)
    # The definition, with the pseudo-inverse of SciPy.
    image = dense(problem) @ sketch.test
    middle = torch.from_numpy(scipy.linalg.pinvh((sketch.test.T @ image).numpy()))
    expected = image @ middle @ image.T
    torch.testing.assert_close(approximation(sketch.inverse(None)), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(sketch.test.T @ sketch.test, torch.eye(7).double(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 12])
@pytest.mark.parametrize("extra", [0, 1, 50])
def test_at_full_rank_it_is_the_exact_solve(size: int, extra: int) -> None:
    problem = dense_problem(random_psd_examples(3 * size, size, seed=size), 0.05, columns=5)
    solution = solve(problem, Nystrom(rank=size + extra))
    expected = torch.linalg.solve(dense(problem) + 0.05 * torch.eye(size).double(), problem.columns())
    assert solution.x is not None
    torch.testing.assert_close(solution.x, expected, rtol=1e-10, atol=0)
    assert solution.diagnostics["sketch"] == size
    # Nothing is left but rounding.
    assert solution.diagnostics["remainder"] <= 1e-14 * float(problem.operator.dense().norm()) + 1e-300


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("extra", [2, 10, 60])
def test_nothing_breaks_past_the_rank_of_h(dtype: torch.dtype, extra: int) -> None:
    values = power_law(80, 0.5)
    values[20:] = 0
    problem = with_spectrum(values, 0.01, dtype=dtype)
    inverse = prepared(problem, rank=20 + extra)
    assert inverse.basis.shape[1] == 20
    assert inverse.diagnostics["smallest"] == 0
    eps = torch.finfo(dtype).eps
    assert remainder(problem, inverse) <= 1e3 * eps
    solution = solve(problem, Nystrom(rank=20 + extra))
    assert solution.error is not None
    assert solution.error.max() <= 1e3 * eps / 0.01


@pytest.mark.parametrize("rank", [1, 6, "auto"])
def test_h_of_zero_is_divided_by_damping(rank: int | str) -> None:
    problem = Problem("zero", DenseOperator(torch.zeros(3, 6, 6)), 0.5, torch.ones(6, 2))
    solution = solve(problem, solvers.load("nystrom", rank=rank))
    assert solution.x is not None
    assert (solution.x == 2).all()
    assert solution.diagnostics["rank"] == 0


def test_the_rank_of_theory_preconditions_to_28_on_average() -> None:
    damping = 1e-4
    values = power_law(150, 3.0)
    rank = theory.nystrom_rank(float((values / (values + damping)).sum()))
    assert rank < 150
    problem = with_spectrum(values, damping)
    found = [condition(problem, prepared(problem, seed, rank=rank)) for seed in range(10)]
    assert sum(found) / len(found) < theory.NYSTROM_CONDITION
    assert problem.condition_number is not None
    assert problem.condition_number > 9000


@pytest.mark.parametrize("allowed", [10.0, 1.0, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_auto_grows_until_little_remains(allowed: float, seed: int) -> None:
    damping = 1e-3
    problem = with_spectrum(power_law(300, 1.5), damping, seed)
    inverse = prepared(problem, seed, remainder=allowed)
    told, left = inverse.diagnostics, remainder(problem, inverse)
    # Power iteration finds it from below, and by ten steps nearly all of it.
    assert 0.5 * left <= told["remainder"] <= left * (1 + 1e-9)
    if told["sketch"] < 256:  # the default of max_rank
        assert told["remainder"] <= allowed * damping
        assert condition(problem, inverse) <= 1 + 2 * allowed
    assert told["sketch"] in (16, 32, 64, 128, 256)
    assert told["condition"] == pytest.approx(1 + told["remainder"] / damping)


def test_auto_stops_at_max_rank_and_at_what_memory_holds() -> None:
    problem = with_spectrum(torch.ones(100), 1e-6)
    assert prepared(problem, max_rank=24).diagnostics["sketch"] == 24
    assert prepared(problem, max_rank=24).diagnostics["rank"] == 24
    assert prepared(problem, memory_gib=32 * 100 * 40.5 / 2**30).diagnostics["sketch"] == 40
    # At p Ĥ is H, and nothing needs to be estimated.
    assert prepared(problem).diagnostics["remainder"] <= 1e-13 * float(problem.operator.dense().norm())


def test_work_is_products_and_algebra_by_count() -> None:
    problem = problems.load("quadratic", dimension=50, num_examples=60)
    work = problem.operator.work
    before = work.passes
    prepared(problem, rank=5)
    algebra = 2 * 50 * 5**2 + 4 * 50 * 5**2 + 20 * 5**3
    # A forward pass of one of its examples takes 50 multiplications.
    assert work.passes - before == pytest.approx((1 + 4 * 5) * 60 + algebra / 50, abs=3)
    before = work.passes
    list(Nystrom().iterates(problem, prepared(problem, rank=5), problem.columns(), torch.Generator()))
    once = work.passes - before
    before = work.passes
    prepared(problem, rank=5)
    assert once - (work.passes - before) == 2 * 50 * 5 * 4 / 50


def test_auto_pays_for_no_column_twice() -> None:
    problem = with_spectrum(power_law(300, 1.5), 1e-3)
    problem.operator.work.forward_multiplications = 10**12  # algebra, each time, counts 1
    before = problem.operator.work.passes
    told = prepared(problem, remainder=1.0).diagnostics
    doublings = round(math.log2(told["sketch"] / FIRST_RANK))
    products = 4 * told["sketch"] + doublings + 1
    estimates = 5 * POWER_STEPS * (doublings + 1)
    assert products < problem.operator.work.passes - before <= products + estimates + 200


@pytest.mark.parametrize("chosen", [{"rank": 20}, {"remainder": 1.0}, {"max_rank": 24}])
def test_tells_how_many_columns_it_multiplied_h_with(chosen: dict[str, object]) -> None:
    problem = with_spectrum(power_law(300, 1.5), 1e-3)
    seen: list[int] = []

    class Watched(DenseOperator):
        def _count(self, columns: int) -> None:
            seen.append(columns)

    watched = Problem("watched", Watched(dense(problem)[None]), problem.damping, problem.rhs)
    assert prepared(watched, **chosen).diagnostics["products"] == sum(seen) > 0


def test_float32_gives_what_float64_gives() -> None:
    one, other = (
        prepared(with_spectrum(power_law(60, 1.0), 0.01, dtype=dtype), rank=20)
        for dtype in (torch.float64, torch.float32)
    )
    assert other.basis.dtype == torch.float32
    torch.testing.assert_close(approximation(other), approximation(one), atol=2e-6, rtol=0)
    identity = torch.eye(20, dtype=torch.float64)
    torch.testing.assert_close(other.basis.T.double() @ other.basis.double(), identity, atol=1e-6, rtol=0)


class Noisy(DenseOperator):
    """Products with a relative error of 1 %, as in a network that runs in bfloat16."""

    def _product(self, columns: Tensor) -> Tensor:
        exact = super()._product(columns)
        noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(7), dtype=exact.dtype)
        return exact * (1 + 0.01 * noise)


@pytest.mark.parametrize("rank", [5, 30, 60])
def test_noise_in_products_is_not_taken_for_curvature(rank: int) -> None:
    values = power_law(60, 1.0)
    values[10:] = 0
    exact = with_spectrum(values, 0.05)
    problem = Problem("noisy", Noisy(exact.operator.dense()[None]), 0.05, exact.rhs)
    inverse = prepared(problem, rank=rank)
    assert float(inverse.values.max()) <= 1.1
    assert condition(exact, inverse) <= max(1.5, 1.1 * condition(exact, prepared(exact, rank=rank)))


def test_an_indefinite_h_is_skipped_with_advice() -> None:
    operator = DenseOperator.from_matrix(torch.diag(torch.tensor([1.0, -0.1])))
    solution = solve(Problem("indefinite", operator, 1.0, torch.ones(2, 1)), Nystrom())
    assert solution.status is Status.SKIPPED
    assert "lanczos" in solution.reason


def test_what_does_not_fit_is_skipped() -> None:
    problem = problems.load("quadratic")
    for rank in (10, "auto"):
        reason = solvers.load("nystrom", memory_gib=1e-6, rank=rank).skip(problem)
        assert reason is not None
        assert "memory_gib=1e-06" in reason


@pytest.mark.parametrize(
    "chosen", [{"rank": 0}, {"rank": "many"}, {"remainder": 0}, {"max_rank": 0}, {"memory_gib": -1}]
)
def test_bad_settings_are_named(chosen: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(chosen))):
        solvers.load("nystrom", **chosen)
