"""What a sequence is worth, against the exact noise of dense matrices and where it is known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from problems import GaussNewton, NetworkOperator
from problems.examples import Examples
from problems.losses import as_loss
from problems.model_function import ModelFunction
from problems.spectrum import measure
from problems.spectrum.estimate import Estimate
from problems.spectrum.sampling_noise import SamplingNoise
from problems.spectrum.sequence_correlation import SequenceCorrelation, sequence_correlation
from tests.problems.operators.small_networks import small
from tests.problems.operators.test_token_batches import enumerated_square, operator, whole_sequences

VOCABULARY = 4


def bigrams(tokens: Tensor) -> NetworkOperator:
    """Every token judged by its own logits, one row of a table of random numbers for each token."""
    torch.manual_seed(0)
    model = nn.Embedding(VOCABULARY, VOCABULARY).double()
    function = ModelFunction(model)
    examples = Examples((tokens, tokens), function.device, function.dtype)
    return NetworkOperator(GaussNewton(), function, as_loss("token_cross_entropy"), examples)


@pytest.mark.parametrize("unequal", [False, True])
def test_it_is_the_ratio_of_the_exact_noises(unequal: bool) -> None:
    found = sequence_correlation(operator(unequal=unequal), 200, torch.Generator().manual_seed(0))
    sequences = whole_sequences(unequal)
    square = sequences.mean(dim=0) @ sequences.mean(dim=0)
    whole = float(((sequences @ sequences).mean(dim=0) - square).trace())
    one = float((enumerated_square(unequal, 1) - square).trace())
    assert abs(found.worth.value - one / whole) <= 4 * found.worth.standard_error
    assert found.worth.standard_error < 0.3 * found.worth.value
    effect = found.length * whole / one
    assert abs(found.design_effect.value - effect) <= 4 * found.design_effect.standard_error


def test_a_sequence_of_one_token_repeated_is_worth_one_token() -> None:
    tokens = torch.arange(40)[:, None].expand(-1, 6) % VOCABULARY
    found = sequence_correlation(bigrams(tokens), 150, torch.Generator().manual_seed(0))
    assert found.length == 6
    assert abs(found.worth.value - 1) <= 4 * found.worth.standard_error


def test_independent_tokens_are_worth_as_many() -> None:
    tokens = torch.randint(VOCABULARY, (2000, 6), generator=torch.Generator().manual_seed(5))
    found = sequence_correlation(bigrams(tokens), 150, torch.Generator().manual_seed(0))
    assert abs(found.worth.value - 6) <= 4 * found.worth.standard_error
    assert abs(found.design_effect.value - 1) <= 4 * found.design_effect.standard_error


def test_sequences_that_are_all_alike_have_no_noise() -> None:
    tokens = (torch.arange(6) % VOCABULARY).expand(5, -1)
    found = sequence_correlation(bigrams(tokens), 20, torch.Generator().manual_seed(0))
    # Up to rounding: a sequence's matrix is H.
    assert found.worth.value > 1e20
    noises = [
        SamplingNoise(size, Estimate(1.0), Estimate(value, 0.1 * value, 30))
        for size, value in ((1, 4.0), (6, 0.0))
    ]
    assert SequenceCorrelation(6.0, *noises).worth.value == math.inf
    assert SequenceCorrelation(6.0, *noises).design_effect.value == 0


def test_errors_add_as_squares() -> None:
    noises = [
        SamplingNoise(size, Estimate(1.0), Estimate(value, error, samples))
        for size, value, error, samples in ((1, 8.0, 0.24, 50), (6, 2.0, 0.08, 40))
    ]
    found = SequenceCorrelation(6.0, *noises)
    # √(0.03² + 0.04²) = 0.05
    assert (found.worth.value, found.worth.samples) == (4.0, 40)
    assert found.worth.standard_error == pytest.approx(0.05 * 4)
    assert (found.design_effect.value, found.design_effect.samples) == (1.5, 40)
    assert found.design_effect.standard_error == pytest.approx(0.05 * 1.5)


def test_the_summary_has_it_for_tokens_alone() -> None:
    found = measure(operator(unequal=False), budget=200, damping=0.02)
    assert (found.unit, found.units_per_draw) == ("token", 5)
    assert found.correlation is not None
    sequences = whole_sequences(False)
    square = sequences.mean(dim=0) @ sequences.mean(dim=0)
    noise = 5 * float(((sequences @ sequences).mean(dim=0) - square).trace())
    assert abs(found.trace_of_noise.value - noise) <= 4 * found.trace_of_noise.standard_error
    images = measure(small("mlp", "cross_entropy").operator(GaussNewton()), budget=40)
    assert (images.unit, images.units_per_draw, images.correlation) == ("example", 1, None)


def test_where_there_are_no_sequences_it_says_so() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="count examples, 1 to a draw"):
        sequence_correlation(small("mlp", "cross_entropy").operator(GaussNewton()), 3, generator)
    with pytest.raises(ValueError, match="count tokens, 1 to a draw"):
        sequence_correlation(bigrams(torch.zeros(3, 1, dtype=torch.long)), 3, generator)
