"""Theory under a preconditioner, of low rank and of spectra with outliers, against dense computations."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solvers.theory import (
    NYSTROM_CONDITION,
    MeanSquare,
    batch_by_effective_dimension,
    cg_energy_error,
    cg_energy_error_of_spectrum,
    identity_error,
    low_rank_error,
    mean_square_threshold,
    neumann_steps,
    nystrom_condition,
    nystrom_rank,
    preconditioned,
    rate,
    second_moment_step,
)
from tests.conftest import random_psd_examples

SIZE, EXAMPLES = 6, 20
# Twenty-four problems: equal and heavy-tailed traces, λ over three decades, two preconditioners, two seeds.
CASES = [
    (heavy_tailed, damping, kind, seed)
    for heavy_tailed in (False, True)
    for damping in (1.0, 0.1, 0.01)
    for kind in ("diagonal", "perturbed")
    for seed in (0, 1)
]


def identity(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def root(matrix: Tensor) -> Tensor:
    return torch.from_numpy(scipy.linalg.sqrtm(matrix.numpy()).real)


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


class Preconditioned:
    """Explicit examples with a preconditioner, in the coordinates of u, all by dense algebra."""

    def __init__(
        self, heavy_tailed: bool, relative_damping: float, kind: str, seed: int, examples: int = EXAMPLES
    ) -> None:
        self.matrices = random_psd_examples(examples, SIZE, seed=seed, heavy_tailed=heavy_tailed)
        self.mean = self.matrices.mean(dim=0)
        self.damping = relative_damping * norm(self.mean)
        self.shifted = self.mean + self.damping * identity(SIZE)
        if kind == "diagonal":
            self.preconditioner = torch.diag(self.shifted.diagonal())
        else:
            # As from other draws of the same data: every example with a weight between 0.5 and 1.5.
            generator = torch.Generator().manual_seed(seed + 100)
            weights = 0.5 + torch.rand(examples, 1, 1, generator=generator, dtype=torch.float64)
            self.preconditioner = (weights * self.matrices).mean(dim=0) + self.damping * identity(SIZE)
        self.inverse = torch.linalg.inv(self.preconditioner)
        self.transformed = preconditioned(self.matrices, self.damping, self.preconditioner)
        pencil = (self.shifted.numpy(), self.preconditioner.numpy())
        self.smallest = float(scipy.linalg.eigh(*pencil, eigvals_only=True)[0])

    def second_moment(self, batch_size: int) -> float:
        """The least L with E (H̃ + λ)P⁻¹(H̃ + λ) ⪯ L (H + λ)."""
        whole = self.matrices - self.mean
        spread = (whole @ self.inverse @ whole).mean(dim=0) / batch_size
        moment = self.shifted @ self.inverse @ self.shifted + spread
        return float(scipy.linalg.eigh(moment.numpy(), self.shifted.numpy(), eigvals_only=True)[-1])

    def radius(self, batch_size: int, step_size: float) -> float:
        """Spectral radius of S ↦ E M S Mᵀ, M = I − ηP⁻¹(H̃ + λ), as a matrix of p² rows."""
        shrink = (identity(SIZE) - step_size * self.inverse @ self.shifted).numpy()
        noise = (step_size * self.inverse @ (self.matrices - self.mean)).numpy()
        whole = np.kron(shrink, shrink) + np.mean([np.kron(d, d) for d in noise], axis=0) / batch_size
        return float(np.abs(np.linalg.eigvals(whole)).max())


def all_batches(per_example: Tensor, batch_size: int) -> Tensor:
    indices = torch.tensor(list(itertools.product(range(len(per_example)), repeat=batch_size)))
    return per_example[indices].mean(dim=1)


@pytest.mark.parametrize("kind", ["diagonal", "perturbed"])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_recursion_of_the_second_moment_is_that_of_preconditioned_steps(
    kind: str, batch_size: int
) -> None:
    exact = Preconditioned(True, 0.05, kind, seed=3, examples=4)
    moment = random_psd_examples(8, SIZE, seed=4).mean(dim=0)
    steps = identity(SIZE) - 0.4 * exact.inverse @ (
        all_batches(exact.matrices, batch_size) + exact.damping * identity(SIZE)
    )
    expected = (steps @ moment @ steps.mT).mean(dim=0)
    turn = root(exact.preconditioner)
    found = second_moment_step(turn @ moment @ turn, exact.transformed, 0.0, batch_size, 0.4)
    torch.testing.assert_close(found, turn @ expected @ turn)


@pytest.mark.parametrize("case", CASES)
def test_what_is_called_stable_is_stable(case: tuple[bool, float, str, int]) -> None:
    exact = Preconditioned(*case)
    for batch_size in (1, 5):
        second_moment = exact.second_moment(batch_size)
        edge = 2 / second_moment
        threshold = mean_square_threshold(exact.transformed, 0.0, batch_size)
        assert exact.radius(batch_size, 0.999 * threshold) < 1 < exact.radius(batch_size, 1.001 * threshold)
        assert 0.5 <= edge / threshold <= 1 + 1e-9
        for share in (0.1, 0.5, 0.9, 0.999):
            theory = MeanSquare(share * edge, exact.smallest, second_moment, noise=0.0)
            assert theory.stable
            # ρ bounds what a step leaves of the worst error, so also what many leave.
            assert exact.radius(batch_size, share * edge) <= 1 - theory.contraction + 1e-9
        assert not MeanSquare(1.001 * edge, exact.smallest, second_moment, noise=0.0).stable


@pytest.mark.parametrize("case", CASES)
def test_errors_in_the_norm_of_the_preconditioner_are_bounded(case: tuple[bool, float, str, int]) -> None:
    """(e, u*) moves by one linear map per batch, so that its second moment is exact over all batches."""
    exact = Preconditioned(*case, examples=5)
    generator = torch.Generator().manual_seed(case[3])
    solution = torch.linalg.solve(exact.shifted, torch.randn(SIZE, generator=generator, dtype=torch.float64))
    batches = all_batches(exact.matrices, 2)
    difference = batches - exact.mean
    noise = float(((difference @ solution) @ exact.inverse * (difference @ solution)).sum(dim=1).mean())
    theory = MeanSquare(1 / exact.second_moment(2), exact.smallest, exact.second_moment(2), noise)
    maps = torch.zeros(len(batches), 2 * SIZE, 2 * SIZE, dtype=torch.float64)
    shifted = batches + exact.damping * identity(SIZE)
    maps[:, :SIZE, :SIZE] = identity(SIZE) - theory.step_size * exact.inverse @ shifted
    maps[:, :SIZE, SIZE:] = -theory.step_size * exact.inverse @ difference
    maps[:, SIZE:, SIZE:] = identity(SIZE)
    joint = torch.cat([-solution, solution])
    moment = torch.outer(joint, joint)
    start = float((solution @ exact.preconditioner @ solution).sqrt())
    for step in range(1, 101):
        moment = (maps @ moment @ maps.mT).mean(dim=0)
        error = float((exact.preconditioner @ moment[:SIZE, :SIZE]).trace().sqrt())
        assert error <= theory.error(start, step) * (1 + 1e-9)


def test_without_a_preconditioner_nothing_changes() -> None:
    per_example = random_psd_examples(12, 4, seed=5, heavy_tailed=True)
    same = preconditioned(per_example, 0.1, identity(4))
    assert mean_square_threshold(same, 0.0, 3) == pytest.approx(
        mean_square_threshold(per_example, 0.1, 3), rel=1e-9
    )


def test_a_matrix_that_is_no_preconditioner_is_named() -> None:
    per_example = random_psd_examples(12, 4, seed=5)
    with pytest.raises(ValueError, match=r"shape \(3, 3\); it must be \(4, 4\)"):
        preconditioned(per_example, 0.1, identity(3))
    with pytest.raises(ValueError, match=r"smallest eigenvalue is -1 .* positive definite"):
        preconditioned(per_example, 0.1, -identity(4))
    with pytest.raises(ValueError, match=r"asymmetry 1; it must be symmetric"):
        preconditioned(per_example, 0.1, torch.triu(torch.ones(4, 4, dtype=torch.float64)))


@pytest.mark.parametrize("heavy_tailed", [False, True])
@pytest.mark.parametrize("relative_damping", [1.0, 0.1, 0.01, 1e-4])
def test_the_batch_under_a_perfect_preconditioner(heavy_tailed: bool, relative_damping: float) -> None:
    for seed in range(5):
        matrices = random_psd_examples(EXAMPLES, SIZE, seed=seed, heavy_tailed=heavy_tailed)
        mean = matrices.mean(dim=0)
        damping = relative_damping * norm(mean)
        shifted = mean + damping * identity(SIZE)
        traces = torch.linalg.solve(shifted, matrices).diagonal(dim1=1, dim2=2).sum(dim=1)
        dimension = float(torch.linalg.solve(shifted, mean).trace())
        batch = batch_by_effective_dimension(dimension, float(traces.max() / traces.mean()))
        transformed = preconditioned(matrices, damping, shifted)
        spread = (transformed @ transformed).mean(dim=0) - identity(SIZE)
        assert 1 + norm(spread) / batch <= 2 + 1e-9


def test_orthogonal_examples_need_their_number_of_draws() -> None:
    """n examples √n e_i with λ → 0: d(λ) → n, and E k² − K² = (n − 1) I, so that b = n − 1 is needed."""
    size = 8
    rows = math.sqrt(size) * identity(size)
    matrices = rows[:, :, None] * rows[:, None, :]
    damping = 1e-9
    shifted = (1 + damping) * identity(size)
    transformed = preconditioned(matrices, damping, shifted)
    spread = norm((transformed @ transformed).mean(dim=0) - identity(size))
    assert spread == pytest.approx(size - 1, rel=1e-6)
    assert batch_by_effective_dimension(size / (1 + damping)) == pytest.approx(size, rel=1e-6)


def random_spectrum(kind: str, size: int) -> Tensor:
    index = torch.arange(1, size + 1, dtype=torch.float64)
    return {
        "power law": index**-1.0,
        "steep": index**-3.0,
        "exponential": torch.exp(-0.2 * index),
        "step": torch.where(index <= 7, 1.0, 1e-3).double(),
    }[kind]


def with_spectrum(values: Tensor, generator: torch.Generator) -> Tensor:
    size = len(values)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return basis * values @ basis.T


def nystrom(matrix: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Eigenvectors and values of HΩ(ΩᵀHΩ)⁺ΩᵀH with Gaussian Ω of `rank` columns."""
    omega = torch.randn(len(matrix), rank, generator=generator, dtype=torch.float64)
    sketch = matrix @ omega
    core = omega.T @ sketch
    approximation = sketch @ torch.linalg.pinv((core + core.T) / 2, hermitian=True) @ sketch.T
    values, vectors = torch.linalg.eigh((approximation + approximation.T) / 2)
    return vectors[:, -rank:].flip(1), values[-rank:].flip(0).clamp_min(0)


# Those with a rank below p.
@pytest.mark.parametrize(
    ("kind", "relative_damping"),
    [
        ("power law", 0.1),
        *itertools.product(["steep", "exponential"], [0.1, 0.01, 1e-3]),
        ("step", 0.1),
        ("step", 0.01),
    ],
)
def test_nystroms_preconditioner(kind: str, relative_damping: float) -> None:
    size = 120
    conditions = []
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        matrix = with_spectrum(random_spectrum(kind, size), generator)
        damping = relative_damping * norm(matrix)
        shifted = matrix + damping * identity(size)
        dimension = float(torch.linalg.solve(shifted, matrix).trace())
        rank = nystrom_rank(dimension)
        assert rank < size
        vectors, values = nystrom(matrix, rank, generator)
        kept = vectors * ((values[-1] + damping) / (values + damping)) @ vectors.T
        inverse = kept + identity(size) - vectors @ vectors.T
        half = root(inverse)
        eigenvalues = torch.linalg.eigvalsh(half @ shifted @ half)
        condition = float(eigenvalues[-1] / eigenvalues[0])
        remainder = norm(matrix - vectors * values @ vectors.T)
        assert condition <= nystrom_condition(float(values[-1]), remainder, damping) * (1 + 1e-9)
        conditions.append(condition)
        # Its low-rank inverse, with the complement.
        inverse_of_rank = vectors / (values + damping) @ vectors.T
        complement = (identity(size) - vectors @ vectors.T) / damping
        error = norm(inverse_of_rank + complement - torch.linalg.inv(shifted)) * damping
        assert error <= low_rank_error(remainder, damping) + 1e-9
    assert np.mean(conditions) < NYSTROM_CONDITION


def test_the_rank_is_that_of_the_theorem() -> None:
    assert [nystrom_rank(d) for d in (0.5, 2.0, 10.1)] == [3, 7, 33]


@given(st.integers(0, 12), st.floats(1e-4, 10), st.integers(0, 50))
def test_exact_eigenpairs_leave_what_theory_says(rank: int, damping: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = random_psd_examples(20, 12, seed=seed).mean(dim=0)
    values, vectors = torch.linalg.eigh(matrix)
    kept, basis = values[12 - rank :], vectors[:, 12 - rank :]
    rhs = torch.randn(12, generator=generator, dtype=torch.float64)
    inner = basis.T @ rhs
    answer = basis @ (inner / (kept + damping)) + (rhs - basis @ inner) / damping
    solution = torch.linalg.solve(matrix + damping * identity(12), rhs)
    error = float((answer - solution).norm() / (rhs.norm() / damping))
    remainder = float(values[11 - rank]) if rank < 12 else 0.0
    assert error <= low_rank_error(remainder, damping) + 1e-9
    # The top eigenvector that is left out attains it.
    if rank < 12:
        top = vectors[:, 11 - rank]
        attained = float((top / damping - top / (remainder + damping)).norm() * damping)
        assert attained == pytest.approx(low_rank_error(remainder, damping), rel=1e-9)
    largest = float(values[-1])
    worst = float((rhs / damping - solution).norm() / (rhs.norm() / damping))
    assert worst <= identity_error(largest, damping) * (1 + 1e-9)


@given(st.floats(0.01, 1.99), st.floats(1e-3, 10), st.floats(1e-8, 0.5))
def test_neumanns_steps_are_the_first_that_suffice(share: float, damping: float, target: float) -> None:
    contraction = rate(share / (1 + damping), 0.0, 1.0, damping)
    steps = neumann_steps(contraction, target)
    assert contraction**steps <= target * (1 + 1e-6)
    assert contraction ** (steps - 1) >= target * (1 - 1e-6)


def test_neumanns_steps_at_their_ends() -> None:
    assert neumann_steps(0.0, 1e-3) == 1
    assert neumann_steps(0.5, 0.2, start=0.1) == 0
    assert neumann_steps(0.5, 0.1, start=0.8) == 3
    with pytest.raises(ValueError, match=r"contraction is 1\.2"):
        neumann_steps(1.2, 0.1)


def cg_energy_errors(values: Tensor, generator: torch.Generator, num_steps: int) -> list[float]:
    """Least energy error over the Krylov space of every dimension, by dense least squares: CG's, exactly."""
    rhs = torch.randn(len(values), generator=generator, dtype=torch.float64)
    # In the eigenbasis, and weighted so that the energy norm is the 2-norm.
    half, solution = values.sqrt(), rhs / values
    basis: list[Tensor] = []
    vector, errors = half * rhs, []
    for _ in range(num_steps):
        for _ in range(2):
            for other in basis:
                vector = vector - (other @ vector) * other
        basis.append(vector / vector.norm())
        vector = values * basis[-1]
        left = half * solution
        for other in basis:
            left = left - (other @ left) * other
        errors.append(float(left.norm() / (half * solution).norm()))
    return errors


@settings(deadline=None)
@given(st.integers(0, 6), st.floats(0.5, 4), st.floats(1e-3, 0.9), st.integers(0, 30))
def test_cg_with_outliers_keeps_to_its_bound(
    outliers: int, decades: float, smallest: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    bulk = smallest + (1 - smallest) * torch.rand(30, generator=generator, dtype=torch.float64)
    far = 10 ** (decades * (1 + torch.rand(outliers, generator=generator, dtype=torch.float64)))
    values = torch.cat([bulk, far])
    errors = cg_energy_errors(values, generator, 20)
    for step, error in enumerate(errors, start=1):
        bound = cg_energy_error_of_spectrum(values.tolist(), step)
        assert error <= bound * (1 + 1e-6) + 1e-9
        assert bound <= cg_energy_error(float(values.max() / values.min()), step) * (1 + 1e-12)
        # r more steps and κ of the rest.
        if step > outliers:
            of_the_rest = cg_energy_error(float(bulk.max() / bulk.min()), step - outliers)
            assert bound <= of_the_rest * (1 + 1e-12)


def test_cg_ends_with_the_different_eigenvalues() -> None:
    assert cg_energy_error_of_spectrum([3.0, 3.0, 1.0, 2.0], 3) == 0.0
    assert cg_energy_error_of_spectrum([3.0, 3.0, 1.0, 2.0], 2) > 0
    with pytest.raises(ValueError, match="must all be > 0"):
        cg_energy_error_of_spectrum([1.0, 0.0], 1)
