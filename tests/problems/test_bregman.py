"""The objective against formulas written out, and against torch's own reverse mode."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import problems
from problems.bregman import BregmanObjective, divergence
from problems.losses import LOSSES
from problems.task import Task

LAMBDA = 0.3


def network(outputs: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)).double().eval()


def data(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(4, (count,), generator=generator)


def task_of(loss: str = "cross_entropy", dtype: torch.dtype = torch.float64) -> Task:
    inputs, labels = data(9)
    if loss != "cross_entropy":
        labels = F.one_hot(labels, 4).double() * (0.7 if loss == "bce" else 3)
    model = network(4).to(dtype)
    problem = problems.from_model(model, loss, (inputs, labels), (inputs[:2], labels[:2]), damping=LAMBDA)
    assert problem.task is not None
    return problem.task


def moved(task: Task, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(task.function.num_parameters, 2, generator=generator, dtype=torch.float64)


def outputs_at(task: Task, displacement: Tensor) -> Tensor:
    """The network written out."""
    first = task.function.parameters
    sizes = [value.numel() for value in first.values()]
    parts = [
        value.double() + part.reshape(value.shape)
        for value, part in zip(first.values(), displacement.split(sizes), strict=True)
    ]
    weight, bias, last, end = parts
    return torch.tanh(data(9)[0] @ weight.T + bias) @ last.T + end


def test_cross_entropys_divergence_is_kullback_leiblers() -> None:
    generator = torch.Generator().manual_seed(0)
    y, reference = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2])
    kl = F.kl_div(y.log_softmax(1), reference.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(divergence(LOSSES["cross_entropy"], y, reference, labels), kl)
    targets = labels[:, None].expand(5, 4).double()
    square = divergence(LOSSES["mse"], y, reference, targets)
    torch.testing.assert_close(square, (y - reference).square().mean(1))
    soft = labels[:, None].expand(5, 4) / 4
    p, q = reference.sigmoid(), y.sigmoid()
    bernoulli = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(1)
    torch.testing.assert_close(divergence(LOSSES["bce"], y, reference, soft), bernoulli)


def test_tokens_that_do_not_count_have_no_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    y, reference = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 2], [3, -100, 1]])
    kl = F.kl_div(y.log_softmax(2), reference.softmax(2), reduction="none").sum(2)
    found = divergence(LOSSES["next_token_cross_entropy"], y, reference, labels)
    # Position t is judged by the label at t + 1; the last ones, and that before −100, are not.
    counted = torch.tensor([[True, True, False], [False, True, False]])
    torch.testing.assert_close(found, kl.where(counted, 0))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
def test_values_and_gradients_are_those_of_the_formula(loss: str) -> None:
    task = task_of(loss)
    objective = BregmanObjective(task, LAMBDA)
    delta = moved(task)
    examples, epsilons = torch.tensor([4, 7]), torch.tensor([0.2, -0.1], dtype=torch.float64)
    values, gradients = objective.evaluate(delta, examples, epsilons)
    targets = task.training.batch(torch.arange(9))[1]
    start = outputs_at(task, torch.zeros(len(delta), dtype=torch.float64))

    def losses(y: Tensor) -> Tensor:
        if loss == "cross_entropy":
            return F.cross_entropy(y, targets, reduction="none")
        if loss == "mse":
            return (y - targets).square().mean(1)
        return F.binary_cross_entropy_with_logits(y, targets, reduction="none").mean(1)

    for column in range(2):
        free = delta[:, column].clone().requires_grad_()
        y = outputs_at(task, free)
        anchor = start.clone().requires_grad_()
        (slope,) = torch.autograd.grad(losses(anchor).sum(), anchor)
        bregman = losses(y) - losses(start) - (slope * (y - start)).sum(1)
        total = (
            bregman.mean() + epsilons[column] * losses(y)[examples[column]] + LAMBDA / 2 * free.square().sum()
        )
        torch.testing.assert_close(values[column], total.detach())
        torch.testing.assert_close(gradients[:, column], torch.autograd.grad(total, free)[0])
    torch.testing.assert_close(objective.query_losses(delta[:, 0]), losses(outputs_at(task, delta[:, 0]))[:2])
    at_start, own = objective.example_gradients([4, 7])
    torch.testing.assert_close(at_start, losses(start)[[4, 7]])
    torch.testing.assert_close(own, task.gradients(task.training, examples))


def test_parts_of_the_data_give_its_mean() -> None:
    task = task_of()
    objective = BregmanObjective(task, LAMBDA)
    delta, examples = moved(task)[:, :1], torch.tensor([0])
    epsilons = torch.zeros(1, dtype=torch.float64)
    whole = objective.evaluate(delta, examples, epsilons)
    parts = [objective.evaluate(delta, examples, epsilons, part) for part in torch.arange(9).split(3)]
    for index in range(2):
        torch.testing.assert_close(torch.stack([part[index] for part in parts]).mean(0), whole[index])


def test_networks_in_float32_are_promoted_and_have_a_quick_copy() -> None:
    task = task_of(dtype=torch.float32)
    objective = BregmanObjective(task, LAMBDA)
    assert objective.quick is not None
    assert BregmanObjective(task_of(), LAMBDA).quick is None
    delta, examples = moved(task), torch.tensor([4, 7])
    epsilons = torch.tensor([0.2, -0.1], dtype=torch.float64)
    exact = objective.evaluate(delta, examples, epsilons)
    rough = objective.quick.evaluate(delta, examples, epsilons)
    # Float32's inputs, in float64 arithmetic: the network written out differs by the inputs' rounding alone.
    for found, near in zip(exact, rough, strict=True):
        assert found.dtype == near.dtype == torch.float64
        torch.testing.assert_close(near, found, rtol=1e-4, atol=1e-5)
        assert not torch.equal(near, found)


def test_an_evaluation_costs_a_gradient_for_each_column() -> None:
    task = task_of()
    objective = BregmanObjective(task, LAMBDA)
    before = task.work.total
    objective.evaluate(moved(task), torch.tensor([1, 2]), torch.tensor([0.1, 0.1], dtype=torch.float64))
    assert task.work.total - before == pytest.approx(2 * (1 + 1 / 9))


def test_what_is_not_finite_is_named() -> None:
    task = task_of()
    inputs, _ = task.training.data
    inputs[5, 0] = torch.nan
    with pytest.raises(ArithmeticError, match="training example 5 is not finite"):
        BregmanObjective(task, LAMBDA)


def test_a_gradient_that_is_not_finite_is_named() -> None:
    class Root(nn.Module):
        """Its derivative at 0 is infinite."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            return (inputs @ self.weight.T).sqrt()

    inputs = torch.ones(4, 3, dtype=torch.float64)
    examples = (inputs, torch.tensor([0, 1, 0, 1]))
    problem = problems.from_model(Root().eval(), "cross_entropy", examples, examples, damping=1.0)
    assert problem.task is not None
    inputs[2] = 0
    objective = BregmanObjective(problem.task, 1.0)
    with pytest.raises(ArithmeticError, match="gradient of training example 2 holds NaN"):
        objective.example_gradients([1, 2])
