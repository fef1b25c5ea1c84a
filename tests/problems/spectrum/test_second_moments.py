"""L_b of all batch sizes at once, and R, against LAPACK's generalised eigenvalues of explicit matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import DenseOperator
from problems.spectrum import second_moments
from problems.spectrum.second_moments import second_moment_constants
from tests.conftest import random_psd_examples
from tests.problems.operators.test_token_batches import DAMPING, exact_second_moment, operator
from tests.problems.spectrum.test_smoothness import top


@pytest.mark.parametrize("heavy_tailed", [False, True])
@pytest.mark.parametrize("damping", [1.0, 1e-2])
def test_constants_of_explicit_examples(heavy_tailed: bool, damping: float) -> None:
    matrices = random_psd_examples(40, 15, seed=2, heavy_tailed=heavy_tailed)
    operator = DenseOperator(matrices)
    identity = torch.eye(15, dtype=torch.float64)
    shifted = operator.matrix + damping * identity
    found = second_moment_constants(
        operator, damping, (1, 4, 40), torch.Generator().manual_seed(0), tolerance=1e-9, max_rounds=20
    )
    assert found.noise_constant == pytest.approx(top((matrices @ matrices).mean(dim=0), shifted), rel=1e-6)
    for draws in (1, 4, 40):
        moment = operator.second_moment(draws) + 2 * damping * operator.matrix + damping**2 * identity
        assert found.constants[draws] == pytest.approx(top(moment, shifted), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), rounds=st.integers(0, 3), damping=st.floats(1e-3, 10))
def test_few_rounds_give_lower_bounds(seed: int, rounds: int, damping: float) -> None:
    matrices = random_psd_examples(12, 20, seed)
    operator = DenseOperator(matrices)
    identity = torch.eye(20, dtype=torch.float64)
    shifted = operator.matrix + damping * identity
    generator = torch.Generator().manual_seed(seed)
    found = second_moment_constants(operator, damping, (1, 5), generator, max_rounds=rounds)
    assert found.noise_constant <= top((matrices @ matrices).mean(dim=0), shifted) * (1 + 1e-9)
    for draws, value in found.constants.items():
        moment = operator.second_moment(draws) + 2 * damping * operator.matrix + damping**2 * identity
        assert 0 < value <= top(moment, shifted) * (1 + 1e-9)


def test_the_space_turns_toward_r_as_well() -> None:
    """Of a batch of very many draws L is decided by H alone; R by what H hardly shows.

    H is large in the first 20 directions, in which examples agree; each of the others is of one example.
    """
    matrices = torch.zeros(100, 40, 40, dtype=torch.float64)
    matrices[:, range(20), range(20)] = torch.linspace(50, 60, 20, dtype=torch.float64)
    matrices[range(20), range(20, 40), range(20, 40)] = torch.linspace(100, 300, 20, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = second_moment_constants(
        DenseOperator(matrices), 1.0, (10**6,), generator, tolerance=1e-9, max_rounds=3
    )
    # 300² and 300, each in one example of a hundred.
    assert found.noise_constant == pytest.approx(900 / (3 + 1), rel=0.02)


@pytest.mark.parametrize("rows", [1, 4, 15, 16])
def test_products_of_some_rows_at_a_time_are_those_of_all(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = DenseOperator(random_psd_examples(12, 15, 3))
    whole, parts = [], []
    for found, size in ((whole, 2**18), (parts, rows)):
        monkeypatch.setattr(second_moments, "ROWS", size)
        generator = torch.Generator().manual_seed(0)
        constants = second_moment_constants(operator, 0.1, (1, 5), generator, max_rounds=2)
        found += [constants.noise_constant, *constants.constants.values()]
    assert parts == pytest.approx(whole, rel=1e-9)


def test_without_noise_it_is_the_largest_eigenvalue() -> None:
    """All examples alike: E (H̃ + λ)² = (H + λ)², whatever the batch, and R = λ_max²/(λ_max + λ)."""
    matrix = torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.0], dtype=torch.float64))
    found = second_moment_constants(
        DenseOperator(matrix.expand(6, 4, 4).clone()), 0.5, (1, 7), torch.Generator().manual_seed(0),
        tolerance=1e-12, max_rounds=10,
    )  # fmt: skip
    assert list(found.constants.values()) == pytest.approx([3.5, 3.5], rel=1e-9)
    assert found.noise_constant == pytest.approx(9 / 3.5, rel=1e-9)


@pytest.mark.parametrize("size", [1, 2, 5, 10])
def test_of_tokens_it_is_that_of_what_is_drawn(size: int) -> None:
    tokens = operator(unequal=False)
    generator = torch.Generator().manual_seed(0)
    single = tokens.single_draws(size, generator, 20 if size == 2 else 5)
    found = second_moment_constants(
        tokens, DAMPING, (tokens.draws_in(size),), generator, single=single, tolerance=1e-6, max_rounds=20
    )
    # Of pairs of tokens E h̃² is a mean over those that were drawn; five parts are all single ones.
    exact = exact_second_moment(False, size)
    assert found.constants[tokens.draws_in(size)] == pytest.approx(exact, rel=0.03 if size == 2 else 1e-3)


def test_what_makes_no_sense_is_said() -> None:
    tokens, generator = operator(unequal=False), torch.Generator()
    with pytest.raises(ValueError, match="draws is empty"):
        second_moment_constants(tokens, 1.0, (), generator)
    with pytest.raises(ValueError, match="draws is 0"):
        second_moment_constants(tokens, 1.0, (0,), generator)
