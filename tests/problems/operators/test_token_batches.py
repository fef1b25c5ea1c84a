"""Mini-batches of a language model's tokens against all that can be drawn, enumerated with dense matrices."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import scipy.linalg
import torch
from torch import Tensor

from problems import GaussNewton, NetworkOperator
from problems.examples import Examples
from problems.losses import as_loss
from problems.model_function import ModelFunction
from problems.operators.tokens import sequences_for
from problems.spectrum.smoothness import noise_constant, sampled_noise_constant, second_moment_constant
from solvers.geometry import PreconditionedOperator
from solvers.measured import measure_curvature
from solvers.preconditioner import Preconditioner
from tests.problems.operators.small_networks import Small, small

LOSS = "next_token_cross_entropy"
DAMPING = 0.02


def language_model(*, unequal: bool) -> Small:
    """Seven sequences of five tokens that count, or of five, two and none."""
    network = small("language_model", LOSS)
    return network if unequal else Small(network.model, LOSS, network.inputs, network.inputs)


@cache
def token_matrices(unequal: bool) -> list[Tensor]:
    """Of each sequence its tokens' Gauss–Newton matrices (N_s, p, p), by autograd."""
    network = language_model(unequal=unequal)
    parts = []
    for row, counted in enumerate(network.counted):
        for place in counted.nonzero()[:, 0].tolist():
            # A label at its place alone: the matrix of that token.
            targets = torch.full_like(network.targets[row : row + 1], -100)
            targets[0, place + 1] = network.targets[row, place + 1]
            own = Small(network.model, LOSS, network.inputs[row : row + 1], targets)
            parts.append((row, own.gauss_newton()))
    size = len(network.flat)
    return [
        torch.stack([matrix for owner, matrix in parts if owner == row])
        if counted.any()
        else torch.zeros(0, size, size, dtype=torch.float64)
        for row, counted in enumerate(network.counted)
    ]


def kept_tokens(length: int, share: float) -> int:
    """Of one sequence alone."""
    return min(length, max(1, int(length * share + 0.5)))


def enumerated_square(unequal: bool, batch_size: int) -> Tensor:
    """E h̃² of a mini-batch that is a part of one sequence: over all sequences and all of their subsets."""
    matrices = token_matrices(unequal)
    mean = sum(len(own) for own in matrices) / len(matrices)
    assert batch_size <= mean
    total = torch.zeros_like(matrices[0][0])
    for own in matrices:
        if len(own):
            subsets = list(itertools.combinations(range(len(own)), kept_tokens(len(own), batch_size / mean)))
            for subset in subsets:
                part = own[list(subset)].mean(dim=0) * len(own) / mean
                total += part @ part / len(subsets) / len(matrices)
    return total


def whole_sequences(unequal: bool) -> Tensor:
    matrices = token_matrices(unequal)
    mean = sum(len(own) for own in matrices) / len(matrices)
    return torch.stack([own.sum(dim=0) / mean for own in matrices])


def top(a: Tensor, b: Tensor) -> float:
    return float(scipy.linalg.eigh(a.numpy(), b.numpy(), eigvals_only=True)[-1])


def operator(*, unequal: bool) -> NetworkOperator:
    return language_model(unequal=unequal).operator(GaussNewton())


# A token, a part of a sequence, a whole one, and several of which some are kept.
@pytest.mark.parametrize(
    ("unequal", "size"), [(False, 1), (True, 1), (True, 3), (False, 3), (False, 5), (False, 8), (True, 8)]
)
def test_mini_batches_average_to_h(unequal: bool, size: int) -> None:
    found = operator(unequal=unequal)
    matrix = language_model(unequal=unequal).gauss_newton()
    generator = torch.Generator().manual_seed(size)
    vectors = torch.randn(found.shape[0], 3, generator=generator, dtype=torch.float64)
    count = 150
    samples = torch.stack([found.minibatch(size, generator) @ vectors for _ in range(count)])
    deviation = samples.mean(dim=0) - matrix @ vectors
    # One number for each vector, so that four standard errors are few among many.
    along = (samples * (matrix @ vectors)).sum(dim=1)
    expected = (matrix @ vectors).square().sum(dim=0)
    assert ((along.mean(dim=0) - expected).abs() <= 4 * along.std(dim=0) / count**0.5).all()
    # E ‖mean − H v‖² is the sum of the squared standard errors.
    assert deviation.norm() <= 4 * (samples.var(dim=0).sum() / count).sqrt()


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_closed_form_of_a_part_is_that_of_all_subsets(unequal: bool, size: int) -> None:
    """(1 − c) g² + c mean h², c = (N − k)/(k(N − 1))."""
    matrices = token_matrices(unequal)
    mean = sum(len(own) for own in matrices) / len(matrices)
    number, share = sequences_for(size, mean)
    if number > 1 or share == 1:
        pytest.skip("whole sequences, or several")
    total = torch.zeros_like(matrices[0][0])
    for own in matrices:
        if len(own):
            kept = kept_tokens(len(own), share)
            rest = (len(own) - kept) / (kept * (len(own) - 1)) if len(own) > 1 else 0.0
            whole = own.mean(dim=0)
            square = (1 - rest) * whole @ whole + rest * (own @ own).mean(dim=0)
            total += (len(own) / mean) ** 2 * square / len(matrices)
    torch.testing.assert_close(total, enumerated_square(unequal, size), rtol=1e-10, atol=1e-15)


def test_single_tokens_are_seen_all_where_there_are_as_many_parts() -> None:
    found = operator(unequal=False)
    vectors = torch.randn(found.shape[0], 2, dtype=torch.float64)
    single = found.single_draws(1, torch.Generator().manual_seed(0))
    assert single.num_draws == 7 * 5
    torch.testing.assert_close(single @ vectors, found @ vectors, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(
        single.mean_square(vectors), enumerated_square(False, 1) @ vectors, rtol=1e-9, atol=1e-13
    )


@pytest.mark.parametrize(("unequal", "size"), [(False, 2), (False, 3), (True, 1), (True, 2)])
def test_parts_have_the_expected_square(unequal: bool, size: int) -> None:
    found, truth = operator(unequal=unequal), enumerated_square(unequal, size)
    vector = torch.randn(found.shape[0], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    draws = []
    for seed in range(40):
        single = found.single_draws(size, torch.Generator().manual_seed(seed), repeats=4)
        draws.append(float(vector @ single.mean_square(vector)))
    values = torch.tensor(draws)
    assert abs(float(values.mean() - vector @ truth @ vector)) <= 4 * float(values.std()) / 40**0.5


@pytest.mark.parametrize(("size", "draws"), [(1, 1), (4, 1), (5, 1), (6, 2), (10, 2), (11, 3)])
def test_draws_are_as_few_sequences_as_hold_the_tokens(size: int, draws: int) -> None:
    found = operator(unequal=False)
    assert found.draws_in(size) == draws
    whole = found.single_draws(size, torch.Generator())
    assert (whole is found) == (size % 5 == 0)
    images = small("mlp", "cross_entropy").operator(GaussNewton())
    assert images.draws_in(size) == size
    assert images.single_draws(size, torch.Generator()) is images


def test_whole_sequences_are_kept_whole_where_a_token_less_is_asked_for() -> None:
    """17 tokens in 7 sequences: 2 of them are one sequence on average, not five sixths of it."""
    found = operator(unequal=True)
    assert found.num_examples / found.num_draws == pytest.approx(17 / 7, abs=2)
    length = found.num_examples / found.num_draws
    assert found.single_draws(int(length), torch.Generator()) is found
    assert found.single_draws(int(8 * length), torch.Generator()) is found


def exact_second_moment(unequal: bool, batch_size: int) -> float:
    """L_b from the enumerated E H̃², for m sequences of which k tokens of N are kept."""
    sequences = whole_sequences(unequal)
    matrix = sequences.mean(dim=0)
    length = sum(len(own) for own in token_matrices(unequal)) / len(sequences)
    draws, share = sequences_for(batch_size, length)
    square = (
        (sequences @ sequences).mean(dim=0)
        if share == 1
        else enumerated_square(unequal, batch_size if draws == 1 else round(share * length))
    )
    identity = torch.eye(len(matrix), dtype=torch.float64)
    moment = (1 - 1 / draws) * matrix @ matrix + square / draws
    moment += 2 * DAMPING * matrix + DAMPING**2 * identity
    return top(moment, matrix + DAMPING * identity)


# Eight tokens are four of each of two sequences: k need not be rounded.
@pytest.mark.parametrize(
    ("unequal", "size"),
    [(False, 1), (False, 2), (False, 4), (False, 5), (False, 8), (False, 20), (True, 1), (True, 2)],
)
def test_the_second_moment_is_that_of_the_operators_own_mini_batches(unequal: bool, size: int) -> None:
    found, exact = operator(unequal=unequal), exact_second_moment(unequal, size)
    generator = torch.Generator().manual_seed(0)
    constant = second_moment_constant(found, DAMPING, size, generator, parts=60, max_steps=100)
    # Of seven sequences 420 parts are few, unless whole ones leave nothing to be drawn.
    known = size in (5, 20)
    assert constant.value.value == pytest.approx(exact, rel=1e-3 if known else 0.06)


@pytest.mark.parametrize("unequal", [False, True])
def test_what_lissa_measures_bounds_it(unequal: bool) -> None:
    found = operator(unequal=unequal)
    measured = measure_curvature(found, DAMPING, torch.Generator().manual_seed(0))
    for size in (1, 2, 4, 5, 8, 20) if not unequal else (1, 2):
        exact = exact_second_moment(unequal, size)
        # R is a quotient that LOBPCG found, short of the top by its residual.
        assert 0.97 * exact <= measured.second_moment(size) <= 2 * exact


def test_a_token_of_a_single_sequence_has_noise_that_the_sequence_has_not() -> None:
    """Tokens with blocks of their own: with top s L is ((s + λ)² + λ²)/(s + 2λ), of both tokens s/2 + λ."""
    torch.manual_seed(0)
    function = ModelFunction(torch.nn.Embedding(2, 3).double())
    tokens = torch.tensor([[0, 1]])
    examples = Examples((tokens, tokens), function.device, function.dtype)
    found = NetworkOperator(GaussNewton(), function, as_loss("token_cross_entropy"), examples)
    probabilities = function.parameters["weight"].softmax(dim=1)
    tops = [float(torch.linalg.eigvalsh(p.diag() - p.outer(p))[-1]) for p in probabilities]
    exact = max(((s + DAMPING) ** 2 + DAMPING**2) / (s + 2 * DAMPING) for s in tops)
    whole = max(tops) / 2 + DAMPING
    assert exact > 1.5 * whole
    measured = measure_curvature(found, DAMPING, torch.Generator().manual_seed(0))
    # The bound is twice the first part where both parts are at the top.
    assert 0.97 * exact <= measured.second_moment(1) <= 1.5 * exact
    assert measured.second_moment(2) == pytest.approx(whole, rel=0.02)
    constant = second_moment_constant(found, DAMPING, 1, torch.Generator().manual_seed(0), tolerance=1e-6)
    assert constant.value.value == pytest.approx(exact, rel=1e-6)


def test_preconditioned_parts_are_those_of_h() -> None:
    found = operator(unequal=False)
    scales = 1 + torch.arange(found.shape[0], dtype=torch.float64) / 10

    def divide(vectors: Tensor) -> Tensor:
        return vectors / scales.reshape(-1, *(1,) * (vectors.ndim - 1))

    def halve(vectors: Tensor) -> Tensor:
        return vectors / scales.sqrt().reshape(-1, *(1,) * (vectors.ndim - 1))

    preconditioned = PreconditionedOperator(found, DAMPING, Preconditioner(divide, halve))
    assert preconditioned.draws_in(8) == 2
    root = torch.diag(scales.rsqrt())
    identity = torch.eye(found.shape[0], dtype=torch.float64)
    tokens = torch.cat(token_matrices(False))
    each = root @ (tokens + DAMPING * identity) @ root - identity
    vector = torch.randn(found.shape[0], dtype=torch.float64)
    single = preconditioned.single_draws(1, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        single.mean_square(vector), (each @ each).mean(dim=0) @ vector, rtol=1e-9, atol=1e-12
    )


def test_r_of_single_tokens_is_that_of_their_matrices() -> None:
    found, matrix = operator(unequal=False), language_model(unequal=False).gauss_newton()
    shifted = matrix + DAMPING * torch.eye(len(matrix), dtype=torch.float64)
    exact = top(enumerated_square(False, 1), shifted)
    generator = torch.Generator().manual_seed(0)
    constant = noise_constant(found, DAMPING, generator, batch_size=1, tolerance=1e-4, max_steps=200)
    assert constant.value.value == pytest.approx(exact, rel=1e-3)
    drawn = sampled_noise_constant(found, DAMPING, 200, generator, batch_size=1, tolerance=1e-3, max_steps=60)
    assert drawn.value.value == pytest.approx(exact, rel=0.3)
