"""Responses against dense linear algebra, closed forms and SciPy's minimisers, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn

import problems
from problems import Problem, pbrf
from problems.cache import ENVIRONMENT_VARIABLE, CacheWarning
from problems.descent import Adam, Goal, Iterate, Optimiser, QuasiNewton
from problems.pbrf import Response, extrapolated, responses
from tests.conftest import dense_problem, random_psd_examples

EPSILONS = (1e-3, -1e-3, 5e-4, -5e-4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test keeps no other finds."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))


@pytest.fixture(scope="module")
def convex() -> Problem:
    return problems.load("softmax_regression", training_size=100, pooling=4, num_queries=3, damping=0.02)


@pytest.fixture(scope="module")
def mlp() -> Problem:
    small = {"width": 2, "training_size": 60, "epochs": 5, "num_queries": 4, "damping": 0.1}
    return problems.load("image_classifier", **small)


def damped(problem: Problem) -> Tensor:
    return problem.operator.dense() + problem.damping * torch.eye(problem.size, dtype=torch.float64)


def exact(problem: Problem, examples: list[int]) -> Tensor:
    """−∇L_qᵀ(H + λ)⁻¹∇L_m by dense algebra, shape (j, q)."""
    assert problem.task is not None
    gradients = problem.task.gradients(problem.task.training, torch.tensor(examples))
    return -(problem.columns().T @ torch.linalg.solve(damped(problem), gradients)).T


def chord(problem: Problem, blur: float = 0.0) -> Callable[[Tensor], Tensor]:
    """(H + (1 + blur)λ)⁻¹ in float32, as a solver of little accuracy gives it."""
    matrix = damped(problem) + blur * problem.damping * torch.eye(problem.size, dtype=torch.float64)
    return lambda residuals: torch.linalg.solve(matrix, residuals).float()


@pytest.mark.parametrize(("solves", "memory"), [(False, 8), (True, 0), (True, 4)])
def test_convex_responses_tend_to_the_exact_influence(convex: Problem, solves: bool, memory: int) -> None:
    optimiser = QuasiNewton(chord(convex, 0.1) if solves else None, memory)
    found = responses(convex, [3, 50], EPSILONS, optimiser=optimiser, tolerance=1e-9)
    for number, truth in enumerate(exact(convex, [3, 50])):
        own = found[4 * number : 4 * number + 4]
        assert [(each.example, each.epsilon) for each in own] == [([3, 50][number], e) for e in EPSILONS]
        assert all(each.converged and each.relative_gradient <= 1e-9 for each in own)
        limit = extrapolated(own)
        assert float((limit.values - truth).norm() / truth.norm()) < 1e-6
        # At ε itself it is no limit: extrapolation does something, and its estimate covers the rest.
        assert float((own[0].influences - truth).norm() / truth.norm()) > 1e-4
        assert bool(((limit.values - truth).abs() <= limit.errors + 1e-7 * truth.norm()).all())


def test_of_a_linear_model_with_squared_loss_the_closed_form_holds_at_every_epsilon() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randn(12, size, generator=generator, dtype=torch.float64) for size in (3, 2))
    model = nn.Linear(3, 2, bias=False).double().eval()
    problem = problems.from_model(model, "mse", (inputs, targets), (inputs[:3] + 1, targets[:3]), damping=0.2)
    weight = model.weight.detach()
    # L = mean over two outputs of (w_k·x − t_k)²: each output is a problem of its own with ∇² = xxᵀ.
    for epsilon in (-0.04, 0.5, 3.0):
        (found,) = responses(problem, [4], [epsilon], tolerance=1e-10)
        x = inputs[4]
        hessian = inputs.T @ inputs / 12 + 0.2 * torch.eye(3) + epsilon * torch.outer(x, x)
        shift = -epsilon * torch.linalg.solve(hessian, torch.outer(x, weight @ x - targets[4])).T
        queries, wanted = inputs[:3] + 1, targets[:3]
        losses = [(queries @ each.T - wanted).square().mean(1) for each in (weight + shift, weight)]
        torch.testing.assert_close(found.influences, (losses[0] - losses[1]) / epsilon, rtol=1e-7, atol=1e-9)
        assert found.displacement == pytest.approx(float(shift.norm()), rel=1e-8)
        assert found.converged


def scipys(problem: Problem, example: int, epsilon: float) -> Tensor:
    """The same objective of the MLP written out, minimised by SciPy from θˢ."""
    assert problem.task is not None
    task = problem.task
    images, labels = (each.clone() for each in task.training.batch(torch.arange(60)))  # type: ignore[union-attr]
    start = torch.cat([value.flatten() for value in task.function.parameters.values()])

    def logits(theta: Tensor, inputs: Tensor) -> Tensor:
        first, bias, last, end = theta.split([128, 2, 20, 10])
        hidden = torch.tanh(inputs @ first.reshape(2, 64).T + bias)
        return hidden @ last.reshape(10, 2).T + end

    anchor = logits(start, images).softmax(1)

    def objective(theta: Tensor) -> Tensor:
        y = logits(theta, images).log_softmax(1)
        kl = (anchor * (anchor.log() - y)).sum(1).mean()
        proximity = problem.damping / 2 * (theta - start).square().sum()
        return kl - epsilon * y[example, labels[example]] + proximity

    def both(theta: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.tensor(theta, requires_grad=True)
        value = objective(free)
        return float(value.detach()), torch.autograd.grad(value, free)[0].numpy()

    end = torch.tensor(minimize(both, start.numpy(), jac=True, method="BFGS", options={"gtol": 1e-9}).x)
    queries, targets = task.queries.batch(torch.arange(4))
    assert isinstance(queries, Tensor)
    losses = [F.cross_entropy(logits(theta, queries), targets, reduction="none") for theta in (end, start)]
    return (losses[0] - losses[1]) / epsilon


@pytest.mark.parametrize(
    ("epsilon", "blur", "memory"), [(0.05, None, 8), (0.05, 2.0, 8), (-0.02, 2.0, 8), (-0.02, 0.0, 0)]
)
def test_a_networks_responses_are_scipys(
    mlp: Problem, epsilon: float, blur: float | None, memory: int
) -> None:
    truth = scipys(mlp, 7, epsilon)
    optimiser = QuasiNewton(None if blur is None else chord(mlp, blur), memory)
    (found,) = responses(mlp, [7], [epsilon], optimiser=optimiser, tolerance=1e-8, keeps=False)
    assert found.converged
    assert found.decrease > 0
    assert float((found.influences - truth).norm() / truth.norm()) < 1e-5


def test_examples_together_are_as_alone_and_in_any_blocks(mlp: Problem) -> None:
    ours = partial(responses, mlp, tolerance=1e-8, keeps=False, optimiser=QuasiNewton(chord(mlp)))
    together = ours([7, 31], [0.01, -0.01])
    again = ours([7, 31], [0.01, -0.01], max_bytes=8 * mlp.size)
    for one, other in zip(together, again, strict=True):
        torch.testing.assert_close(one.influences, other.influences, rtol=1e-6, atol=1e-9)
        assert (one.example, one.epsilon) == (other.example, other.epsilon)
    alone = [ours([7], [0.01])[0], ours([31], [-0.01])[0]]
    for one, other in zip((together[0], together[3]), alone, strict=True):
        torch.testing.assert_close(one.influences, other.influences, rtol=1e-6, atol=1e-9)


def test_what_is_known_of_one_epsilon_saves_steps_at_the_next(mlp: Problem) -> None:
    ours = partial(responses, mlp, tolerance=1e-8, keeps=False, optimiser=QuasiNewton(chord(mlp, 1.0)))
    alone = [ours([7], [e])[0].steps for e in EPSILONS]
    path = [each.steps for each in ours([7], EPSILONS)]
    assert path[0] == alone[0]
    assert sum(path[1:]) < 0.8 * sum(alone[1:])


def test_float32_networks_have_float64_responses(convex: Problem) -> None:
    single = problems.load(
        "softmax_regression", training_size=100, pooling=4, num_queries=3, damping=0.02, dtype=torch.float32
    )
    truth = exact(convex, [3])[0]
    found = extrapolated(responses(single, [3], EPSILONS, tolerance=1e-9))
    # The weights and pixels have been rounded to float32, nothing else.
    assert float((found.values - truth).norm() / truth.norm()) < 1e-5


class Sequences(nn.Module):
    """A linear model of every position."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs)


def test_of_sequences_the_mean_is_over_tokens() -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(5, 6, 3).double(), torch.randint(4, (5, 6))
    labels[1, :4] = -100
    problem = problems.from_model(
        Sequences().double().eval(),
        "token_cross_entropy",
        (inputs, labels),
        (inputs[:2], labels[:2]),
        damping=0.1,
    )
    found = extrapolated(responses(problem, [1], EPSILONS, tolerance=1e-10))
    truth = exact(problem, [1])[0]
    assert float((found.values - truth).norm() / truth.norm()) < 1e-6


def test_a_gradient_of_zero_has_no_response() -> None:
    inputs = torch.eye(3, dtype=torch.float64)
    model = nn.Linear(3, 2, bias=False).double().eval()
    targets = (inputs @ model.weight.T).detach()
    problem = problems.from_model(model, "mse", (inputs, targets), (inputs, targets + 1), damping=0.1)
    (found,) = responses(problem, [0], [0.1])
    assert found.converged
    assert (found.displacement, found.relative_gradient) == (0, 0)
    assert found.influences.tolist() == [0, 0, 0]


def test_too_few_steps_are_no_truth(mlp: Problem) -> None:
    found = responses(mlp, [7], [0.01, -0.01], optimiser=QuasiNewton(max_steps=2), tolerance=1e-8)
    assert not any(each.converged for each in found)
    assert "above the tolerance 1e-08: take more steps" in found[0].reason
    with pytest.raises(ValueError, match="no response of example 7 has converged"):
        extrapolated(found)
    # And are not kept as such.
    enough = QuasiNewton(chord(mlp))
    assert all(
        each.converged for each in responses(mlp, [7], [0.01, -0.01], optimiser=enough, tolerance=1e-8)
    )


@pytest.mark.parametrize("wrong", [lambda r: -r, lambda r: r * torch.nan, lambda r: 8 * r])
def test_a_solver_that_is_wrong_spoils_nothing(convex: Problem, wrong: Callable[[Tensor], Tensor]) -> None:
    truth = responses(convex, [3], [0.01], tolerance=1e-8, keeps=False)[0]
    optimiser = QuasiNewton(wrong, max_steps=400)
    (found,) = responses(convex, [3], [0.01], tolerance=1e-8, keeps=False, optimiser=optimiser)
    assert found.converged
    torch.testing.assert_close(found.influences, truth.influences, rtol=1e-5, atol=1e-8)


class Uphill(Optimiser):
    """Ends where the objective is higher, and says that the gradient is 0 there."""

    vectors = 1

    def iterates(self, goal: Goal, start: Tensor) -> Iterator[Iterate]:
        point = torch.ones_like(start)
        values, gradients = goal.evaluate(point, torch.arange(point.shape[1]))
        yield Iterate(point, values, 0 * gradients.norm(dim=0), torch.zeros(point.shape[1]).bool())


def test_an_objective_that_rose_is_no_truth(mlp: Problem) -> None:
    (found,) = responses(mlp, [7], [0.01], optimiser=Uphill())
    assert not found.converged
    assert found.decrease < 0
    assert "the objective rose by" in found.reason


def test_adam_comes_near_and_is_certified_by_all_data(convex: Problem) -> None:
    truth = responses(convex, [3], [0.01], tolerance=1e-8, keeps=False)[0]
    adam = Adam(steps=250, batch_size=20)
    found, again = (
        responses(convex, [3], [0.01], optimiser=adam, tolerance=tolerance, keeps=False)[0]
        for tolerance in (0.2, 1e-6)
    )
    assert found.converged
    assert not again.converged
    assert found.relative_gradient == again.relative_gradient > 1e-6
    off = float((found.influences - truth.influences).norm() / truth.influences.norm())
    assert off < 0.2


def test_where_the_objective_is_not_convex_it_is_said(mlp: Problem) -> None:
    """Of H + λ + ε∇²L_m, dense, ∇² by torch's own second derivatives."""
    shaky = mlp.with_damping(1e-4)
    task = shaky.task
    assert task is not None
    inputs, target = task.training.batch(torch.tensor([7]))
    flat = torch.cat([value.flatten() for value in task.function.parameters.values()])

    def loss(theta: Tensor) -> Tensor:
        values = task.function.unflatten(theta[:, None])
        outputs = task.function.outputs({name: part[0] for name, part in values.items()}, inputs)
        return F.cross_entropy(outputs, target)

    own = torch.autograd.functional.hessian(loss, flat)
    seen = set()
    for epsilon in (-0.5, -1e-5, 1e-5):
        smallest = float(torch.linalg.eigvalsh(damped(shaky) + epsilon * own)[0])
        (found,) = responses(shaky, [7], [epsilon], tolerance=1e-4, optimiser=QuasiNewton(max_steps=1))
        assert found.floor <= smallest + 1e-9
        refused = "the objective is not convex near θˢ" in found.reason
        assert refused == (smallest < 0)
        if refused:
            assert not found.converged
            assert bool(found.influences.isnan().all())
        seen.add(refused)
    assert seen == {True, False}


def test_what_was_found_is_kept_and_found_again(convex: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    work = convex.operator.work
    first = responses(convex, [3, 50], [0.01, -0.01])
    assert work.total > 0
    before = work.total
    monkeypatch.setattr(pbrf, "_Block", None)  # nothing can be optimised
    again = responses(convex, [50, 3], [-0.01, 0.01], optimiser=QuasiNewton(memory=3))
    assert work.total - before < 1
    by = {(each.example, each.epsilon): each for each in first}
    for each in again:
        known = by[each.example, each.epsilon]
        assert each.influences.tolist() == known.influences.tolist()
        assert vars(each) | {"influences": 0} == vars(known) | {"influences": 0}
    for other in (
        lambda: responses(convex.with_damping(0.03), [3], [0.01]),
        lambda: responses(convex, [3], [0.01], tolerance=1e-7),
        lambda: responses(convex, [3], [0.02]),
        lambda: responses(convex, [4], [0.01]),
    ):
        with pytest.raises(TypeError):  # None cannot be called
            other()


class Scaled(nn.Module):
    """A linear model; what it is multiplied by is not printed."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.linear(inputs)


def test_networks_that_print_the_same_are_told_apart() -> None:
    for scale in (1.0, 2.0):
        torch.manual_seed(0)
        model = Scaled(scale).double().eval()
        data = (torch.randn(6, 3).double(), torch.randint(4, (6,)))
        problem = problems.from_model(model, "cross_entropy", data, data, damping=0.1)
        found = extrapolated(responses(problem, [1], EPSILONS, tolerance=1e-10))
        truth = exact(problem, [1])[0]
        assert float((found.values - truth).norm() / truth.norm()) < 1e-6


def test_what_was_cut_off_goes_on(convex: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = responses(convex, [3, 50], [0.01, -0.01], tolerance=1e-8, keeps=False)

    class Cut(Exception):
        pass

    def stop(what: str, share: float) -> None:
        if "-0.01" in what:
            raise Cut

    with pytest.raises(Cut):
        responses(convex, [3, 50], [0.01, -0.01], tolerance=1e-8, on_progress=stop)
    told: list[str] = []
    found = responses(
        convex, [3, 50], [0.01, -0.01], tolerance=1e-8, on_progress=lambda what, share: told.append(what)
    )
    assert told
    assert not any("ε = 0.01" in what for what in told)
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one.influences, other.influences, rtol=1e-6, atol=1e-9)


def test_a_damaged_file_is_computed_again(convex: Problem, tmp_path: Path) -> None:
    (first,) = responses(convex, [3], [0.01])
    (path,) = tmp_path.glob("responses/*/*.json")
    path.write_text("{", encoding="utf-8")
    with pytest.warns(CacheWarning, match="cannot be read"):
        (again,) = responses(convex, [3], [0.01])
    assert again.influences.tolist() == first.influences.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilons": [0.01, 0.0]}, r"epsilons has 0\.0; θ\(0\) is θˢ itself"),
        ({"epsilons": [math.nan]}, "epsilons has nan"),
        ({"epsilons": []}, "epsilons is empty"),
        ({"epsilons": [0.1, 0.1]}, "each must be there once"),
        ({"examples": [100]}, "there is no training example 100; softmax_regression has 0 to 99"),
        ({"examples": [-1]}, "there is no training example -1"),
        ({"tolerance": 0.0}, r"tolerance is 0\.0"),
    ],
)
def test_what_is_wrong_is_named(convex: Problem, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        responses(convex, **{"examples": [0], "epsilons": [0.1], **change})  # type: ignore[arg-type]


def test_models_that_cannot_be(convex: Problem) -> None:
    with pytest.raises(ValueError, match="without training examples"):
        responses(dense_problem(random_psd_examples(5, 4, 0), 0.1), [0])
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).eval()
    data = (torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1]))
    problem = problems.from_model(model, "cross_entropy", data, data, damping=0.1)
    for module in (model[1], model[2]):
        module.train()
        with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
            responses(problem, [0])
        module.eval()
    with pytest.raises(ValueError, match="the examples"):
        extrapolated([])
    assert isinstance(responses(problem, [0], [0.01])[0], Response)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: QuasiNewton(memory=0), "memory is 0"),
        (lambda: QuasiNewton(max_steps=0), "max_steps is 0"),
        (lambda: Adam(rate=0.0), r"rate is 0\.0"),
        (lambda: Adam(steps=0), "steps is 0"),
    ],
)
def test_optimisers_that_cannot_be(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_cuda_device_responses_are_the_same(dtype: torch.dtype) -> None:
    small = {"width": 2, "training_size": 60, "epochs": 5, "num_queries": 4, "damping": 0.1}
    found = [
        responses(
            problems.load("image_classifier", device=device, dtype=dtype, **small),
            [7, 31],
            [0.01, -0.01],
            tolerance=1e-7,
            keeps=False,
        )
        for device in ("cpu", "cuda")
    ]
    for here, there in zip(*found, strict=True):
        assert there.converged
        torch.testing.assert_close(here.influences, there.influences, rtol=1e-4, atol=1e-6)
