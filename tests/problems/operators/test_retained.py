"""Products with a batch that was seen before, whose forward pass autograd keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from problems import GaussNewton, Hessian, NetworkOperator
from problems.examples import Examples
from problems.losses import CrossEntropy
from problems.model_function import ModelFunction
from problems.operators import network
from problems.operators.fisher import EmpiricalFisher, MonteCarloFisher
from problems.operators.micro_batches import MicroBatches, Size, peak_bytes
from problems.operators.recording import ANY
from tests.problems.operators.small_networks import small

KINDS = [GaussNewton(), Hessian(), EmpiricalFisher(), MonteCarloFisher(num_samples=2)]
CASES = [
    ("mlp", "cross_entropy"),
    ("convolutional", "bce"),
    ("mlp", "mse"),
    ("language_model", "token_cross_entropy"),
]
COUNT = 9


class Once(torch.autograd.Function):
    """tanh, whose backward pass cannot be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor) -> Tensor:
        return inputs.tanh()

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (output,) = ctx.saved_tensors
        return gradient * (1 - output**2)

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (output,) = ctx.saved_tensors
        return tangent * (1 - output**2)


class Unused(nn.Module):
    """Has a parameter that its outputs do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.used(inputs).sin()


class OnceDifferentiable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(Once.apply(self.first(inputs)))


def make_operator(
    model: nn.Module, curvature: object = None, max_bytes: int | None = None
) -> NetworkOperator:
    torch.manual_seed(0)
    inputs, targets = torch.randn(COUNT, 4, dtype=torch.float64), torch.randint(3, (COUNT,))
    function = ModelFunction(model.double().eval())
    examples = Examples((inputs, targets), function.device, function.dtype)
    return NetworkOperator(
        curvature or GaussNewton(), function, CrossEntropy(), examples, max_bytes=max_bytes
    )  # type: ignore[arg-type]


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def is_retained(operator: NetworkOperator) -> bool:
    return bool(operator._kept.passes) and all(set(each) == {ANY} for each in operator._kept.passes.values())


@pytest.mark.parametrize("curvature", KINDS, ids=str)
@pytest.mark.parametrize(("model", "loss"), CASES)
@pytest.mark.parametrize("passes", [None, 4])
def test_products_are_those_of_the_dense_matrix(
    curvature: object, model: str, loss: str, passes: int | None
) -> None:
    operator = small(model, loss).operator(curvature)  # type: ignore[arg-type]
    if passes:
        operator.micro_batches.largest = Size(passes, 64)
    size = operator.shape[0]
    # A mini-batch of all, whose first product runs the network in forward mode.
    every = operator.subset(torch.arange(len(operator.indices)))
    matrix = every @ torch.eye(size, dtype=torch.float64)
    assert not every._kept.passes
    vectors = torch.randn(size, 5, dtype=torch.float64)
    _ = operator @ vectors
    for columns in (5, 1, 3):
        chosen = vectors[:, :columns]
        torch.testing.assert_close(operator @ chosen, matrix @ chosen, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(operator @ vectors[:, 0], matrix @ vectors[:, 0], rtol=1e-10, atol=1e-12)
    assert is_retained(operator)
    assert operator._kept.bytes > 0


def test_all_data_are_kept_at_once_and_a_mini_batch_when_it_comes_again() -> None:
    operator = make_operator(mlp())
    vector = torch.randn(operator.shape[0], dtype=torch.float64)
    _ = operator @ vector
    assert is_retained(operator)
    for _ in range(3):
        fresh = operator.subset(torch.arange(4))
        _ = fresh @ vector
        assert not fresh._kept.passes
        _ = fresh @ vector
        assert is_retained(fresh)


@pytest.mark.parametrize("curvature", [GaussNewton(), Hessian()], ids=str)
def test_parameters_that_nothing_depends_on_have_no_curvature(curvature: object) -> None:
    operator = make_operator(Unused(), curvature)
    vectors = torch.randn(operator.shape[0], 3, dtype=torch.float64)
    first = operator @ vectors
    for columns in (3, 1):
        second = operator @ vectors[:, :columns]
        torch.testing.assert_close(second, first[:, :columns], rtol=1e-12, atol=1e-14)
        assert (second[-6:] == 0).all()
    assert is_retained(operator)


def test_what_cannot_be_differentiated_twice_goes_on_as_before() -> None:
    operator = make_operator(OnceDifferentiable())
    vectors = torch.randn(operator.shape[0], 3, dtype=torch.float64)
    first = operator @ vectors
    for _ in range(4):
        torch.testing.assert_close(operator @ vectors, first, rtol=1e-12, atol=1e-14)
    assert not any(operator._kept.passes.values())
    assert operator.shared.recorder.retain is None


def test_a_step_of_training_is_noticed() -> None:
    operator = make_operator(mlp())
    vector = torch.randn(operator.shape[0], dtype=torch.float64)
    for _ in range(3):
        before = operator @ vector
    with torch.no_grad():
        for value in operator.function.model.parameters():
            value.mul_(1.5)
    for _ in range(3):
        after = operator @ vector
        anew = NetworkOperator(GaussNewton(), operator.function, operator.loss, operator.examples) @ vector
        torch.testing.assert_close(after, anew, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(after, before)


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was not kept is not made anew each time."""
    monkeypatch.setattr(MicroBatches, "keep_bytes", 0)
    operator = make_operator(mlp())
    made = 0
    retain = operator.shared.recorder.retain
    assert retain is not None

    def counted(parameters, batch):  # type: ignore[no-untyped-def]
        nonlocal made
        made += 1
        return retain(parameters, batch)

    operator.shared.recorder.retain = counted
    vector = torch.randn(operator.shape[0], dtype=torch.float64)
    first = operator @ vector
    for _ in range(5):
        torch.testing.assert_close(operator @ vector, first, rtol=1e-12, atol=1e-14)
    assert operator._kept.bytes == 0
    assert made == 1


def test_gradients_may_be_turned_off_outside() -> None:
    operator = make_operator(mlp())
    vectors = torch.randn(operator.shape[0], 3, dtype=torch.float64)
    first = operator @ vectors
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(operator @ vectors, first, rtol=1e-12, atol=1e-14)
    assert is_retained(operator)
    assert not (operator @ vectors).requires_grad
    assert all(value.grad is None for value in operator.function.model.parameters())


@pytest.mark.parametrize("curvature", [GaussNewton(), Hessian()], ids=str)
@pytest.mark.parametrize("columns", [1, 5])
def test_products_keep_to_max_bytes(curvature: object, columns: int, nothing_retained: None) -> None:
    """Whether there is room for what autograd keeps or not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))
    plain = make_operator(model, curvature)
    vectors = torch.randn(plain.shape[0], columns, dtype=torch.float64)
    eager = peak_bytes(lambda: plain @ vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "is_small", lambda *_: True)
        retained = set()
        for times in (1.5, 3, 6, 12, 24):
            bound = int(times * eager)
            operator = make_operator(model, curvature, bound)
            for _ in range(3):
                # The vectors in one piece, and the sum that is returned, come on top.
                assert peak_bytes(lambda of=operator: of @ vectors) <= bound + 2 * vectors.nbytes  # type: ignore[misc]
            assert operator._kept.bytes <= bound // 2
            retained.add(is_retained(operator))
    assert retained == {True, False}
