"""The Gauss–Newton operator against explicit Jacobians and autograd's Hessian, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

from problems import GaussNewton, NetworkOperator
from problems.examples import Examples
from problems.losses import as_loss
from problems.model_function import ModelFunction

FEATURES, OUTPUTS, COUNT = 4, 3, 11


class Convolutional(nn.Module):
    """Convolution, BatchNorm in evaluation mode, attention-free pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 2)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, OUTPUTS)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.convolution(inputs.reshape(-1, 1, 2, 2))).tanh()
        return self.head(hidden.flatten(1))


def make_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    models = {
        "linear": lambda: nn.Linear(FEATURES, OUTPUTS),
        "mlp": lambda: nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, OUTPUTS)),
        "convolutional": Convolutional,
    }
    return models[kind]().double().eval()


def make_data(loss: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(COUNT, FEATURES, generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        return inputs, torch.randint(OUTPUTS, (COUNT,), generator=generator)
    return inputs, torch.rand(COUNT, OUTPUTS, generator=generator, dtype=torch.float64)


def make_operator(kind: str, loss: str, selected: str | None = None) -> NetworkOperator:
    model = make_model(kind)
    function = ModelFunction(model, selected)
    examples = Examples(make_data(loss), function.device, function.dtype)
    return NetworkOperator(GaussNewton(), function, as_loss(loss), examples)


def torch_loss(loss: str, outputs: Tensor, targets: Tensor) -> Tensor:
    losses = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss, "bce": F.binary_cross_entropy_with_logits}
    return losses[loss](outputs, targets)


def explicit_gauss_newton(kind: str, loss: str) -> Tensor:
    """Jᵀ S J with autograd's Jacobian of the outputs and autograd's Hessian of torch's own mean loss."""
    model = make_model(kind)
    inputs, targets = make_data(loss)
    names = [name for name, _ in model.named_parameters()]
    values = tuple(value.detach() for value in model.parameters())

    def network(*parameters: Tensor) -> Tensor:
        return functional_call(model, dict(zip(names, parameters, strict=True)), (inputs,)).flatten()

    parts = jacobian(network, values)
    jacobians = torch.cat([part.flatten(1) for part in parts], dim=1)
    outputs = network(*values).detach()
    curvature = hessian(lambda flat: torch_loss(loss, flat.reshape(COUNT, OUTPUTS), targets), outputs)
    return jacobians.T @ curvature @ jacobians


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
@pytest.mark.parametrize("kind", ["linear", "mlp", "convolutional"])
def test_equals_explicit_jacobians(kind: str, loss: str) -> None:
    operator = make_operator(kind, loss)
    torch.testing.assert_close(operator.dense(), explicit_gauss_newton(kind, loss), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
def test_is_the_hessian_where_the_model_is_linear(loss: str) -> None:
    model = make_model("linear")
    inputs, targets = make_data(loss)
    weight, bias = (value.detach() for value in model.parameters())

    def mean_loss(flat: Tensor) -> Tensor:
        w, c = flat[: weight.numel()].reshape(weight.shape), flat[weight.numel() :]
        return torch_loss(loss, inputs @ w.T + c, targets)

    expected = hessian(mean_loss, torch.cat([weight.flatten(), bias]))
    torch.testing.assert_close(make_operator("linear", loss).dense(), expected, rtol=1e-10, atol=1e-13)


def test_columns_equal_single_products() -> None:
    operator = make_operator("mlp", "cross_entropy")
    vectors = torch.randn(operator.shape[0], 5, dtype=torch.float64)
    singles = torch.stack([operator @ column for column in vectors.T], dim=1)
    torch.testing.assert_close(operator @ vectors, singles, rtol=1e-12, atol=1e-14)


def test_a_subset_weights_repeated_examples_by_how_often_they_occur() -> None:
    operator = make_operator("mlp", "cross_entropy")
    single = [operator.subset(torch.tensor([i])).dense() for i in range(COUNT)]
    mixed = operator.subset(torch.tensor([3, 3, 7]))
    torch.testing.assert_close(mixed.dense(), (2 * single[3] + single[7]) / 3, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(torch.stack(single).mean(0), operator.dense(), rtol=1e-10, atol=1e-13)


def test_minibatches_average_to_h(generator: torch.Generator) -> None:
    operator = make_operator("mlp", "cross_entropy")
    vector = torch.randn(operator.shape[0], generator=generator, dtype=torch.float64)
    samples = torch.stack([operator.minibatch(4, generator) @ vector for _ in range(400)])
    standard_error = samples.std(dim=0) / 400**0.5
    deviation = (samples.mean(dim=0) - operator @ vector).abs()
    assert (deviation <= 5 * standard_error + 1e-12).all()


def test_a_filter_gives_the_block_of_the_selected_parameters() -> None:
    whole = make_operator("mlp", "cross_entropy")
    head = make_operator("mlp", "cross_entropy", selected=r"^2\.")
    size = head.shape[0]
    torch.testing.assert_close(head.dense(), whole.dense()[-size:, -size:], rtol=1e-10, atol=1e-13)


def test_other_dtype_is_the_same_matrix_and_leaves_the_model_alone() -> None:
    model = make_model("mlp").float()
    function = ModelFunction(model)
    examples = Examples(make_data("mse"), function.device, function.dtype)
    operator = NetworkOperator(GaussNewton(), function, as_loss("mse"), examples)
    double = operator.to(torch.float64)
    assert double.dtype == torch.float64
    assert next(model.parameters()).dtype == torch.float32
    torch.testing.assert_close(double.dense().float(), operator.dense(), rtol=1e-4, atol=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_symmetric_and_positive_semidefinite(seed: int) -> None:
    operator = make_operator("mlp", "cross_entropy")
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randn(2, operator.shape[0], generator=generator, dtype=torch.float64)
    torch.testing.assert_close(u @ (operator @ v), v @ (operator @ u), rtol=1e-10, atol=1e-12)
    assert v @ (operator @ v) >= -1e-12


def test_reads_datasets_and_loaders_as_it_reads_tensors() -> None:
    inputs, targets = make_data("cross_entropy")
    dataset = torch.utils.data.TensorDataset(inputs, targets)
    function = ModelFunction(make_model("mlp"))
    expected = make_operator("mlp", "cross_entropy").dense()
    for data in (dataset, torch.utils.data.DataLoader(dataset, batch_size=4)):
        examples = Examples(data, function.device, function.dtype)
        operator = NetworkOperator(GaussNewton(), function, as_loss(nn.CrossEntropyLoss()), examples)
        torch.testing.assert_close(operator.dense(), expected, rtol=1e-12, atol=1e-14)
