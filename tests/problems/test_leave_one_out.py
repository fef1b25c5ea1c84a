"""Leaving one out, against the closed form of linear regression and against influence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import problems
from problems import Problem
from problems.influence import influence_scores
from problems.leave_one_out import leave_one_out
from problems.losses import SquaredLoss
from problems.optimum import Optimum

STRENGTH = 0.05


def ridge(count: int) -> tuple[Problem, Tensor, Tensor]:
    """Linear regression at its optimum, with λ that of its penalty; inputs and targets of training."""
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count + 4, 3, generator=generator, dtype=torch.float64)
    targets = inputs.sum(dim=1, keepdim=True) + torch.randn(count + 4, 1, generator=generator).double()
    data, queries = (inputs[:count], targets[:count]), (inputs[count:], targets[count:])
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64).eval()
    matrix = 2 / count * data[0].T @ data[0] + STRENGTH * torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.solve(matrix, 2 / count * data[0].T @ data[1]).T)
    nothing = torch.zeros(3, dtype=torch.float64)
    retraining = Optimum(
        model, SquaredLoss(), data, queries, penalty=nothing + STRENGTH, centre=nothing, fresh=nothing
    )
    return (
        problems.from_model(model, "mse", data, queries, damping=STRENGTH, retraining=retraining),
        data[0],
        data[1],
    )


def test_linear_regression_by_sherman_and_morrison() -> None:
    """θ₋ₘ = θ − A⁻¹x (2r/N)/(1 − h) with r = y − xᵀθ, h = (2/N) xᵀA⁻¹x and A the Hessian of all examples."""
    problem, inputs, targets = ridge(15)
    task = problem.task
    assert task is not None
    weights = task.function.parameters["weight"][0].numpy()
    x, y = inputs.numpy(), targets.numpy()[:, 0]
    inverse = np.linalg.inv(2 / 15 * x.T @ x + STRENGTH * np.eye(3))
    query_inputs, query_targets = task.queries.batch(torch.arange(4))
    assert isinstance(query_inputs, Tensor)
    q, t = query_inputs.numpy(), query_targets.numpy()[:, 0]
    chosen = [0, 4, 14]
    found = leave_one_out(problem, torch.tensor(chosen), workers=1)
    for place, m in enumerate(chosen):
        leverage = 2 / 15 * x[m] @ inverse @ x[m]
        without = weights - inverse @ x[m] * (2 / 15) * (y[m] - x[m] @ weights) / (1 - leverage)
        wanted = (q @ without - t) ** 2 - (q @ weights - t) ** 2
        np.testing.assert_allclose(found.changes[0, place].numpy(), wanted, rtol=1e-6)
    assert found.converged.all()


@pytest.mark.parametrize("start", ["warm", "cold"])
def test_of_a_convex_problem_every_start_and_seed_is_the_same(start: str) -> None:
    problem = problems.load("softmax_regression", training_size=60, pooling=4, num_queries=2)
    examples = torch.tensor([3, 7])
    wanted = leave_one_out(problem, examples, workers=1).changes[0]
    found = leave_one_out(problem, examples, start=start, seeds=(0, 5), workers=1)  # type: ignore[arg-type]
    for changes in found.changes:
        np.testing.assert_allclose(changes.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-12)


def test_influence_foretells_it_with_its_sign_and_scale() -> None:
    """−I/N, where −I = g_qᵀ(H + λ)⁻¹g_m: off by the leverage, which falls as 1/N."""
    off = []
    for count in (50, 400):
        problem, _, _ = ridge(count)
        assert problem.task is not None
        assert problem.reference is not None
        examples = torch.arange(8)
        found = leave_one_out(problem, examples, workers=1).changes[0]
        foretold = -influence_scores(problem.task, problem.reference, examples) / count
        off.append(float((found - foretold).norm() / found.norm()))
    assert off[0] < 0.3
    assert off[1] < off[0] / 4


def test_examples_that_cannot_be_left_out() -> None:
    problem, _, _ = ridge(10)
    with pytest.raises(ValueError, match="examples has 2 to 10; model has the training examples 0 to 9"):
        leave_one_out(problem, torch.tensor([2, 10]))
    with pytest.raises(ValueError, match=r"examples is \[2, 2\]; name at least one, and each once"):
        leave_one_out(problem, torch.tensor([2, 2]))
    with pytest.raises(ValueError, match="cannot be trained again"):
        leave_one_out(replace(problem, retraining=None), torch.tensor([2]))


def test_what_did_not_converge_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("problems.optimum.MOST_STEPS", 2)
    problem = problems.load(
        "softmax_regression", training_size=60, pooling=4, num_queries=2, regularization=1.7e-4
    )
    found = leave_one_out(problem, torch.tensor([0]), start="cold", workers=1)
    assert found.converged.tolist() == [[False]]
