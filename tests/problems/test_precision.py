"""What a product's precision is, and that nothing outside changes it, nor it anything outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.func import functional_call

from problems import GaussNewton, Hessian, NetworkOperator, from_model
from problems.examples import Examples
from problems.losses import as_loss
from problems.model_function import ModelFunction
from problems.operators.recording import RECORD_AFTER
from problems.precision import Precision, check_precision, multiplying
from tests.problems.tf32 import TensorFloat32, rounded

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
COUNT = 12
# Smooth: where rounding moves a ReLU over its kink, an example's gradient moves by more than it rounds.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(75, 16), nn.Tanh(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4)
    ),
    "convolutional": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 6, 2), nn.SiLU(), nn.Flatten(), nn.Linear(24, 4)
    ),
    # A layer after each norm: it takes values and tangents of one dtype alone.
    "batch_norm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 2, bias=False), nn.BatchNorm2d(4), nn.SiLU(),
        nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 4),
    ),
    "group_norm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 2), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 4)
    ),
    "layer_norm": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(75, 12), nn.LayerNorm(12), nn.GELU(),
        nn.Linear(12, 8), nn.RMSNorm(8), nn.Linear(8, 4),
    ),
    "instance_norm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 2), nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 4, 3),
        nn.Flatten(), nn.Linear(16, 4),
    ),
}  # fmt: skip
# Relative error of a product. bfloat16 rounds by up to 2⁻⁸ = 0.4 %, some ten times between v and Hv.
BF16_BOUND = 0.04
networks = pytest.mark.parametrize("name", NETWORKS)


def network(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().to(dtype).eval()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(COUNT, 3, 5, 5, generator=generator), torch.arange(COUNT) % 4


def operator(
    name: str, precision: Precision = "full", curvature: Any = None, dtype: torch.dtype = torch.float32
) -> NetworkOperator:
    function = ModelFunction(network(name, dtype), None, precision)
    examples = Examples(data(), function.device, function.dtype)
    return NetworkOperator(curvature or GaussNewton(), function, as_loss("cross_entropy"), examples)


@cache
def expected_matrix(name: str) -> Tensor:
    """Gauss–Newton matrix by autograd's Jacobian in float64, at the weights and inputs of float32."""
    model = network(name).double()
    inputs, values = data()[0].double(), dict(model.named_parameters())

    def logits(*parameters: Tensor) -> Tensor:
        return functional_call(model, dict(zip(values, parameters, strict=True)), (inputs,))

    blocks = jacobian(logits, tuple(values.values()))
    jacobians = torch.cat([block.flatten(2) for block in blocks], dim=2)
    p = model(inputs).softmax(dim=1).detach()
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return (jacobians.mT @ curvature @ jacobians).mean(dim=0)


def vectors(size: int, columns: int = 3) -> Tensor:
    return torch.randn(size, columns, generator=torch.Generator().manual_seed(2))


def relative_error(found: Tensor, name: str) -> float:
    """In the 2-norm, the largest of the columns of a product with `vectors`."""
    expected = expected_matrix(name) @ vectors(len(found)).double()
    return float(((found.double() - expected).norm(dim=0) / expected.norm(dim=0)).max())


@pytest.mark.parametrize(
    ("precision", "dtype", "device", "message"),
    [
        ("bf61", torch.float32, CPU, r"no precision 'bf61'; did you mean 'bf16'\? Known: bf16, full, tf32"),
        ("half", torch.float32, CPU, "Known: bf16, full, tf32"),
        ("", torch.float32, CPU, "no precision ''"),
        ("bf16", torch.float64, CPU, r"precision='bf16' needs parameters in float32.*torch.float64.*'full'"),
        ("bf16", torch.bfloat16, CPU, "needs parameters in float32, these are torch.bfloat16"),
        ("bf16", torch.float64, CUDA, "needs parameters in float32"),
        ("tf32", torch.float32, CPU, "needs a CUDA device, the model is on cpu: use 'full' or 'bf16'"),
        ("tf32", torch.float64, CUDA, r"precision='tf32' needs parameters in float32"),
        ("tf32", torch.float64, CPU, "needs parameters in float32"),
    ],
)  # fmt: skip
def test_a_precision_that_cannot_be_had_is_refused(
    precision: str, dtype: torch.dtype, device: torch.device, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_precision(precision, dtype, device)
    if device == CPU:
        with pytest.raises(ValueError, match=message):
            from_model(
                network("mlp", dtype),
                "cross_entropy",
                data(),
                data(),
                damping=1,
                precision=precision,  # type: ignore[arg-type]
            )


@pytest.mark.parametrize(
    ("precision", "dtype", "device"),
    [
        ("full", torch.float64, CPU),
        ("full", torch.bfloat16, CUDA),
        ("bf16", torch.float32, CPU),
        ("bf16", torch.float32, CUDA),
        ("tf32", torch.float32, CUDA),
    ],
)
def test_a_precision_that_can_be_had_is_accepted(
    precision: str, dtype: torch.dtype, device: torch.device
) -> None:
    check_precision(precision, dtype, device)


def settings() -> dict[str, object]:
    """All that torch says of factors in float32."""
    backends: Any = torch.backends
    places = {
        "all": backends,
        "cuda.matmul": backends.cuda.matmul,
        "cudnn": backends.cudnn,
        "cudnn.conv": backends.cudnn.conv,
        "cudnn.rnn": backends.cudnn.rnn,
        "mkldnn": backends.mkldnn,
        "mkldnn.matmul": backends.mkldnn.matmul,
        "mkldnn.conv": backends.mkldnn.conv,
        "mkldnn.rnn": backends.mkldnn.rnn,
    }
    return {name: place.fp32_precision for name, place in places.items()} | {
        "matmul": torch.get_float32_matmul_precision(),
        "cuda.matmul.allow_tf32": backends.cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": backends.cudnn.allow_tf32,
    }


@pytest.fixture
def outside(request: pytest.FixtureRequest) -> Iterator[str]:
    """What a user said of matrix products before; taken back after the test."""
    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if request.param == "no tf32 in cudnn":
        torch.backends.cudnn.allow_tf32 = False
    else:
        torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = cudnn


every_setting = pytest.mark.parametrize(
    "outside", ["highest", "high", "medium", "no tf32 in cudnn"], indirect=True
)


@every_setting
@pytest.mark.parametrize("name", ["mlp", "convolutional"])
def test_what_is_set_outside_changes_no_bit_and_is_left_as_it_was(name: str, outside: str) -> None:
    before = settings()
    problem = from_model(network(name), "cross_entropy", data(), data(), damping=1)
    columns = problem.columns()
    products = [problem.operator @ columns[:, :3] for _ in range(3)]
    sample = problem.operator.minibatch(4, torch.Generator().manual_seed(0)) @ columns[:, 0]
    assert problem.task is not None
    gradient = problem.task.training_gradient()
    assert settings() == before

    torch.set_float32_matmul_precision("highest")
    calm = from_model(network(name), "cross_entropy", data(), data(), damping=1)
    assert torch.equal(calm.columns(), columns)
    assert all(torch.equal(calm.operator @ columns[:, :3], product) for product in products)
    again = calm.operator.minibatch(4, torch.Generator().manual_seed(0)) @ columns[:, 0]
    assert torch.equal(again, sample)
    assert calm.task is not None
    assert torch.equal(calm.task.training_gradient(), gradient)


@pytest.mark.usefixtures("nothing_retained")
@every_setting
def test_a_recorded_product_does_not_follow_what_is_set_outside(outside: str) -> None:
    operators = [operator("convolutional", curvature=curvature) for curvature in (GaussNewton(), Hessian())]
    for each in operators:
        v = vectors(each.shape[0], 1)[:, 0]
        first = each @ v
        for _ in range(RECORD_AFTER + 2):
            assert torch.equal(each @ v, first)
        assert all(each.shared.recorder._recordings.values())
        torch.set_float32_matmul_precision("highest")
        assert torch.equal(each @ v, first)


class Watching(nn.Linear):
    """Notes what is set while it runs."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.seen: list[tuple[str, ...]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        backends: Any = torch.backends
        places = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        self.seen.append(tuple(place.fp32_precision for place in places))
        return super().forward(inputs)


@every_setting
@pytest.mark.parametrize("curvature", ["ggn", "hessian", "empirical_fisher", "monte_carlo_fisher"])
def test_factors_are_not_rounded_while_the_network_runs(outside: str, curvature: str) -> None:
    """Whatever the machine makes of it: in gradients and products, and in drawing targets."""
    model = Watching().eval()
    inputs, targets = torch.randn(5, 3), torch.arange(5) % 2
    given = (inputs, targets)
    problem = from_model(model, "cross_entropy", given, given, damping=1, curvature=curvature)
    model.seen.clear()
    _ = problem.operator @ problem.columns()
    _ = problem.operator.minibatch(2, torch.Generator().manual_seed(0)) @ problem.columns()
    _ = problem.operator.dense()
    assert problem.task is not None
    problem.task.query_gradients()
    problem.task.training_gradient()
    assert set(model.seen) == {("ieee", "ieee", "ieee", "ieee")}


@every_setting
@pytest.mark.parametrize("precision", ["full", "tf32", "bf16"])
def test_settings_come_back_after_an_error_too(outside: str, precision: Precision) -> None:
    before = settings()
    with pytest.raises(ZeroDivisionError), multiplying(precision):
        raise ZeroDivisionError
    assert settings() == before
    with multiplying(precision), multiplying("full"), multiplying(precision):
        pass
    assert settings() == before


def test_tf32_is_for_cuda_alone() -> None:
    backends: Any = torch.backends
    with multiplying("tf32"):
        assert backends.cuda.matmul.fp32_precision == backends.cudnn.conv.fp32_precision == "tf32"
        assert backends.mkldnn.matmul.fp32_precision == backends.mkldnn.conv.fp32_precision == "ieee"


@networks
def test_full_precision_has_float32s_digits(name: str) -> None:
    product = operator(name) @ vectors(len(expected_matrix(name)))
    assert relative_error(product, name) < 3e-6
    exact = operator(name).to(torch.float64) @ vectors(len(product)).double()
    assert relative_error(exact, name) < 1e-12


@networks
def test_bf16_is_near_and_its_vectors_stay_in_float32(name: str) -> None:
    problem = from_model(network(name), "cross_entropy", data(), data(), damping=1, precision="bf16")
    assert problem.operator.dtype == problem.columns().dtype == torch.float32
    product = problem.operator @ vectors(problem.size)
    assert product.dtype == torch.float32
    assert 1e-4 < relative_error(product, name) < BF16_BOUND
    singles = [problem.operator @ v for v in vectors(problem.size).T]
    assert {each.dtype for each in singles} == {torch.float32}
    assert relative_error(torch.stack(singles, dim=1), name) < BF16_BOUND
    assert problem.task is not None
    assert problem.task.training_gradient().dtype == torch.float32
    assert {value.dtype for value in problem.task.function.model.parameters()} == {torch.float32}


@networks
def test_gradients_in_bf16_are_near(name: str) -> None:
    problem = from_model(network(name), "cross_entropy", data(), data(), damping=1, precision="bf16")
    model, (inputs, targets) = network(name).double(), data()
    for row, column in enumerate(problem.columns().T):
        loss = nn.functional.cross_entropy(model(inputs[[row]].double()), targets[[row]])
        expected = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
        assert float((column - expected).norm() / expected.norm()) < BF16_BOUND


@networks
def test_bf16_in_another_dtype_is_in_full_precision(name: str) -> None:
    exact = operator(name, "bf16").to(torch.float64) @ vectors(len(expected_matrix(name))).double()
    assert relative_error(exact, name) < 1e-12


@networks
@pytest.mark.parametrize("columns", [1, 3])
def test_recorded_bf16_products_are_the_same_numbers(name: str, columns: int) -> None:
    found = operator(name, "bf16")
    v = vectors(found.shape[0], columns)
    first = found @ v
    for _ in range(RECORD_AFTER + 2):
        assert torch.equal(found @ v, first)
    assert all(found.shared.recorder._recordings.values())


@pytest.mark.parametrize("seed", [0, 33])
def test_bf16s_own_rounding_is_not_taken_for_a_mixture_of_examples(seed: int) -> None:
    """Kernels for one example and for several may round an entry to different neighbours, 0.4 % apart."""
    torch.manual_seed(seed)
    inputs, targets = torch.randn(6, 20), torch.randint(5, (6,))
    hidden = [layer for _ in range(8) for layer in (nn.Tanh(), nn.Linear(64, 64))]
    model = nn.Sequential(nn.Linear(20, 64), *hidden, nn.ReLU(), nn.Linear(64, 5)).eval()
    problem = from_model(
        model, "cross_entropy", (inputs, targets), (inputs, targets), damping=1, precision="bf16"
    )
    assert problem.columns().isfinite().all()


class Mixing(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        return outputs - 0.01 * outputs.mean(dim=0)


def test_a_slight_mixture_of_examples_is_refused_in_bf16_too() -> None:
    given, model = (torch.randn(6, 20), torch.arange(6) % 5), Mixing(20, 5).eval()
    with pytest.raises(ValueError, match="changes with the other examples"):
        from_model(model, "cross_entropy", given, given, damping=1, precision="bf16")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, 1.0),
        (1 + 2**-10, 1 + 2**-10),
        (1 + 2**-11, 1.0),  # as near to both neighbours: to the even one
        (1 + 3 * 2**-11, 1 + 2**-9),
        (1 + 2**-11 + 2**-20, 1 + 2**-10),
        (1 + 2**-11 - 2**-20, 1.0),
        (2 - 2**-23, 2.0),
        (-1 - 3 * 2**-11, -1 - 2**-9),
        (3.0 * 2**60, 3.0 * 2**60),
        (2.0**-126, 2.0**-126),
        (0.0, 0.0),
        (float("inf"), float("inf")),
    ],
)
def test_rounding_to_ten_bits(value: float, expected: float) -> None:
    assert rounded(torch.tensor([value])).item() == expected


def test_rounding_is_to_within_half_a_bit_and_does_nothing_more_the_second_time() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).exp()
    once = rounded(values)
    assert ((once - values).abs() <= 2**-11 * values).all()
    assert torch.equal(rounded(once), once)
    assert torch.equal(rounded(-values), -once)


def test_emulated_products_round_float32s_factors_and_nothing_else() -> None:
    a, b = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    images, kernels = a.reshape(1, 1, 6, 6), b[:3, :3].reshape(1, 1, 3, 3)
    with TensorFloat32() as mode:
        product, batched, biased = a @ b, (a[None] @ b[None])[0], torch.addmm(a, a, b)
        convolved = torch.nn.functional.conv2d(images, kernels)
        exact = a.double() @ b.double()
    assert mode.calls == 4
    expected = rounded(a).double() @ rounded(b).double()
    for found, wanted in ((product, expected), (batched, expected), (biased, a + expected)):
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)
    assert torch.equal(exact, a.double() @ b.double())
    assert (product - exact).abs().amax() > 1e-4
    by_hand = rounded(images).unfold(2, 3, 1).unfold(3, 3, 1)
    torch.testing.assert_close(convolved, (by_hand * rounded(kernels)).sum(dim=(-1, -2)), rtol=0, atol=1e-5)


@networks
def test_emulated_tf32_lies_between_float32_and_bf16(name: str) -> None:
    v = vectors(len(expected_matrix(name)))
    plain, coarse = relative_error(operator(name) @ v, name), relative_error(operator(name, "bf16") @ v, name)
    with TensorFloat32() as mode:
        error = relative_error(operator(name) @ v, name)
    assert mode.calls > 0
    assert 1e-5 < error < 1e-2
    assert plain < error < coarse
    # A second vector goes through the network the same way.
    found = operator(name)
    with TensorFloat32():
        for _ in range(2):
            assert relative_error(found @ v, name) == pytest.approx(error, rel=0.02)
