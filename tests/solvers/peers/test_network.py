"""What other libraries are given of a problem, none of which is needed here."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from problems import Problem, from_model
from problems.losses import CrossEntropy, SquaredLoss
from problems.models.mlp import mlp
from problems.work import ProductCost
from solvers import Breakdown
from solvers.peers import network
from solvers.peers.library import Library
from solvers.peers.network import equal_batch, is_linear, listening, network_for, skip_reason
from tests.conftest import dense_problem, random_psd_examples

# One that is there, whatever else is.
LIBRARY = Library("pytest", "pytest", ">=8")
CURVATURES = ("ggn", "hessian")


def data(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, generator=generator, dtype=torch.float64), torch.arange(count) % 2


def perceptron(model: nn.Module | None = None, **settings: object) -> Problem:
    """Of widths 3, 4 and 2."""
    model = model or mlp([3, 4, 2], torch.Generator().manual_seed(0))
    settings = {"damping": 0.1, **settings}
    return from_model(model, "cross_entropy", data(), data(2), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("parameters", [None, r"2\.", "weight"])
def test_vectors_are_tensors_by_name_in_the_problems_order(parameters: str | None) -> None:
    problem = perceptron(parameters=parameters)
    assert problem.task is not None
    found = network_for(problem)
    loss = found.loss(found.model(found.inputs), found.targets)
    gradients = torch.autograd.grad(loss, found.parameters)
    flat = problem.task.training_gradient()[:, 0]
    named = dict(zip(found.names, gradients, strict=True))
    torch.testing.assert_close(found.flatten(named), flat)
    for name, part in found.unflatten(flat).items():
        torch.testing.assert_close(part, named[name])
    assert [name for name, each in found.model.named_parameters() if each.requires_grad] == found.names
    assert found.num_outputs() == 2


def test_the_problems_own_network_is_left_as_it_was() -> None:
    problem = perceptron(parameters="weight")
    assert problem.task is not None
    own = problem.task.function.model
    before = [(each.requires_grad, each.clone()) for each in own.parameters()]
    copied = network_for(problem)
    with torch.no_grad():
        for each in copied.model.parameters():
            each.zero_()
    for (required, value), each in zip(before, own.parameters(), strict=True):
        assert each.requires_grad == required
        assert torch.equal(each, value)


def test_data_are_those_that_the_matrix_is_a_mean_over() -> None:
    problem = perceptron()
    chosen = torch.tensor([7, 2, 2, 11])
    found = network_for(replace(problem, operator=problem.operator.subset(chosen)))
    assert torch.equal(found.inputs, data()[0][chosen])
    assert torch.equal(found.targets, data()[1][chosen])


@pytest.mark.parametrize(("count", "size"), [(7, 7), (10, 10), (20, 10), (21, 7), (23, 1), (90, 10), (49, 7)])
def test_batches_of_one_size(count: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MOST_AT_ONCE", 10)
    assert equal_batch(count) == size


@given(st.integers(1, 20_000))
def test_no_batch_of_one_size_is_larger(count: int) -> None:
    size = equal_batch(count)
    assert 1 <= size <= network.MOST_AT_ONCE
    assert count % size == 0
    larger = range(size + 1, min(count, network.MOST_AT_ONCE) + 1)
    assert not any(count % other == 0 for other in larger)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.long, torch.float32])
def test_targets_of_0_and_1_may_be_of_any_dtype(kind: torch.dtype) -> None:
    inputs, classes = data()
    examples = (inputs, torch.stack([classes, 1 - classes], dim=1).to(kind))
    model = mlp([3, 4, 2], torch.Generator().manual_seed(0))
    problem = from_model(model, "bce", examples, examples, damping=0.1)
    assert problem.task is not None
    found = network_for(problem)
    loss = found.loss(found.model(found.inputs), found.targets)
    gradients = torch.autograd.grad(loss, found.parameters)
    flat = torch.cat([each.flatten() for each in gradients])
    torch.testing.assert_close(flat, problem.task.training_gradient()[:, 0])


def test_batches_hold_all_data_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MOST_AT_ONCE", 5)
    found = network_for(perceptron())
    for equal, sizes in ((True, [4, 4, 4]), (False, [5, 5, 2])):
        batches = found.batches(equal=equal)
        assert [len(inputs) for inputs, _ in batches] == sizes
        assert torch.equal(torch.cat([inputs for inputs, _ in batches]), found.inputs)
        assert torch.equal(torch.cat([targets for _, targets in batches]), found.targets)


def test_forward_passes_are_counted_as_products() -> None:
    found = network_for(perceptron())
    before = found.work.passes
    with found.counting(ProductCost(1, 4), columns=3):
        found.model(found.inputs)
        found.model(found.inputs[:6])
    found.model(found.inputs)
    # 1 + 4·3 passes of each of 18 examples.
    assert found.work.passes - before == 13 * 18


def test_outputs_are_linear_in_one_layers_parameters_alone() -> None:
    def found(problem: Problem) -> bool:
        assert problem.task is not None
        return is_linear(problem.task)

    linear = perceptron(nn.Linear(3, 2).double())
    assert found(linear)
    assert not found(perceptron())
    assert found(perceptron(parameters=r"2\."))
    assert not found(perceptron(parameters=r"0\."))
    assert not found(perceptron(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).double()))


class Sum(nn.Module):
    """Takes two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2).double()

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.linear(one + other)


def reason(problem: Problem, **known: object) -> str | None:
    return skip_reason(LIBRARY, problem, **known)  # type: ignore[arg-type]


def test_what_is_not_known_is_said() -> None:
    assert "bare matrix" in str(reason(dense_problem(random_psd_examples(5, 4, seed=0), damping=0.1)))
    assert reason(perceptron(), losses=(SquaredLoss,)) == (
        "the loss is CrossEntropy; pytest is given MSELoss"
    )
    assert reason(perceptron(), losses=(SquaredLoss, CrossEntropy)) is None
    assert str(reason(perceptron(curvature="empirical_fisher"))).startswith("H is EmpiricalFisher")
    tokens = torch.arange(6).reshape(2, 3)
    model = nn.Sequential(nn.Embedding(6, 3), nn.Linear(3, 6)).double()
    language = from_model(model, "token_cross_entropy", (tokens, tokens), (tokens, tokens), damping=0.1)
    assert "the loss is TokenCrossEntropy" in str(reason(language))
    inputs, targets = data()
    two = from_model(
        Sum(), "cross_entropy", ((inputs, inputs), targets), ((inputs, inputs), targets), damping=1
    )
    assert reason(two) == "pytest is given networks of one input tensor"
    named = ({"one": inputs, "other": inputs}, targets)
    assert reason(from_model(Sum(), "cross_entropy", named, named, damping=1)) == reason(two)
    rounded = perceptron(mlp([3, 4, 2], torch.Generator().manual_seed(0)).float(), precision="bf16")
    assert reason(rounded) == "pytest computes in full precision, and precision is bf16"
    missing = Library("no_such_module", "no-such-library", ">=1")
    assert skip_reason(missing, two) == missing.missing()


@pytest.mark.parametrize("known", CURVATURES)
@pytest.mark.parametrize("asked", CURVATURES)
def test_either_matrix_will_do_where_both_are_one(asked: str, known: str) -> None:
    curved = reason(perceptron(curvature=asked), matrices=(known,))
    assert curved == (
        None if asked == known else f"pytest solves with the {known} here, and H is the {asked}"
    )
    assert reason(perceptron(nn.Linear(3, 2).double(), curvature=asked), matrices=(known,)) is None


def test_layers_that_are_not_known_are_named_if_they_are_asked_for() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double().eval()
    linear = (nn.Linear,)
    assert reason(perceptron(model), layers=linear) == (
        "pytest factors Linear; 1 is a LayerNorm: leave it out of the parameters"
    )
    assert reason(perceptron(model, parameters=r"[02]\."), layers=linear) is None
    assert reason(perceptron(nn.Linear(3, 2).double()), layers=(nn.Conv2d,)) == (
        "pytest factors Conv2d; the model is a Linear: leave it out of the parameters"
    )


def test_what_a_library_says_is_caught_each_once() -> None:
    library = Library("some_library", "some-library", ">=1")
    logger = logging.getLogger("some_library.inside")
    with listening(library) as said:
        for _ in range(2):
            logger.warning("at step %d", 3)
            warnings.warn("it did not converge", UserWarning, stacklevel=1)
        logger.info("hello")
        warnings.warn("it will be gone in 2.0", FutureWarning, stacklevel=1)
        warnings.warn("use another", DeprecationWarning, stacklevel=1)
        logging.getLogger("another").warning("not of it")
    assert said == ["at step 3", "it did not converge"]
    logger.warning("afterwards")
    assert len(said) == 2
    assert not logging.getLogger("some_library").handlers


def test_what_a_library_says_before_an_error_is_caught_too() -> None:
    with pytest.raises(Breakdown), listening(LIBRARY) as said:
        warn_and_break_down()
    assert said == ["soon"]


def warn_and_break_down() -> None:
    warnings.warn("soon", UserWarning, stacklevel=1)
    raise Breakdown("now")
