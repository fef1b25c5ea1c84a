"""C against explicit per-example matrices, and the forms it is made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from problems import DenseOperator, EmpiricalFisher, GaussNewton, Hessian, MonteCarloFisher
from problems.operators.curvature import Curvature
from problems.operators.micro_batches import Size
from problems.spectrum.heterogeneity import heterogeneity
from tests.conftest import random_psd_examples
from tests.problems.operators.small_networks import small
from tests.problems.spectrum.known import SPECTRA, operator_with


@pytest.mark.parametrize("curvature", [GaussNewton(), EmpiricalFisher(), MonteCarloFisher()], ids=str)
@pytest.mark.parametrize(
    ("model", "loss"),
    [("mlp", "cross_entropy"), ("convolutional", "mse"), ("language_model", "next_token_cross_entropy")],
)
def test_forms_of_single_examples(curvature: Curvature, model: str, loss: str) -> None:
    operator = small(model, loss).operator(curvature)
    operator.micro_batches.largest = Size(3, 64)
    vectors = torch.randn(operator.shape[0], 2, dtype=torch.float64)

    def form(example: int) -> Tensor:
        matrix = operator.subset(torch.tensor([example])).dense()
        return (vectors * (matrix @ vectors)).sum(dim=0)

    expected = torch.stack([form(i) for i in range(len(operator.indices))])
    torch.testing.assert_close(operator.example_forms(vectors), expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(operator.example_forms(vectors[:, 0]), expected[:, :1], rtol=1e-10, atol=1e-13)


def test_forms_are_counted_as_forward_passes() -> None:
    operator = small("mlp", "cross_entropy").operator(GaussNewton())
    operator.example_forms(torch.zeros(operator.shape[0], 4, dtype=torch.float64))
    assert operator.work.total == pytest.approx(4)


@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_the_ratio_is_that_of_the_largest_trace(heavy_tailed: bool) -> None:
    matrices = random_psd_examples(60, 20, seed=4, rank=3, heavy_tailed=heavy_tailed)
    traces = matrices.diagonal(dim1=1, dim2=2).sum(dim=1)
    found = heterogeneity(DenseOperator(matrices), 200, torch.Generator().manual_seed(0))
    truth = float(traces.max() / traces.mean())
    assert abs(found.ratio.value - truth) <= 4.5 * found.ratio.standard_error + 0.02 * truth
    if heavy_tailed:
        assert found.example == int(traces.argmax())


def test_the_choice_of_the_largest_does_not_bias_it() -> None:
    """All traces are equal, C = 1: the largest of 300 noisy ones would be far above."""
    matrices = random_psd_examples(300, 10, seed=1)
    matrices /= matrices.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    operator = DenseOperator(matrices)
    found = [heterogeneity(operator, 4, torch.Generator().manual_seed(seed)) for seed in range(200)]
    ratios = torch.tensor([each.ratio.value for each in found])
    signs = 2.0 * torch.randint(2, (10, 4), generator=torch.Generator().manual_seed(0)) - 1
    forms = operator.example_forms(signs.double())
    assert float(forms.mean(dim=1).max() / forms.mean()) > 1.8
    assert abs(float(ratios.mean()) - 1) <= 4.5 * float(ratios.std()) / 200**0.5


def test_what_has_no_examples_says_so() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match=r"Hessian\(\) has no forms of single examples"):
        heterogeneity(small("mlp", "cross_entropy").operator(Hessian()), 3, generator)
    with pytest.raises(ValueError, match="not 0"):
        heterogeneity(operator_with(0 * SPECTRA["flat"](4)), 3, generator)
