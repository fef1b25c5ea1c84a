"""How a network's matrix is computed changes nothing: passes, columns, samples, dtypes, kinds of data."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from problems import EmpiricalFisher, GaussNewton, Hessian, MonteCarloFisher, NetworkOperator, from_model
from problems.examples import Examples
from problems.losses import as_loss
from problems.model_function import ModelFunction
from problems.operators.curvature import Curvature
from problems.operators.micro_batches import Size
from tests.problems.operators.small_networks import COUNT, SEQUENCES, Small, small

CURVATURES: list[Curvature] = [GaussNewton(), Hessian(), EmpiricalFisher(), MonteCarloFisher(num_samples=2)]
NETWORKS = [("mlp", "cross_entropy"), ("language_model", "next_token_cross_entropy")]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.fixture(params=NETWORKS, ids=lambda case: case[0])
def network(request: pytest.FixtureRequest) -> Small:
    return small(*request.param)


@pytest.mark.parametrize("curvature", CURVATURES, ids=str)
@pytest.mark.parametrize("pass_size", [1, 4, 7])
def test_passes_change_nothing(network: Small, curvature: Curvature, pass_size: int) -> None:
    operator, whole = network.operator(curvature), network.operator(curvature)
    operator.micro_batches.largest = Size(pass_size, 64)
    vectors = torch.randn(operator.shape[0], 3, dtype=torch.float64)
    close(operator @ vectors, whole @ vectors)


@pytest.mark.parametrize("curvature", CURVATURES, ids=str)
def test_columns_equal_single_products(network: Small, curvature: Curvature) -> None:
    operator = network.operator(curvature)
    vectors = torch.randn(operator.shape[0], 5, dtype=torch.float64)
    singles = torch.stack([operator @ column for column in vectors.T], dim=1)
    torch.testing.assert_close(operator @ vectors, singles, rtol=1e-12, atol=1e-14)


def test_a_subset_weights_repeated_examples_by_how_often_they_occur(network: Small) -> None:
    operator = network.operator(GaussNewton())
    single = [operator.subset(torch.tensor([i])).dense() for i in range(len(network.targets))]
    mixed = operator.subset(torch.tensor([3, 3, 1]))
    close(mixed.dense(), (2 * single[3] + single[1]) / 3)
    close(torch.stack(single).mean(0), operator.dense())


@pytest.mark.parametrize("curvature", CURVATURES, ids=str)
def test_minibatches_average_to_h(network: Small, curvature: Curvature, generator: torch.Generator) -> None:
    operator = network.operator(curvature)
    vector = torch.randn(operator.shape[0], generator=generator, dtype=torch.float64)
    samples = torch.stack([operator.minibatch(4, generator) @ vector for _ in range(400)])
    standard_error = samples.std(dim=0) / 400**0.5
    deviation = (samples.mean(dim=0) - operator @ vector).abs()
    assert (deviation <= 5 * standard_error + 1e-12).all()


def test_the_unit_is_what_sizes_are_counted_in() -> None:
    images = small("mlp", "cross_entropy").operator(GaussNewton())
    assert (images.unit, images.num_examples) == ("example", COUNT)
    network = small("language_model", "token_cross_entropy")
    tokens = network.operator(GaussNewton())
    assert (tokens.unit, tokens.num_examples) == ("token", int(network.counted.sum()))
    generator = torch.Generator().manual_seed(0)
    assert images.minibatch(5, generator).num_examples == 5
    full = Small(network.model, network.loss, network.inputs, network.inputs)
    for size in (2, 6, 8, 20):
        assert full.operator(GaussNewton()).minibatch(size, generator).num_examples == size


def test_a_sequence_costs_the_same_whether_all_of_its_tokens_count_or_one() -> None:
    operator = small("language_model", "token_cross_entropy").operator(GaussNewton())
    batch = operator.minibatch(1, torch.Generator().manual_seed(0))
    _ = batch @ torch.zeros(operator.shape[0], dtype=torch.float64)
    assert operator.work.total == pytest.approx(5 / 3 / SEQUENCES)


def test_no_sample_is_drawn_from_a_sample_of_tokens() -> None:
    operator = small("language_model", "token_cross_entropy").operator(GaussNewton())
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="draw from the whole data"):
        operator.minibatch(2, generator).minibatch(1, generator)
    with pytest.raises(ValueError, match="at least 1 token"):
        operator.minibatch(0, generator)


def test_a_filter_gives_the_block_of_the_selected_parameters() -> None:
    network = small("mlp", "cross_entropy")
    whole, head = network.operator(GaussNewton()), network.operator(GaussNewton(), selected=r"^2\.")
    size = head.shape[0]
    close(head.dense(), whole.dense()[-size:, -size:])


@pytest.mark.parametrize("curvature", CURVATURES, ids=str)
def test_other_dtype_is_the_same_matrix_and_leaves_the_model_alone(
    network: Small, curvature: Curvature
) -> None:
    single = Small(copy.deepcopy(network.model).float(), network.loss, network.inputs, network.targets)
    operator = single.operator(curvature)
    vector = torch.randn(operator.shape[0])
    product = operator @ vector
    double = operator.to(torch.float64)
    assert double.dtype == torch.float64
    assert next(single.model.parameters()).dtype == product.dtype == torch.float32
    torch.testing.assert_close(double @ vector.double(), product.double(), rtol=1e-4, atol=1e-6)
    assert double.work is operator.work


def test_reads_datasets_and_loaders_as_it_reads_tensors() -> None:
    network = small("mlp", "cross_entropy")
    dataset = torch.utils.data.TensorDataset(network.inputs, network.targets)
    function = ModelFunction(network.model)
    expected = network.operator(GaussNewton()).dense()
    for data in (dataset, torch.utils.data.DataLoader(dataset, batch_size=4)):
        examples = Examples(data, function.device, function.dtype)
        operator = NetworkOperator(GaussNewton(), function, as_loss(nn.CrossEntropyLoss()), examples)
        torch.testing.assert_close(operator.dense(), expected, rtol=1e-12, atol=1e-14)


def test_gradients_of_sequences_are_means_over_their_tokens() -> None:
    network = small("language_model", "next_token_cross_entropy")
    data = (network.inputs, network.targets)
    with pytest.raises(ValueError, match="query 4 has no token with a label that counts"):
        from_model(network.model, network.loss, data, data, damping=1)
    problem = from_model(network.model, network.loss, data, tuple(part[:4] for part in data), damping=1)
    assert problem.task is not None
    for index, gradient in enumerate(problem.columns().T):
        one = slice(index, index + 1)
        alone = Small(network.model, network.loss, network.inputs[one], network.targets[one])
        mean = alone.losses(alone.model(alone.inputs)[alone.counted], alone.labels).mean()
        parts = torch.autograd.grad(mean, list(network.model.parameters()))
        close(gradient, torch.cat([part.flatten() for part in parts]))
    losses = network.losses(network.model(network.inputs)[network.counted], network.labels)
    parts = torch.autograd.grad(losses.mean(), list(network.model.parameters()))
    close(problem.task.training_gradient()[:, 0], torch.cat([part.flatten() for part in parts]))


@pytest.mark.parametrize(("value", "where"), [(1e200, r"layer 1 \(Square\)"), (float("nan"), "inputs do")])
def test_the_first_layer_that_is_not_finite_is_named(value: float, where: str) -> None:
    class Square(nn.Module):
        def forward(self, hidden: Tensor) -> Tensor:
            return hidden.square()

    model = nn.Sequential(nn.Linear(4, 4), Square(), nn.Linear(4, 3)).double().eval()
    inputs = torch.randn(9, 4, dtype=torch.float64)
    inputs[7] = value
    network = Small(model, "cross_entropy", inputs, torch.arange(9) % 3)
    operator = network.operator(GaussNewton())
    with pytest.raises(ArithmeticError, match=where):
        _ = operator @ torch.ones(operator.shape[0], dtype=torch.float64)


def test_a_product_that_overflows_by_its_vector_alone_is_left_to_the_solver() -> None:
    """A solver that runs away is told so by its guard; no layer is to blame."""
    operator = small("mlp", "cross_entropy").operator(GaussNewton())
    huge = torch.full((operator.shape[0],), 1e308, dtype=torch.float64)
    huge[::2] *= -1
    assert not torch.isfinite(operator @ huge).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("curvature", CURVATURES, ids=str)
def test_cuda_equals_the_cpu(network: Small, curvature: Curvature) -> None:
    vectors = torch.randn(len(network.flat), 3, dtype=torch.float64)
    expected = network.operator(curvature) @ vectors
    there = Small(copy.deepcopy(network.model).cuda(), network.loss, network.inputs, network.targets)
    found = there.operator(curvature) @ vectors.cuda()
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-8, atol=1e-10)
