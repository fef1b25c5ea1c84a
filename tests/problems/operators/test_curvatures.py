"""Every curvature of every loss against explicit Jacobians and autograd's Hessian, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from problems import EmpiricalFisher, GaussNewton, Hessian, MonteCarloFisher, NetworkOperator
from problems.losses import as_loss
from problems.operators.recording import RECORD_AFTER
from tests.problems.operators.small_networks import Small, small

CASES = [
    *(
        (model, loss)
        for model in ("linear", "mlp", "convolutional")
        for loss in ("cross_entropy", "mse", "bce")
    ),
    ("language_model", "token_cross_entropy"),
    ("language_model", "next_token_cross_entropy"),
]
CURVATURES = [GaussNewton(), Hessian(), EmpiricalFisher(), MonteCarloFisher(num_samples=2)]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("model", "loss"), CASES)
def test_gauss_newton_equals_explicit_jacobians(model: str, loss: str) -> None:
    network = small(model, loss)
    close(network.operator(GaussNewton()).dense(), network.gauss_newton())


@pytest.mark.parametrize(("model", "loss"), CASES)
def test_hessian_equals_autograd(model: str, loss: str) -> None:
    network = small(model, loss)
    close(network.operator(Hessian()).dense(), network.hessian())


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
def test_gauss_newton_is_the_hessian_where_the_model_is_linear(loss: str) -> None:
    network = small("linear", loss)
    close(network.operator(GaussNewton()).dense(), network.hessian())


@pytest.mark.parametrize(("model", "loss"), CASES)
def test_empirical_fisher_equals_outer_products_of_gradients(model: str, loss: str) -> None:
    network = small(model, loss)
    close(network.operator(EmpiricalFisher()).dense(), network.fisher(network.labels))


def drawn_labels(network: Small, operator: NetworkOperator) -> list[Tensor]:
    """The operator's own draws, by sample, for the units that count."""
    everything = torch.arange(len(network.targets))
    sampled = operator.batch(everything).sampled
    drawn = [Small(network.model, network.loss, network.inputs, targets) for targets in sampled]
    if "token" not in network.loss:
        return [each.labels for each in drawn]
    return [each.aligned[network.counted] for each in drawn]


@pytest.mark.parametrize(("model", "loss"), CASES)
def test_monte_carlo_fisher_equals_outer_products_at_its_drawn_targets(model: str, loss: str) -> None:
    network = small(model, loss)
    operator = network.operator(MonteCarloFisher(num_samples=3, seed=5))
    # bce is the mean over its 3 outputs: a third of a negative log-likelihood.
    power = 1 / 3 if loss == "bce" else 1
    matrices = [network.fisher(labels) / power for labels in drawn_labels(network, operator)]
    assert len(matrices) == 3
    assert not torch.equal(matrices[0], matrices[1])
    close(operator.dense(), torch.stack(matrices).mean(dim=0))


@pytest.mark.parametrize(("model", "loss"), [*CASES[3:6], CASES[-1]])
def test_monte_carlo_fisher_has_the_gauss_newton_matrix_as_its_mean(model: str, loss: str) -> None:
    network = small(model, loss)
    count = 120
    samples = [network.operator(MonteCarloFisher(seed=seed)) for seed in range(count)]
    vector = torch.randn(len(network.flat), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    products = torch.stack([operator @ vector for operator in samples])
    standard_error = products.std(dim=0) / count**0.5
    deviation = (products.mean(dim=0) - network.gauss_newton() @ vector).abs()
    assert (deviation <= 5 * standard_error + 1e-12).all()


def test_drawn_targets_are_fixed_by_the_seed_and_shared_by_all_that_derives() -> None:
    network = small("mlp", "mse")
    operator = network.operator(MonteCarloFisher(seed=1))
    matrix = operator.dense()
    close(network.operator(MonteCarloFisher(seed=1)).dense(), matrix)
    assert not torch.allclose(network.operator(MonteCarloFisher(seed=2)).dense(), matrix)
    close(operator.to(torch.float64).dense(), matrix)
    singles = [operator.subset(torch.tensor([i])).dense() for i in range(len(network.targets))]
    close(torch.stack(singles).mean(dim=0), matrix)


@pytest.mark.usefixtures("nothing_retained")
@pytest.mark.parametrize("curvature", CURVATURES, ids=str)
@pytest.mark.parametrize(("model", "loss"), [CASES[3], CASES[-1]])
def test_recorded_products_are_the_same_numbers(curvature: object, model: str, loss: str) -> None:
    operator = small(model, loss).operator(curvature)  # type: ignore[arg-type]
    vectors = torch.randn(operator.shape[0], 3, dtype=torch.float64)
    first = operator @ vectors
    for _ in range(RECORD_AFTER + 3):
        assert torch.equal(operator @ vectors, first)
    recordings = list(operator.shared.recorder._recordings.values())
    assert recordings
    assert all(recordings)


@pytest.mark.parametrize("curvature", CURVATURES, ids=str)
def test_work_counts_forward_passes(curvature: object) -> None:
    operator = small("mlp", "cross_entropy").operator(curvature)  # type: ignore[arg-type]
    _ = operator @ torch.zeros(operator.shape[0], 2, dtype=torch.float64)
    # Gradient 3; Hessian's product 3 + 6k; J's 1 + 4k; a forward pass draws the targets.
    expected = {Hessian(): 15, MonteCarloFisher(num_samples=2): 9 + 1}.get(curvature, 9)  # type: ignore[call-overload]
    assert operator.work.total == pytest.approx(expected / 3)


@given(st.integers(0, 10_000), st.sampled_from(CURVATURES), st.sampled_from([CASES[3], CASES[-1]]))
@settings(max_examples=30, deadline=None)
def test_symmetric_and_positive_semidefinite_where_it_says_so(
    seed: int, curvature: GaussNewton, case: tuple[str, str]
) -> None:
    operator = small(*case).operator(curvature)
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randn(2, operator.shape[0], generator=generator, dtype=torch.float64)
    torch.testing.assert_close(u @ (operator @ v), v @ (operator @ u), rtol=1e-9, atol=1e-11)
    if operator.is_psd:
        assert v @ (operator @ v) >= -1e-12


def test_only_the_hessian_is_not_called_positive_semidefinite() -> None:
    network = small("mlp", "cross_entropy")
    assert [network.operator(each).is_psd for each in CURVATURES] == [True, False, True, True]
    assert torch.linalg.eigvalsh(network.operator(Hessian()).dense())[0] < -1e-3


@pytest.mark.parametrize(("model", "loss"), CASES)
def test_a_loss_gradient_is_autograds(model: str, loss: str) -> None:
    network = small(model, loss)
    criterion = as_loss(loss)
    outputs = network.model(network.inputs).detach().requires_grad_()
    total = criterion.per_unit(outputs, network.targets).sum()
    (expected,) = torch.autograd.grad(total, outputs)
    counted = criterion.counted(network.targets)
    close(criterion.gradient(outputs, network.targets)[counted], expected[counted])
    unit_losses = network.losses(network.outputs(network.flat), network.labels)
    close(criterion.per_unit(outputs, network.targets)[counted], unit_losses)
