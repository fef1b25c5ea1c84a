"""Influences and gradient norms against gradients of a network written out, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import problems
from problems import Problem
from problems.influence import gradient_norms, influences

SIZE, FEATURES, CLASSES = 7, 3, 4


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SIZE, FEATURES, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(CLASSES, (SIZE,), generator=generator)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(2)
    return nn.Linear(FEATURES, CLASSES).double().eval()


@pytest.fixture(scope="module")
def problem(model: nn.Module, data: tuple[Tensor, Tensor]) -> Problem:
    return problems.from_model(model, "cross_entropy", data, (data[0][:2] + 1, data[1][:2]), damping=0.3)


@pytest.fixture(scope="module")
def dense(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """All g_i as columns (p, n) and H, of a linear softmax model in closed form.

    The logits' gradient is softmax − one-hot =: d, their Hessian S = diag(s) − ssᵀ; with weights before
    biases g = (d xᵀ, d), and H is the mean of JᵀSJ.
    """
    inputs, targets = data
    gradients, curvature = [], []
    weight, bias = (value.detach() for value in model.parameters())
    for x, target in zip(inputs, targets.tolist(), strict=True):
        s = torch.softmax(weight @ x + bias, 0)
        jacobian = torch.cat([torch.kron(torch.eye(CLASSES), x[None]), torch.eye(CLASSES)], 1).double()
        gradients.append(jacobian.T @ (s - torch.eye(CLASSES, dtype=torch.float64)[target]))
        curvature.append(jacobian.T @ (s.diag() - s[:, None] * s) @ jacobian)
    return torch.stack(gradients, 1), torch.stack(curvature).mean(0)


def task(problem: Problem) -> problems.Task:
    assert problem.task is not None
    return problem.task


def test_influences_are_products_with_dense_solutions(problem: Problem, dense: tuple[Tensor, Tensor]) -> None:
    gradients, curvature = dense
    b = problem.columns()
    x = torch.linalg.solve(curvature + 0.3 * torch.eye(len(curvature)).double(), b)
    indices = torch.tensor([4, 0, 6])
    torch.testing.assert_close(influences(task(problem), x, indices), gradients[:, indices].T @ x)
    torch.testing.assert_close(influences(task(problem), b, indices), gradients[:, indices].T @ b)
    reference = problem.reference
    assert reference is not None
    torch.testing.assert_close(
        influences(task(problem), reference, indices), gradients[:, indices].T @ x, rtol=1e-9, atol=1e-12
    )


def test_norms_of_gradients(problem: Problem, dense: tuple[Tensor, Tensor]) -> None:
    indices = torch.tensor([5, 1, 2, 3])
    torch.testing.assert_close(gradient_norms(task(problem), indices), dense[0][:, indices].norm(dim=0))


@pytest.mark.parametrize("held", [0, 1, 2, 3, SIZE])
def test_no_more_gradients_at_once_than_fit_and_the_same_numbers(
    problem: Problem, dense: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    sizes = []
    whole = problems.Task.gradients

    def counting(self: problems.Task, examples: object, indices: Tensor) -> Tensor:
        sizes.append(len(indices))
        return whole(self, examples, indices)  # type: ignore[arg-type]

    monkeypatch.setattr("problems.task.Task.gradients", counting)
    # Room for so many gradients of eight bytes a number, and almost for one more.
    monkeypatch.setattr("problems.influence.GRADIENT_BYTES", (held + 1) * problem.size * 8 - 1)
    x = torch.ones(problem.size, 1, dtype=torch.float64)
    found = influences(task(problem), x, torch.arange(SIZE))
    torch.testing.assert_close(found, dense[0].sum(0)[:, None])
    assert sum(sizes) == SIZE
    assert max(sizes) == max(held, 1)


def test_a_pass_costs_the_share_of_the_examples(problem: Problem) -> None:
    work = problem.operator.work
    before = work.total
    influences(task(problem), problem.columns(), torch.arange(3))
    assert work.total - before == pytest.approx(3 / SIZE)
    gradient_norms(task(problem), torch.arange(SIZE))
    assert work.total - before == pytest.approx(3 / SIZE + 1)
