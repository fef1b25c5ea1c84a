"""Influences against retraining and against gradients of a network written out, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.optimize import root
from scipy.special import logsumexp, softmax
from torch import Tensor, nn

import problems
from problems import Columns, Problem
from problems.influence import (
    gradient_norms,
    gradient_products,
    influence_scores,
    most_harmful,
    most_helpful,
    training_weights,
)

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


def test_products_of_gradients_with_dense_solutions(problem: Problem, dense: tuple[Tensor, Tensor]) -> None:
    gradients, curvature = dense
    b = problem.columns()
    x = torch.linalg.solve(curvature + 0.3 * torch.eye(len(curvature)).double(), b)
    indices = torch.tensor([4, 0, 6])
    torch.testing.assert_close(gradient_products(task(problem), x, indices), gradients[:, indices].T @ x)
    torch.testing.assert_close(gradient_products(task(problem), b, indices), gradients[:, indices].T @ b)
    reference = problem.reference
    assert reference is not None
    torch.testing.assert_close(
        gradient_products(task(problem), reference, indices),
        gradients[:, indices].T @ x,
        rtol=1e-9,
        atol=1e-12,
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
    found = gradient_products(task(problem), x, torch.arange(SIZE))
    torch.testing.assert_close(found, dense[0].sum(0)[:, None])
    assert sum(sizes) == SIZE
    assert max(sizes) == max(held, 1)


def test_on_a_cpu_no_more_at_once_than_the_allocator_keeps(
    problem: Problem, dense: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("problems.influence.CPU_EXAMPLES", 1)
    monkeypatch.setattr("problems.influence.CPU_BYTES", 3 * problem.size * 8)
    told: list[float] = []
    x = torch.ones(problem.size, 1, dtype=torch.float64)
    found = gradient_products(task(problem), x, on_progress=told.append)
    torch.testing.assert_close(found, dense[0].sum(0)[:, None])
    monkeypatch.setattr("problems.influence.CPU_EXAMPLES", 5)
    gradient_products(task(problem), x, on_progress=told.append)
    assert told == pytest.approx([3 / 7, 6 / 7, 1, 5 / 7, 1])


def test_a_pass_costs_the_share_of_the_examples(problem: Problem) -> None:
    work = problem.operator.work
    before = work.total
    gradient_products(task(problem), problem.columns(), torch.arange(3))
    assert work.total - before == pytest.approx(3 / SIZE)
    gradient_norms(task(problem), torch.arange(SIZE))
    assert work.total - before == pytest.approx(3 / SIZE + 1)


LAMBDA = 0.1


@dataclass(frozen=True)
class Fit:
    """Ridge regression or ridge softmax regression that can be retrained: objective + ε ℓ_m + λ/2 ‖θ‖².

    θ is W (outputs, features) row-major, then the bias, as torch's linear layer has them.
    """

    loss: str
    inputs: np.ndarray
    targets: np.ndarray
    query: tuple[np.ndarray, np.ndarray]

    @property
    def outputs(self) -> int:
        return 3 if self.loss == "cross_entropy" else self.targets.shape[1]

    def losses(self, theta: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        outputs = self._extended(inputs) @ self._unflatten(theta)
        if self.loss == "mse":
            return ((outputs - targets) ** 2).mean(axis=1)
        return logsumexp(outputs, axis=1) - outputs[np.arange(len(targets)), targets]

    def retrained(self, weights: np.ndarray) -> np.ndarray:
        """argmin Σ wᵢ ℓᵢ + λ/2 ‖θ‖²: the normal equations, or SciPy's root of the gradient."""
        extended = self._extended(self.inputs)
        features = extended.shape[1]
        if self.loss == "mse":
            gram = 2 / self.outputs * extended.T @ (weights[:, None] * extended) + LAMBDA * np.eye(features)
            moment = 2 / self.outputs * extended.T @ (weights[:, None] * self.targets)
            return self._flatten(np.linalg.solve(gram, moment))
        onehot = np.eye(3)[self.targets]

        def gradient(theta: np.ndarray) -> np.ndarray:
            errors = softmax(extended @ self._unflatten(theta), axis=1) - onehot
            return self._flatten(extended.T @ (weights[:, None] * errors)) + LAMBDA * theta

        found = root(gradient, np.zeros(3 * features), method="hybr", tol=1e-14)
        assert np.abs(gradient(found.x)).max() < 1e-13
        return found.x

    def query_losses(self, weights: np.ndarray) -> np.ndarray:
        return self.losses(self.retrained(weights), *self.query)

    def scores(self, solved: Literal["queries", "training"] = "queries") -> Tensor:
        """The influences at the optimum, with all training examples at weight 1/N."""
        size = len(self.inputs)
        theta = torch.from_numpy(self.retrained(np.full(size, 1 / size)))
        model = nn.Linear(self.inputs.shape[1], self.outputs).double().eval()
        with torch.no_grad():
            nn.utils.vector_to_parameters(theta, model.parameters())
        data, query = (
            tuple(map(torch.from_numpy, pair)) for pair in ((self.inputs, self.targets), self.query)
        )
        built = problems.from_model(model, self.loss, data, query, damping=LAMBDA)
        its_task = task(built)
        b = (
            built.columns()
            if solved == "queries"
            else its_task.gradients(its_task.training, torch.arange(size))
        )
        shifted = built.operator.dense() + LAMBDA * torch.eye(built.size, dtype=torch.float64)
        return influence_scores(its_task, torch.linalg.solve(shifted, b), solved=solved)

    def _extended(self, inputs: np.ndarray) -> np.ndarray:
        return np.column_stack([inputs, np.ones(len(inputs))])

    def _unflatten(self, theta: np.ndarray) -> np.ndarray:
        features = self.inputs.shape[1]
        weight, bias = np.split(theta, [self.outputs * features])
        return np.vstack([weight.reshape(self.outputs, features).T, bias])

    def _flatten(self, columns: np.ndarray) -> np.ndarray:
        return np.concatenate([columns[:-1].T.ravel(), columns[-1]])


def fit(loss: str, size: int, queries: int = 4) -> Fit:
    generator = np.random.default_rng(size)
    inputs = generator.normal(size=(size + queries, 3))
    targets: np.ndarray = generator.normal(size=(size + queries, 2))
    if loss == "cross_entropy":
        targets = generator.integers(3, size=size + queries)
    return Fit(loss, inputs[:size], targets[:size], (inputs[size:], targets[size:]))


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_a_score_is_the_derivative_of_the_retrained_querys_loss(loss: str) -> None:
    """Central differences of retrainings in the weight ε added to an example, sign and scale included."""
    size, step = 12, 2e-5
    trained = fit(loss, size)
    scores = trained.scores().numpy()
    assert scores.shape == (size, 4)
    for m in (0, 5, 11):
        added = step * (np.arange(size) == m)
        up, down = (trained.query_losses(1 / size + sign * added) for sign in (1, -1))
        np.testing.assert_allclose(scores[m], (up - down) / (2 * step), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(trained.scores(solved="training"), torch.from_numpy(scores))


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_leaving_an_example_out_changes_losses_by_minus_its_weight_times_the_score(loss: str) -> None:
    """Of retrainings to the end: what the prediction is off by, relative, falls as 1/N."""
    off = []
    for size in (20, 320):
        trained = fit(loss, size)
        predicted = -trained.scores().numpy() / size
        whole = np.full(size, 1 / size)
        before = trained.query_losses(whole)
        # Weights stay at 1/N, as theory has it: it is a rescaling of λ to divide by N − 1.
        after = [trained.query_losses(whole * (np.arange(size) != m)) for m in range(10)]
        actual = np.array(after) - before
        off.append(np.linalg.norm(predicted[:10] - actual) / np.linalg.norm(actual))
    assert off[0] < 0.5
    assert off[1] < off[0] / 8
    assert off[1] < 0.03


def test_the_most_helpful_and_harmful_are_those_that_retraining_tells() -> None:
    """The query itself among the training examples, and once more as what it is not."""
    trained = fit("cross_entropy", 40, queries=1)
    trained.inputs[:2] = 2 * trained.query[0]
    trained.query[0][:] = trained.inputs[0]
    trained.targets[0] = trained.query[1][0]
    trained.targets[1] = (trained.query[1][0] + 1) % 3
    whole = np.full(40, 1 / 40)
    before = trained.query_losses(whole)[0]
    changes = [trained.query_losses(whole * (np.arange(40) != m))[0] - before for m in range(40)]
    assert int(np.argmax(changes)) == 0  # without it the loss rises most
    assert int(np.argmin(changes)) == 1
    scores = trained.scores()
    helpful, harmful = most_helpful(scores, 1), most_harmful(scores, 1)
    assert (helpful.indices.tolist(), harmful.indices.tolist()) == ([[0]], [[1]])
    assert float(helpful.scores) == float(scores[0]) < 0 < float(scores[1]) == float(harmful.scores)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_first_of_each_query_as_numpy_sorts_them_ties_in_order(count: int) -> None:
    scores = np.random.default_rng(0).integers(-3, 3, size=(20, 5)).astype(float)
    for first, key in ((most_helpful, scores), (most_harmful, -scores)):
        expected = np.argsort(key, axis=0, kind="stable")[:count].T
        found = first(torch.from_numpy(scores), count)
        assert found.indices.tolist() == expected.tolist()
        assert found.scores.tolist() == np.take_along_axis(scores, expected.T, axis=0).T.tolist()
        named = first(torch.from_numpy(scores), count, torch.arange(20) + 100)
        assert named.indices.tolist() == (expected + 100).tolist()


@pytest.mark.parametrize(
    ("scores", "count", "indices", "message"),
    [
        (torch.zeros(3), 1, None, r"scores have shape \(3,\); they must be \(m, q\)"),
        (torch.zeros(3, 2), 1, torch.arange(2), r"shape \(3, 2\) and indices \(2,\)"),
        (torch.zeros(3, 2), 4, None, "count is 4; it must be from 1 to the 3 training examples"),
        (torch.zeros(3, 2), 0, None, "count is 0"),
        (torch.full((3, 2), torch.nan), 1, None, "scores: 6 of 6 numbers are NaN or inf"),
    ],
)
def test_no_order_of_what_has_none(scores: Tensor, count: int, indices: Tensor | None, message: str) -> None:
    for first in (most_helpful, most_harmful):
        with pytest.raises(ValueError, match=message):
            first(scores, count, indices)


def test_queries_and_columns_built_in_parts_give_the_same_scores(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    its_task = task(problem)
    x = torch.randn(problem.size, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    queries = its_task.gradients(its_task.queries, torch.arange(2))
    training = its_task.gradients(its_task.training, torch.arange(SIZE))
    torch.testing.assert_close(influence_scores(its_task, x), -training.T @ x)
    torch.testing.assert_close(influence_scores(its_task, x, solved="training"), -x.T @ queries)
    one = influence_scores(its_task, x, torch.tensor([1]), solved="training")
    torch.testing.assert_close(one, -x.T @ queries[:, 1:])

    built: list[tuple[int, int]] = []

    def build(first: int, last: int) -> Tensor:
        built.append((first, last))
        return x[:, first:last].float()

    told: list[float] = []
    monkeypatch.setattr("problems.influence.COLUMN_BYTES", 2 * problem.size * 8 + 1)
    monkeypatch.setattr("problems.influence.GRADIENT_BYTES", 3 * problem.size * 8)
    found = influence_scores(its_task, Columns((problem.size, 5), build), on_progress=told.append)
    torch.testing.assert_close(found, -training.T @ x.float().double())
    assert built == [(0, 2), (2, 4), (4, 5)]
    # Seven examples by three, two or one at last; columns by two, two and one: of 35 products.
    assert told == pytest.approx([n / 35 for n in (6, 12, 14, 20, 26, 28, 31, 34, 35)])


def test_the_weight_of_an_example_is_its_share_of_the_mean_loss(problem: Problem) -> None:
    assert training_weights(task(problem)).tolist() == [1 / SIZE] * SIZE
    assert training_weights(task(problem), torch.tensor([3, 1])).tolist() == [1 / SIZE] * 2


def test_the_weight_of_a_sequence_is_its_share_of_tokens() -> None:
    """Σ w ∇L_m is the gradient of the mean loss, each L_m a mean over its own tokens."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 3), nn.Linear(3, 6)).double().eval()
    tokens = torch.randint(6, (4, 5))
    targets = tokens.clone()
    for row, count in enumerate((5, 1, 2, 4)):
        targets[row, count:] = -100
    built = problems.from_model(
        model, "token_cross_entropy", (tokens, targets), (tokens, targets), damping=0.1
    )
    found = training_weights(task(built))
    assert found.tolist() == pytest.approx([5 / 12, 1 / 12, 2 / 12, 4 / 12])
    assert training_weights(task(built), torch.tensor([2])).tolist() == pytest.approx([2 / 12])
    mean = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=-100)
    expected = torch.cat([each.flatten() for each in torch.autograd.grad(mean, list(model.parameters()))])
    gradients = task(built).gradients(task(built).training, torch.arange(4))
    torch.testing.assert_close(gradients @ found, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["training example", "query"])
def test_a_gradient_that_is_not_finite_is_named(model: nn.Module, bad: float, kind: str) -> None:
    """It slips by where H is not computed of it: data that change after the problem was built, say."""
    inputs, targets = torch.ones(70, FEATURES).double(), torch.zeros(70, dtype=torch.long)
    data, queries = (inputs.clone(), targets), (inputs.clone(), targets)
    its_task = task(problems.from_model(model, "cross_entropy", data, queries, damping=0.3))
    changed = data if kind == "training example" else queries
    changed[0][61, 1] = changed[0][63] = bad
    x = torch.zeros(its_task.function.num_parameters, 2).double()
    solved: Literal["queries", "training"] = "queries" if kind == "training example" else "training"
    examples = its_task.training if kind == "training example" else its_task.queries
    message = f"the gradient of {kind} 61 holds NaN or inf, as do 1 of the 69 beside it"
    with pytest.raises(ValueError, match=message):
        influence_scores(its_task, x, solved=solved)
    with pytest.raises(ValueError, match=message):
        gradient_norms(its_task, examples=examples)
    with pytest.raises(ValueError, match=f"{kind} 63 holds NaN or inf, as do 0 of the 1 beside it"):
        gradient_products(its_task, x, torch.tensor([4, 63]), examples)
    assert gradient_products(its_task, x, torch.tensor([4, 60]), examples).abs().sum() == 0
    # A solution that is none has products that are none, and says nothing of the examples.
    x[0, 1] = bad
    found = gradient_products(its_task, x, torch.tensor([4, 60]), examples)
    assert found[:, 0].isfinite().all()
    assert not found[:, 1].isfinite().any()


@pytest.mark.parametrize(
    ("x", "indices", "message"),
    [
        (torch.zeros(16), None, r"x has shape \(16,\); it must be \(16, k\)"),
        (torch.zeros(15, 2), None, r"x has shape \(15, 2\); it must be \(16, k\)"),
        (torch.zeros(16, 0), None, r"x has shape \(16, 0\)"),
        (
            torch.zeros(16, 1),
            torch.tensor([0, 7]),
            "indices hold 7; there is no such training example: they are",
        ),
        (torch.zeros(16, 1), torch.tensor([-1]), "indices hold -1"),
        (torch.zeros(16, 1), torch.zeros(0, dtype=torch.long), r"torch.int64 of shape \(0,\)"),
        (torch.zeros(16, 1), torch.ones(7, dtype=torch.bool), "indices are torch.bool"),
    ],
)
def test_bad_input_is_said_before_gradients_are_taken(
    problem: Problem, x: Tensor, indices: Tensor | None, message: str
) -> None:
    before = problem.operator.work.total
    with pytest.raises(ValueError, match=message):
        influence_scores(task(problem), x, indices)
    assert problem.operator.work.total == before


def test_what_was_solved_for_is_one_of_two(problem: Problem) -> None:
    with pytest.raises(ValueError, match="solved is 'query'; it must be 'queries' or 'training'"):
        influence_scores(task(problem), problem.columns(), solved="query")  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_same_scores_from_solutions_here_and_there() -> None:
    parameters: dict[str, Any] = {
        "width": 3,
        "training_size": 60,
        "epochs": 5,
        "num_queries": 3,
        "damping": 0.1,
    }
    here, there = (
        problems.load("image_classifier", device=device, dtype=torch.float64, **parameters)
        for device in ("cpu", "cuda")
    )
    x = here.columns() / here.damping
    expected = influence_scores(task(here), x)
    for given in (x, x.cuda(), Columns((here.size, 3), lambda first, last: x[:, first:last])):
        found = influence_scores(task(there), given)
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), expected)
    some = torch.arange(5, 30)
    for indices in (some, some.cuda()):
        found = influence_scores(task(there), x, indices)
        torch.testing.assert_close(found.cpu(), expected[some])
        ranked = most_harmful(found, 4, indices)
        assert ranked.indices.tolist() == most_harmful(expected[some], 4, some).indices.tolist()
    torch.testing.assert_close(gradient_norms(task(there)).cpu(), gradient_norms(task(here)))
