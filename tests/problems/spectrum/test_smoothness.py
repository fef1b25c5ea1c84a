"""R and L_b against LAPACK's generalised eigenvalues of explicit matrices."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from problems import DenseOperator, EmpiricalFisher, GaussNewton
from problems.operators.curvature import Curvature
from problems.operators.micro_batches import Size
from problems.spectrum.pencil import largest_of_pencil
from problems.spectrum.smoothness import noise_constant, second_moment_constant
from tests.conftest import random_psd_examples
from tests.problems.operators.small_networks import small


def top(a: Tensor, b: Tensor) -> float:
    return float(scipy.linalg.eigh(a.numpy(), b.numpy(), eigvals_only=True)[-1])


@pytest.mark.parametrize("seed", range(6))
def test_the_top_of_a_random_pencil(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = 4 + 12 * seed
    factors = torch.randn(2, size, 2 * size, generator=generator, dtype=torch.float64)
    a, b = factors @ factors.mT / size
    start = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    found = largest_of_pencil(lambda v: a @ v, lambda v: b @ v, start, tolerance=1e-8, max_steps=400)
    assert found.value.value == pytest.approx(top(a, b), rel=1e-8)
    early = largest_of_pencil(lambda v: a @ v, lambda v: b @ v, start, max_steps=2)
    assert early.value.value <= top(a, b) * (1 + 1e-12)


@pytest.mark.parametrize("heavy_tailed", [False, True])
@pytest.mark.parametrize("damping", [1.0, 1e-2])
def test_constants_of_explicit_examples(heavy_tailed: bool, damping: float) -> None:
    matrices = random_psd_examples(40, 15, seed=2, heavy_tailed=heavy_tailed)
    operator = DenseOperator(matrices)
    identity = torch.eye(15, dtype=torch.float64)
    shifted = operator.matrix + damping * identity
    mean_square = (matrices @ matrices).mean(dim=0)
    generator = torch.Generator().manual_seed(0)
    noise = noise_constant(operator, damping, generator, tolerance=1e-6, max_steps=200)
    assert noise.value.value == pytest.approx(top(mean_square, shifted), rel=1e-6)
    largest = float(torch.linalg.eigvalsh(operator.matrix)[-1])
    for batch_size in (1, 4, 40):
        moment = operator.second_moment(batch_size) + 2 * damping * operator.matrix + damping**2 * identity
        exact = top(moment, shifted)
        found = second_moment_constant(
            operator, damping, batch_size, generator, tolerance=1e-6, max_steps=200
        )
        assert found.value.value == pytest.approx(exact, rel=1e-6)
        whole = largest + damping
        bound = whole - largest**2 / (batch_size * whole) + noise.value.value / batch_size
        assert exact <= bound * (1 + 1e-6)


@pytest.mark.parametrize("curvature", [GaussNewton(), EmpiricalFisher()], ids=str)
@pytest.mark.parametrize(
    ("model", "loss"),
    [("mlp", "cross_entropy"), ("convolutional", "bce"), ("language_model", "token_cross_entropy")],
)
@pytest.mark.parametrize("pass_size", [64, 2])
def test_mean_squares_of_networks(curvature: Curvature, model: str, loss: str, pass_size: int) -> None:
    operator = small(model, loss).operator(curvature)
    operator.micro_batches.largest = Size(pass_size, 64)
    matrices = torch.stack([operator.subset(torch.tensor([i])).dense() for i in range(len(operator.indices))])
    vectors = torch.randn(operator.shape[0], 2, dtype=torch.float64)
    before = operator.work.total
    found = operator.mean_square(vectors)
    assert operator.work.total - before == pytest.approx(2 * 9 / 3)
    torch.testing.assert_close(found, (matrices @ matrices).mean(dim=0) @ vectors, rtol=1e-9, atol=1e-13)


def test_more_data_in_a_batch_lowers_the_constant() -> None:
    operator = DenseOperator(random_psd_examples(40, 15, seed=2, heavy_tailed=True))
    generator = torch.Generator().manual_seed(0)
    found = [second_moment_constant(operator, 0.1, b, generator).value.value for b in (1, 4, 16, 256)]
    assert np.all(np.diff(found) < 0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        second_moment_constant(operator, 0.1, 0, generator)
    with pytest.raises(ValueError, match="damping is 0"):
        noise_constant(operator, 0.0, generator)
