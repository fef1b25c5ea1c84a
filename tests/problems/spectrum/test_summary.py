"""measure(): estimates within their errors, the work within its budget, and what it says of both."""

from __future__ import annotations

import pytest
import scipy.linalg
import torch

import problems
from problems import DenseOperator, GaussNewton, Hessian
from problems.spectrum import measure
from problems.spectrum.summary import SHARES
from tests.conftest import random_psd_examples
from tests.problems.operators.small_networks import small


@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_all_estimates_are_within_their_errors(heavy_tailed: bool) -> None:
    matrices = random_psd_examples(200, 40, seed=0, heavy_tailed=heavy_tailed)
    operator = DenseOperator(matrices)
    values = torch.linalg.eigvalsh(operator.matrix)
    damping = 0.2 * float(values[-1])
    found = measure(operator, budget=300, damping=damping)
    assert found.extremes.largest.value == pytest.approx(float(values[-1]), rel=2e-3)
    assert float(values[-1]) <= found.largest * (1 + 1e-12)
    square, mean_square = values.square().sum(), (matrices @ matrices).mean(dim=0)
    for estimate, truth in (
        (found.trace, values.sum()),
        (found.trace_of_square, square),
        (found.trace_of_noise, mean_square.trace() - square),
        (found.density.effective_dimension(damping), (values / (values + damping)).sum()),
    ):
        low, high = estimate.interval(0.999)
        assert low <= float(truth) <= high
    traces = matrices.diagonal(dim1=1, dim2=2).sum(dim=1)
    assert found.heterogeneity is not None
    own = float(traces[found.heterogeneity.example] / traces.mean())
    ratio = found.heterogeneity.ratio
    assert abs(ratio.value - own) <= 4.5 * ratio.standard_error
    assert not heavy_tailed or found.heterogeneity.example == int(traces.argmax())
    shifted = operator.matrix + damping * torch.eye(40, dtype=torch.float64)
    constant = scipy.linalg.eigh(mean_square.numpy(), shifted.numpy(), eigvals_only=True)[-1]
    assert found.noise_constant is not None
    assert found.noise_constant.value.value == pytest.approx(float(constant), rel=0.02)


@pytest.mark.parametrize("budget", [60, 400])
def test_it_spends_about_its_budget_and_says_on_what(budget: float) -> None:
    operator = problems.load("softmax_regression", pooling=4, training_size=300).operator
    told: list[tuple[str, float]] = []
    before = operator.work.total
    found = measure(operator, budget=budget, damping=0.01, on_progress=lambda *each: told.append(each))
    total = operator.work.total - before
    assert total <= 1.5 * budget
    assert sum(found.spent.values()) == pytest.approx(total, rel=0.05)
    assert [name for name, _ in told] == list(found.spent)
    assert set(found.spent) == set(SHARES)
    assert all(0 <= share <= 1.5 for _, share in told)


def test_a_seed_fixes_it() -> None:
    operator = small("mlp", "cross_entropy").operator(GaussNewton())
    first, again, other = (measure(operator, budget=40, seed=seed).trace for seed in (1, 1, 2))
    assert first == again != other


def test_an_indefinite_matrix_is_noticed() -> None:
    network = small("mlp", "cross_entropy")
    found = measure(network.operator(Hessian()), budget=200, damping=0.1)
    assert found.is_indefinite
    truth = float(torch.linalg.eigvalsh(network.hessian())[0])
    assert truth <= found.extremes.smallest.value < 0.9 * truth
    assert found.heterogeneity is found.noise_constant is None
    assert not measure(network.operator(GaussNewton()), budget=200).is_indefinite


def test_a_budget_for_nothing_is_refused() -> None:
    operator = small("mlp", "cross_entropy").operator(GaussNewton())
    with pytest.raises(ValueError, match="budget is 10 gradient equivalents; at least 30"):
        measure(operator, budget=10)
    with pytest.raises(ValueError, match="damping is 0"):
        measure(operator, damping=0)
    assert operator.work.total == 0
