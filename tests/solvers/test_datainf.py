"""DataInf against explicit inverses of every example's gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from problems import Problem, from_model
from solvers import Status, solve
from solvers.datainf import DataInf
from tests.conftest import dense_problem, random_psd_examples
from tests.solvers.test_kfac import COUNT, MODELS, data, network, problem_of

SIZES = {"mlp": [25, 18], "images": [54, 39, 20, 90, 54], "language_model": [15, 12, 15]}
CASES = [("mlp", "cross_entropy"), ("mlp", "mse"), ("images", "cross_entropy")]
CASES.append(("language_model", "next_token_cross_entropy"))
cases = pytest.mark.parametrize(("model", "loss"), CASES)


def gradients(model: str, loss: str) -> Tensor:
    """Of every example's loss by plain autograd, (n, p); of a sequence's mean over its tokens."""
    module = network(model)
    found = []
    for example, target in zip(*data(model, loss), strict=True):
        outputs = functional_call(module, dict(module.named_parameters()), (example[None],))
        if loss == "mse":
            value = nn.functional.mse_loss(outputs, target[None])
        elif loss == "cross_entropy":
            value = nn.functional.cross_entropy(outputs, target[None])
        else:
            value = nn.functional.cross_entropy(outputs[0, :-1], target[1:], ignore_index=-100)
        parts = torch.autograd.grad(value, list(module.parameters()))
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


def by_hand(problem: Problem, model: str, loss: str, dampings: list[float]) -> Tensor:
    """Every module's mean inverse, times the right-hand sides."""
    blocks = []
    for part, damping in zip(gradients(model, loss).split(SIZES[model], dim=1), dampings, strict=True):
        identity = torch.eye(part.shape[1], dtype=torch.float64)
        inverses = [torch.linalg.inv(torch.outer(g, g) + damping * identity) for g in part]
        blocks.append(torch.stack(inverses).mean(dim=0))
    return torch.block_diag(*blocks) @ problem.columns()


def close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))


def test_the_sizes_are_those_of_the_modules() -> None:
    for model, sizes in SIZES.items():
        assert sum(value.numel() for value in MODELS[model]().parameters()) == sum(sizes)


@cases
def test_is_the_mean_of_explicit_inverses(model: str, loss: str) -> None:
    problem = problem_of(model, loss)
    expected = by_hand(problem, model, loss, [problem.damping] * len(SIZES[model]))
    close(solve(problem, DataInf()).x, expected)
    # Gradients one by one.
    alone = DataInf(memory_gib=3 * 8 * problem.size / 2**30)
    assert alone.skip(problem) is None
    close(solve(problem, alone).x, expected)


@cases
def test_the_papers_damping_is_a_tenth_of_the_mean_square(model: str, loss: str) -> None:
    problem = problem_of(model, loss)
    parts = gradients(model, loss).split(SIZES[model], dim=1)
    dampings = [0.1 * float(part.square().mean()) for part in parts]
    state = DataInf(layer_damping="heuristic").prepare(problem, torch.Generator())
    torch.testing.assert_close(list(state.values()), dampings, rtol=1e-9, atol=0)
    solver = DataInf(layer_damping="heuristic")
    x = next(iter(solver.iterates(problem, state, problem.columns().clone(), torch.Generator()))).x
    close(x, by_hand(problem, model, loss, dampings))


def test_exact_for_one_example_of_the_empirical_fisher_matrix() -> None:
    inputs = data("mlp", "cross_entropy")[0]
    model, one = network("mlp")[0], (inputs[:1], torch.ones(1, 5, dtype=torch.float64))  # type: ignore[index]
    problem = from_model(model, "mse", one, one, damping=0.01, curvature="empirical_fisher")
    solution = solve(problem, DataInf())
    assert solution.error is not None
    assert float(solution.error.max()) <= 1e-11


@cases
def test_lies_between_0_and_the_inverse_damping(model: str, loss: str) -> None:
    problem = problem_of(model, loss)
    b = problem.columns()
    x = solve(problem, DataInf()).x
    assert x is not None
    forms = (b * x).sum(dim=0)
    assert (forms > 0).all()
    assert (forms <= b.square().sum(dim=0) / problem.damping).all()


def test_work_is_a_gradient_for_every_example_and_the_algebra() -> None:
    problem = problem_of("mlp", "cross_entropy")
    forward = problem.operator.work.forward_multiplications
    algebra = -(-2 * COUNT * problem.size * 2 // forward)
    for layer_damping, setup in (("given", 0), ("heuristic", 3 * COUNT)):
        solution = solve(problem, DataInf(layer_damping=layer_damping))  # type: ignore[arg-type]
        assert solution.setup_work == setup / (3 * COUNT)
        assert solution.work == (3 * COUNT + algebra) / (3 * COUNT)


def test_bad_input() -> None:
    bare = dense_problem(random_psd_examples(4, 3, seed=0), 0.1)
    assert "bare matrix" in str(DataInf().skip(bare))
    assert "GiB" in str(DataInf(memory_gib=1e-9).skip(problem_of("mlp", "mse")))
    with pytest.raises(ValueError, match="layer_damping is 'none'; it must be one of given, heuristic"):
        DataInf(layer_damping="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="memory_gib is 0"):
        DataInf(memory_gib=0)


def test_gradients_that_are_all_0_need_a_damping() -> None:
    inputs = torch.randn(3, 2, dtype=torch.float64)
    model = nn.Linear(2, 1).double().eval()
    targets = model(inputs).detach()
    problem = from_model(model, "mse", (inputs, targets), (inputs, targets + 1), damping=0.1)
    solution = solve(problem, DataInf(layer_damping="heuristic"))
    assert solution.status is Status.BREAKDOWN
    assert "set layer_damping=given" in solution.reason
