"""The blocks of every module, against the dense matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from problems import Problem, from_model
from solvers import Status, solve
from solvers.block_diagonal import BlockDiagonal
from solvers.cg import ConjugateGradient
from tests.conftest import dense_problem, random_psd_examples
from tests.solvers.test_kfac import data, network, problem_of, relative

# Of the modules' own parameters, in order.
SIZES = {"mlp": [25, 18], "language_model": [15, 12, 15]}


def within_blocks(matrix: Tensor, sizes: list[int]) -> Tensor:
    mask = torch.block_diag(*(torch.ones(size, size, dtype=matrix.dtype) for size in sizes))
    return matrix * mask


@pytest.mark.parametrize(
    ("model", "loss", "curvature"),
    [
        ("mlp", "cross_entropy", "ggn"),
        ("mlp", "mse", "empirical_fisher"),
        ("mlp", "cross_entropy", "hessian"),
        ("language_model", "next_token_cross_entropy", "ggn"),
        ("language_model", "next_token_cross_entropy", "empirical_fisher"),
    ],
)
def test_inverts_every_block_of_h(model: str, loss: str, curvature: str) -> None:
    problem = problem_of(model, loss, curvature=curvature).with_damping(2.0)
    state = BlockDiagonal().prepare(problem, torch.Generator())
    identity = torch.eye(problem.size, dtype=torch.float64)
    matrix = within_blocks(problem.operator.dense(), SIZES[model]) + 2.0 * identity
    assert relative(state.solve(identity), torch.linalg.inv(matrix)) <= 1e-11
    assert relative(state.half_solve(state.half_solve(identity)), torch.linalg.inv(matrix)) <= 1e-11
    assert state.multiplications == sum(2 * size**2 for size in SIZES[model])


def test_both_ways_to_the_blocks_give_the_same_and_cost_what_they_say() -> None:
    few_outputs, many_outputs = problem_of("mlp", "cross_entropy"), problem_of("mlp", "cross_entropy")
    # 3 rows are cheaper than 43 columns, unless multiplications are dear.
    many_outputs.operator.work.forward_multiplications = 1
    found = []
    for problem, source in ((few_outputs, "the rows of its root"), (many_outputs, "products")):
        work, before = problem.operator.work, problem.operator.work.passes
        state = BlockDiagonal().prepare(problem, torch.Generator())
        assert state.diagnostics["blocks from"] == source
        count, forward = problem.operator.num_examples, work.forward_multiplications
        if source == "products":
            formed = count * sum(1 + 4 * size for size in (25, 18))
        else:
            formed = count * (1 + 2 * 3) + sum(-(-count * 3 * size**2 // (2 * forward)) for size in (25, 18))
        assert work.passes - before == formed + sum(-(-10 * size**3 // forward) for size in (25, 18))
        found.append(state.solve(torch.eye(problem.size, dtype=torch.float64)))
    assert relative(found[0], found[1]) <= 1e-11


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_exact_for_a_network_of_one_module(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).to(dtype).eval()
    inputs, targets = data("mlp", "cross_entropy")
    examples = (inputs.to(dtype), targets)
    problem = from_model(model, "cross_entropy", examples, examples, damping=0.01)
    solution = solve(problem, BlockDiagonal())
    assert solution.error is not None
    assert float(solution.error.max()) <= (1e-11 if dtype == torch.float64 else 1e-5)


def test_preconditions_conjugate_gradients() -> None:
    problem = problem_of("mlp", "cross_entropy")
    solution = solve(problem, ConjugateGradient(tolerance=1e-10, preconditioner=BlockDiagonal()))
    assert solution.status is Status.CONVERGED
    # At most two blocks: the eigenvalues of P⁻¹(H + λ) lie within 0 and 2.
    identity = torch.eye(problem.size, dtype=torch.float64)
    inverse = BlockDiagonal().prepare(problem, torch.Generator()).solve(identity)
    values = torch.linalg.eigvals(inverse @ (problem.operator.dense() + problem.damping * identity)).real
    assert float(values.max()) <= 2 + 1e-9


def test_a_block_that_is_indefinite_names_its_module_and_the_damping() -> None:
    problem = problem_of("mlp", "cross_entropy", curvature="hessian")
    dense = problem.operator.dense()
    lowest = [float(torch.linalg.eigvalsh(part)[0]) for part in (dense[:25, :25], dense[25:, 25:])]
    assert lowest[0] < 0
    solution = solve(problem.with_damping(-0.5 * lowest[0]), BlockDiagonal())
    assert solution.status is Status.BREAKDOWN
    assert "block of 0 is not positive definite" in solution.reason
    assert f"raise damping above {-lowest[0]:.3g}" in solution.reason
    assert solve(problem.with_damping(-1.5 * lowest[0]), BlockDiagonal()).usable


def test_what_does_not_fit_is_skipped_with_its_size() -> None:
    problem: Problem = problem_of("mlp", "cross_entropy")
    assert "the largest being 0 with 25 parameters" in str(BlockDiagonal(memory_gib=1e-6).skip(problem))
    bare = dense_problem(random_psd_examples(4, 3, seed=0), 0.1)
    assert "bare matrix" in str(BlockDiagonal().skip(bare))
    with pytest.raises(ValueError, match="memory_gib is 0"):
        BlockDiagonal(memory_gib=0)


def test_a_model_that_is_one_module_is_called_the_model() -> None:
    inputs = data("mlp", "cross_entropy")[0]
    model = network("mlp")[0]  # type: ignore[index]
    examples = (inputs, torch.ones(len(inputs), 5, dtype=torch.float64))
    problem = from_model(model, "mse", examples, examples, damping=1)
    assert "the model" in str(BlockDiagonal(memory_gib=1e-9).skip(problem))
