"""Traces of H² and of the sampling noise against explicit per-example matrices."""

from __future__ import annotations

import pytest
import torch

from problems import DenseOperator, GaussNewton
from problems.spectrum.sampling_noise import sampling_noise
from tests.conftest import random_psd_examples
from tests.problems.operators.small_networks import small


@pytest.mark.parametrize("heavy_tailed", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_both_traces_are_unbiased(heavy_tailed: bool, batch_size: int) -> None:
    operator = DenseOperator(random_psd_examples(30, 8, seed=3, heavy_tailed=heavy_tailed))
    generator = torch.Generator().manual_seed(0)
    found = sampling_noise(operator, batch_size, 3000, generator)
    square = operator.matrix @ operator.matrix
    noise = operator.second_moment(batch_size) - square
    for estimate, truth in ((found.trace_of_square, square.trace()), (found.trace_of_noise, noise.trace())):
        assert abs(estimate.value - float(truth)) <= 4.5 * estimate.standard_error
    assert found.trace_of_noise.value > 0


def test_it_works_on_networks_and_tokens() -> None:
    network = small("language_model", "token_cross_entropy")
    operator = network.operator(GaussNewton())
    found = sampling_noise(operator, 2, 400, torch.Generator().manual_seed(0))
    truth = float(network.gauss_newton().square().sum())
    assert abs(found.trace_of_square.value - truth) <= 4.5 * found.trace_of_square.standard_error
