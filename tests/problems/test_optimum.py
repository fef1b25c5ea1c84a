"""Optima of training objectives, against closed forms and SciPy."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.optimize
import torch
from scipy.special import logsumexp
from torch import Tensor, nn

import problems
from problems.examples import Examples
from problems.losses import CrossEntropy, SquaredLoss, TokenCrossEntropy
from problems.optimum import Optimum, minimise, proximal
from problems.retraining import Attempt
from tests.conftest import dense_problem, random_psd_examples

REGULARIZATION = 0.02


def attempt(kept: list[int], start: str = "warm", damping: float = 0.1) -> Attempt:
    return Attempt(torch.tensor(kept), 0, start, damping)  # type: ignore[arg-type]


def regression(count: int = 12, features: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    draw = [torch.randn(*shape, generator=generator, dtype=torch.float64)
            for shape in ((count, features), (count, 1), (4, features), (4, 1))]  # fmt: skip
    return draw[0], draw[1], draw[2], draw[3]


def ridge(start_at: float = 0.7) -> Optimum:
    """Linear regression with a penalty, whose model is not at its optimum yet."""
    inputs, targets, query_inputs, query_targets = regression()
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, start_at)
    nothing = torch.zeros(3, dtype=torch.float64)
    return Optimum(
        model, SquaredLoss(), (inputs, targets), (query_inputs, query_targets),
        penalty=nothing + REGULARIZATION, centre=nothing, fresh=nothing,
    )  # fmt: skip


def ridge_weights(kept: list[int], weights: np.ndarray | None = None) -> np.ndarray:
    """The normal equations of (1/12) Σ w_i (x_iᵀθ − y_i)² + (λ/2)‖θ‖²."""
    inputs, targets = (values.numpy() for values in regression()[:2])
    times = np.zeros(len(inputs))
    times[kept] = 1
    times = times if weights is None else weights
    matrix = 2 / 12 * (inputs.T * times) @ inputs + REGULARIZATION * np.eye(3)
    return np.linalg.solve(matrix, 2 / 12 * inputs.T @ (times * targets[:, 0]))


@pytest.mark.parametrize("kept", [list(range(12)), list(range(11)), [0, 3, 4, 9]])
@pytest.mark.parametrize("start", ["warm", "cold"])
def test_linear_regression_ends_at_the_normal_equations(kept: list[int], start: str) -> None:
    found = ridge().train(attempt(kept, start))
    _, _, inputs, targets = regression()
    losses = (inputs.numpy() @ ridge_weights(kept) - targets.numpy()[:, 0]) ** 2
    np.testing.assert_allclose(found.losses.numpy(), losses, rtol=1e-9)
    assert found.converged
    assert found.gradient <= 1e-8


def softmax_losses(kept: np.ndarray, problem: problems.Problem, strength: float) -> np.ndarray:
    """Query losses at the optimum that SciPy's BFGS finds of an objective written in numpy."""
    assert problem.task is not None
    (inputs, targets), (query_inputs, query_targets) = (
        tuple(part.numpy() for part in examples.batch(torch.arange(len(examples))))  # type: ignore[union-attr]
        for examples in (problem.task.training, problem.task.queries)
    )
    count, features = inputs.shape
    one_hot = np.eye(10)[targets]

    def split(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return point[: 10 * features].reshape(10, features), point[10 * features :]

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = split(point)
        logits = inputs[kept] @ weight.T + bias
        value = (logsumexp(logits, axis=1) - (logits * one_hot[kept]).sum(axis=1)).sum() / count
        off = (np.exp(logits - logsumexp(logits, axis=1, keepdims=True)) - one_hot[kept]) / count
        gradient = np.concatenate([(off.T @ inputs[kept] + strength * weight).ravel(), off.sum(axis=0)])
        return value + strength / 2 * (weight**2).sum(), gradient

    options = {"gtol": 1e-8, "ftol": 0, "maxcor": 50}
    start = np.zeros(10 * features + 10)
    best = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    weight, bias = split(best.x)
    logits = query_inputs @ weight.T + bias
    return logsumexp(logits, axis=1) - logits[np.arange(len(query_targets)), query_targets]


def test_softmax_regression_ends_where_scipy_does_from_either_start() -> None:
    problem = problems.load(
        "softmax_regression", training_size=80, pooling=4, num_queries=3, regularization=0.05
    )
    retraining = problem.retraining
    assert retraining is not None
    kept = list(range(3, 60))
    wanted = softmax_losses(np.array(kept), problem, 0.05)
    for start in ("warm", "cold"):
        found = retraining.train(attempt(kept, start))
        np.testing.assert_allclose(found.losses.numpy(), wanted, rtol=1e-6)
        assert found.converged


def test_the_problems_own_weights_are_the_optimum_of_all_examples() -> None:
    problem = problems.load("softmax_regression", training_size=80, pooling=4, num_queries=3)
    task, retraining = problem.task, problem.retraining
    assert task is not None
    assert retraining is not None
    inputs, targets = task.queries.batch(torch.arange(3))
    own = task.loss.per_example(task.function.outputs(task.function.parameters, inputs), targets)
    found = retraining.train(attempt(list(range(80))))
    np.testing.assert_allclose(found.losses.numpy(), own.numpy(), rtol=1e-4)  # scikit-learn's own tolerance


def test_a_class_that_nobody_is_left_of() -> None:
    problem = problems.load("softmax_regression", training_size=60, pooling=4, num_queries=8)
    task, retraining = problem.task, problem.retraining
    assert task is not None
    assert retraining is not None
    classes = task.training.batch(torch.arange(60))[1]
    wanted = int(task.queries.batch(torch.tensor([0]))[1])
    kept = (classes != wanted).nonzero()[:, 0]
    found = retraining.train(Attempt(kept, 0, "warm", 0.1))
    assert torch.isfinite(found.losses).all()
    assert float(found.losses[0]) > 5


@pytest.fixture(scope="module")
def network() -> problems.Problem:
    return problems.load(
        "image_classifier", width=2, training_size=40, epochs=3, num_queries=3, damping=0.05, parameters="2"
    )


def test_a_network_is_held_near_its_weights(network: problems.Problem) -> None:
    """Against SciPy on the same objective in numpy: the last layer alone, over its hidden units."""
    task, retraining = network.task, network.retraining
    assert task is not None
    assert retraining is not None
    kept = np.arange(1, 40)
    weights = {name: value.detach().numpy() for name, value in task.function.model.named_parameters()}
    own = np.concatenate([weights["2.weight"].ravel(), weights["2.bias"]])

    def hidden(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = examples.batch(torch.arange(len(examples)))
        assert isinstance(inputs, Tensor)
        return np.tanh(inputs.numpy() @ weights["0.weight"].T + weights["0.bias"]), targets.numpy()

    units, targets = hidden(task.training)
    query_units, query_targets = hidden(task.queries)

    def losses(point: np.ndarray, units: np.ndarray, targets: np.ndarray) -> np.ndarray:
        logits = units @ point[:20].reshape(10, 2).T + point[20:]
        return logsumexp(logits, axis=1) - logits[np.arange(len(targets)), targets]

    def objective(point: np.ndarray) -> float:
        return losses(point, units[kept], targets[kept]).sum() / 40 + 0.025 * ((point - own) ** 2).sum()

    best = scipy.optimize.minimize(objective, own, method="BFGS", options={"gtol": 1e-9})
    found = retraining.train(Attempt(torch.from_numpy(kept), 0, "warm", 0.05))
    np.testing.assert_allclose(found.losses.numpy(), losses(best.x, query_units, query_targets), rtol=1e-5)
    assert found.converged


def test_a_large_damping_leaves_the_weights_as_they_are(network: problems.Problem) -> None:
    task = network.task
    assert task is not None
    inputs, targets = task.queries.batch(torch.arange(3))
    own = task.loss.per_example(task.function.outputs(task.function.parameters, inputs), targets)
    found = proximal(network).train(attempt(list(range(20)), damping=1e9))
    np.testing.assert_allclose(found.losses.numpy(), own.detach().numpy(), rtol=1e-7)


def test_newtons_method_leaves_a_saddle() -> None:
    """F = Σ (θ_j² − 1)²/4 has its minima at ±1 and a negative curvature at the start."""

    class Wells:
        def value(self, point: Tensor) -> float:
            return float(((point.square() - 1).square() / 4).sum())

        def linearised(self, point: Tensor) -> tuple[float, Tensor, object]:
            curvature = 3 * point.square() - 1
            return self.value(point), point * (point.square() - 1), lambda vector: curvature * vector

    start = torch.tensor([0.1, -0.2, 0.5], dtype=torch.float64)
    found = minimise(Wells(), start, 1e-12)  # type: ignore[arg-type]
    assert found.converged
    np.testing.assert_allclose(found.point.abs().numpy(), 1, rtol=1e-10)


def test_what_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("problems.optimum.MOST_STEPS", 1)
    problem = problems.load("softmax_regression", training_size=60, pooling=4, num_queries=2)
    assert problem.retraining is not None
    found = problem.retraining.train(attempt(list(range(60)), "cold"))
    assert not found.converged
    assert found.gradient > 1e-8


def test_another_process_gets_the_same(network: problems.Problem) -> None:
    for first in (ridge(), network.retraining):
        assert first is not None
        wanted = first.train(attempt(list(range(9))))
        second = pickle.loads(pickle.dumps(first))
        assert torch.equal(second.train(attempt(list(range(9)))).losses, wanted.losses)
        assert second.key(attempt([0])) == first.key(attempt([0]))


def test_what_cannot_be_trained_again(network: problems.Problem) -> None:
    with pytest.raises(ValueError, match="how this model is initialised is not known"):
        proximal(network).train(attempt([0, 1], "cold"))
    with pytest.raises(ValueError, match="bare matrix without a model to train"):
        proximal(dense_problem(random_psd_examples(5, 4, 0), damping=0.1))
    with pytest.raises(ValueError, match="sequences have weights by their tokens"):
        Optimum(nn.Linear(1, 1), TokenCrossEntropy(), (), ())
    model = nn.Linear(2, 3, dtype=torch.float64)
    pairs = [(torch.ones(2, dtype=torch.float64), torch.tensor(1))] * 4
    by_item = problems.from_model(model.eval(), CrossEntropy(), pairs, pairs[:1], damping=0.1)
    with pytest.raises(ValueError, match="reads its data item by item"):
        proximal(by_item)
