"""dattri through its adapters: what it solves, what its settings mean, and what it costs."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import problems
from problems import DenseOperator, Problem, from_model
from problems.losses import as_loss
from problems.models.mlp import mlp
from solvers import Solver, Status, load, solve
from solvers.peers import network
from solvers.peers.advice import Advice
from solvers.peers.dattri import (
    LIBRARY,
    DattriArnoldi,
    DattriCG,
    DattriDataInf,
    DattriEKFAC,
    DattriLiSSA,
)
from tests.solvers.layer_oracle import ekfac_block, layer_rows
from tests.solvers.peers.flops import counted_and_executed

pytestmark = pytest.mark.skipif(bool(LIBRARY.missing()), reason=str(LIBRARY.missing()))
COUNT, DAMPING = 12, 0.05


@cache
def softmax(damping: float = 1e-2) -> Problem:
    """A convex problem, whose Hessian is the Gauss–Newton matrix; p = 50, κ = 23."""
    return problems.load("softmax_regression", pooling=4, training_size=151, num_queries=3, damping=damping)


@cache
def perceptron(
    damping: float = 0.5,
    curvature: str = "hessian",
    sizes: tuple[int, ...] = (4, 5, 3),
    loss: str = "cross_entropy",
    count: int = COUNT,
) -> Problem:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, sizes[0], generator=generator, dtype=torch.float64)
    targets = torch.rand(count, sizes[-1], generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        targets = targets.argmax(dim=1)
    data = (inputs, targets)
    model = mlp(list(sizes), generator)
    queries = (inputs[:2], targets[:2])
    return from_model(model, loss, data, queries, damping=damping, curvature=curvature)


def worst(problem: Problem, solver: Solver, seed: int = 0) -> float:
    """Relative error against the dense solution."""
    solution = solve(problem, solver, seed=seed)
    assert solution.status is Status.FINISHED, solution.reason
    assert solution.error is not None
    return float(solution.error.max())


def largest(problem: Problem) -> float:
    assert problem.eigenvalues is not None
    return float(problem.eigenvalues.abs().max()) + problem.damping


def full_batch(problem: Problem, steps: int, scaling: float | None = None) -> DattriLiSSA:
    size = problem.operator.num_draws
    return DattriLiSSA(batch_size=size, recursion_depth=steps, scaling=scaling or largest(problem))


def relative(found: Tensor | None, expected: Tensor) -> float:
    assert found is not None
    return float((found - expected).norm() / expected.norm())


def test_solves_a_convex_problem() -> None:
    problem = softmax(damping=0.1)
    assert problem.condition_number is not None
    assert worst(problem, DattriCG(max_iter=15)) <= 1e-8
    assert worst(problem, full_batch(problem, math.ceil(20 * problem.condition_number))) <= 1e-8


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
def test_solves_with_the_hessian_of_a_perceptron(loss: str) -> None:
    problem = perceptron(damping=2.0, loss=loss)
    assert problem.condition_number is not None
    assert problem.eigenvalues is not None
    assert problem.eigenvalues[0] < 0
    assert worst(problem, DattriCG(max_iter=25)) <= 1e-8
    assert worst(problem, full_batch(problem, math.ceil(20 * problem.condition_number))) <= 1e-8
    # Of any subspace x is the nearest to x* in the norm of H + λ; of two steps its basis is orthogonal.
    energy = solve(problem, DattriArnoldi(max_iter=3)).energy_error
    assert energy is not None
    assert float(energy.max()) <= 1 + 1e-9


def test_lissas_damping_is_over_the_scaling() -> None:
    # Fixed point: damping · h + Hh/s = b and x = h/s, so that x = (H + damping · s)⁻¹ b.
    problem = softmax(damping=0.1)
    scaling = 4 * largest(problem)
    x = solve(problem, full_batch(problem, 260, scaling)).x
    matrix = problem.operator.dense()
    identity = torch.eye(problem.size, dtype=torch.float64)
    b = problem.columns()
    assert relative(x, torch.linalg.solve(matrix + problem.damping * identity, b)) <= 1e-8
    assert relative(x, torch.linalg.solve(matrix + problem.damping * scaling * identity, b)) > 0.01


def test_lissa_diverges_below_half_the_largest_eigenvalue() -> None:
    problem = softmax()
    assert worst(problem, full_batch(problem, 100, 0.51 * largest(problem))) < 1
    assert solve(problem, full_batch(problem, 100, 0.4 * largest(problem))).status is Status.DIVERGED
    # Of the perceptron's Hessian with less damping than its negative eigenvalues need.
    indefinite = perceptron(damping=1e-2)
    assert indefinite.eigenvalues is not None
    assert float(indefinite.eigenvalues.min()) < -2e-2
    assert solve(indefinite, full_batch(indefinite, 100)).status is Status.DIVERGED


def test_lissas_batches_and_repeats() -> None:
    problem = softmax(damping=0.1)
    settings = {"recursion_depth": 40, "scaling": 2 * largest(problem)}
    noisy = worst(problem, DattriLiSSA(batch_size=5, **settings))  # type: ignore[arg-type]
    averaged = worst(problem, DattriLiSSA(batch_size=5, num_repeat=9, **settings))  # type: ignore[arg-type]
    # Means over 9 independent runs err by a third.
    assert 0.15 * noisy < averaged < 0.6 * noisy
    # Without replacement a batch of all is exact.
    assert worst(problem, full_batch(problem, 40, 2 * largest(problem))) < 0.05 * noisy


@pytest.mark.parametrize("solver", [DattriLiSSA(recursion_depth=20), DattriArnoldi(max_iter=9)], ids=str)
def test_a_seed_decides_what_is_drawn(solver: Solver) -> None:
    problem, before = softmax(), torch.random.get_rng_state()
    one, same, other = (solve(problem, solver, seed=seed, compare=False).x for seed in (0, 0, 1))
    assert one is not None
    assert same is not None
    assert torch.equal(one, same)
    assert relative(other, one) > 1e-6
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32


def test_cg_has_no_tolerance() -> None:
    # After 30 steps its own residual is far below the 1e-7 that it is documented to end at, and it goes on.
    problem = softmax()
    errors = [worst(problem, DattriCG(max_iter=steps)) for steps in (4, 8, 30)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert solve(problem, DattriCG(max_iter=1000)).status is Status.DIVERGED


def test_cg_of_a_column_that_is_zero() -> None:
    problem = from_columns(softmax(), torch.zeros(50, 1, dtype=torch.float64))
    x = solve(problem, DattriCG(), compare=False).x
    assert x is not None
    assert not x.any()


def from_columns(problem: Problem, columns: Tensor) -> Problem:
    return Problem("given", problem.operator, problem.damping, columns, problem.task)


def test_arnoldi_is_the_projected_inverse() -> None:
    # With all dimensions of a matrix whose eigenvalues differ it is exact, here of one linear layer and mse.
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    targets = inputs.sum(dim=1, keepdim=True)
    problem = from_model(
        nn.Linear(5, 1).double().eval(), "mse", (inputs, targets), (inputs[:3], targets[:3] + 1), damping=0.1
    )
    assert worst(problem, DattriArnoldi(max_iter=7, top_k=6)) <= 1e-9
    # Of fewer Ritz pairs x lies in their span, of one: what it gives to all b is of one direction.
    x = solve(problem, DattriArnoldi(max_iter=7, top_k=1)).x
    assert x is not None
    values, vectors = torch.linalg.eigh(problem.operator.dense())
    top = vectors[:, -1:]
    expected = top @ (top.T @ problem.columns()) / (values[-1] + 0.1)
    assert relative(x, expected) <= 1e-9


def test_arnoldi_beyond_the_dimensions_it_can_have_is_seen_to_run_away() -> None:
    problem = softmax()
    assert solve(problem, DattriArnoldi(max_iter=9, top_k=8)).usable
    assert solve(problem, DattriArnoldi()).status is Status.DIVERGED


def gradients(problem: Problem) -> Tensor:
    """Of every example's loss by plain autograd, (n, p)."""
    assert problem.task is not None
    function = problem.task.function
    inputs, targets = problem.task.training.batch(torch.arange(len(problem.task.training)))
    assert isinstance(inputs, Tensor)
    parameters = list(function.model.parameters())
    found = []
    for example, target in zip(inputs, targets, strict=True):
        outputs = functional_call(function.model, {}, (example[None],))
        value = nn.functional.cross_entropy(outputs, target[None])
        found.append(torch.cat([part.flatten() for part in torch.autograd.grad(value, parameters)]))
    return torch.stack(found)


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_datainf_is_the_mean_of_explicit_inverses(curvature: str) -> None:
    problem = perceptron(curvature=curvature)
    blocks = []
    for part in gradients(problem).split([25, 18], dim=1):
        damped = part[:, :, None] * part[:, None, :] + problem.damping * torch.eye(
            part.shape[1], dtype=torch.float64
        )
        blocks.append(torch.linalg.inv(damped).mean(dim=0))
    expected = torch.block_diag(*blocks) @ problem.columns()
    assert relative(solve(problem, DattriDataInf()).x, expected) <= 1e-9


def factorial(bias: bool, copies: int = 1) -> Problem:
    """Two linear layers whose K-FAC factors are diagonal, and EK-FAC the empirical Fisher matrix's blocks.

    Their eigenvectors are the axes, whose matrix is its own transpose; with a frozen bias if there is one.
    """
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    inputs = (signs * torch.tensor([0.5, 2.0])).repeat_interleave(4, dim=0)
    errors = (signs * torch.tensor([0.3, 1.0])).repeat(4, 1)
    model = nn.Sequential(nn.Linear(2, 2, bias=bias), nn.Linear(2, 2, bias=bias)).double().eval()
    with torch.no_grad():
        for layer, diagonal in zip(model, ([1.0, 0.8], [0.7, 1.5]), strict=True):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(torch.diag(torch.tensor(diagonal)))
        if bias:
            # Behind the last: its inputs would not be centred behind the first.
            model[1].bias.fill_(3.0)  # type: ignore[operator, union-attr]
            model[0].bias.zero_()  # type: ignore[operator, union-attr]
        targets = model(inputs) - errors
    data = (inputs.repeat(copies, 1), targets.repeat(copies, 1))
    queries = (inputs[:3] + 1, targets[:3])
    return from_model(model, "mse", data, queries, damping=DAMPING, parameters="weight")


def within_layers(problem: Problem, matrix: Tensor) -> Tensor:
    """The answer of the layers' blocks of `matrix`, of four weights each."""
    blocks = torch.block_diag(matrix[:4, :4], matrix[4:, 4:])
    return torch.linalg.solve(blocks + DAMPING * torch.eye(8, dtype=torch.float64), problem.columns())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("most_at_once", [2048, 5])
def test_ekfac_where_its_eigenvectors_do_not_matter(
    bias: bool, most_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "MOST_AT_ONCE", most_at_once)
    problem = factorial(bias)
    assert problem.task is not None
    g = problem.task.gradients(problem.task.training, torch.arange(16))
    assert relative(solve(problem, DattriEKFAC()).x, within_layers(problem, g @ g.T / 16)) <= 1e-9


def test_ekfacs_sampled_labels_are_those_of_h() -> None:
    problem = factorial(bias=False, copies=500)
    x = solve(problem, DattriEKFAC(labels="sampled")).x
    assert relative(x, within_layers(problem, problem.operator.dense())) <= 0.05


def test_ekfac_is_another_where_they_do() -> None:
    problem = perceptron(curvature="ggn")
    assert problem.task is not None
    inputs, targets = problem.task.training.batch(torch.arange(COUNT))
    model = problem.task.function.model

    def errors(index: int, outputs: Tensor) -> list[Tensor]:
        return [as_loss("cross_entropy").gradient(outputs, targets[index][None])]

    blocks = []
    for name, rows in layer_rows(model, ["0", "2"], list(inputs), errors).items():
        block = ekfac_block(rows.matrices(), *rows.expand(), COUNT)
        # Rows of weights with their bias, and the parameters' order: all weights, then the biases.
        outputs, columns = rows.gradients[0][0].shape[1], rows.inputs[0].shape[1]
        place = torch.arange(outputs * columns).reshape(outputs, columns)
        order = torch.cat([place[:, :-1].flatten(), place[:, -1]])
        blocks.append(block[order][:, order])
        assert name in ("0", "2")
    matrix = torch.block_diag(*blocks) + problem.damping * torch.eye(problem.size, dtype=torch.float64)
    assert relative(solve(problem, DattriEKFAC()).x, torch.linalg.solve(matrix, problem.columns())) > 0.1


@pytest.mark.parametrize("largest_eigenvalue", [0.9, 100.0])
def test_tuned_settings_reach_the_target(largest_eigenvalue: float) -> None:
    # Where eigenvalues are far above 1, x = b is a start far off.
    generator = torch.Generator().manual_seed(0)
    decay = 0.7 ** torch.arange(12, dtype=torch.float64)
    inputs = torch.randn(40, 12, generator=generator, dtype=torch.float64) * decay
    targets = torch.randn(40, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(12, 1, bias=False).double().eval()

    def scaled(factor: float) -> Problem:
        data = (factor * inputs, targets)
        queries = (data[0][:2], targets[:2] + 1)
        return from_model(model, "mse", data, queries, damping=0.01 * largest_eigenvalue)

    first = scaled(1.0)
    problem = scaled((largest_eigenvalue / (largest(first) - first.damping)) ** 0.5)
    assert problem.eigenvalues is not None
    assert problem.condition_number is not None
    assert largest(problem) == pytest.approx(1.01 * largest_eigenvalue)
    history = solve(problem, load("cg", tolerance=1e-12)).history
    series = math.ceil(math.log(1e3) * problem.condition_number)
    advice = Advice(
        target=1e-3,
        damping=problem.damping,
        largest_eigenvalue=largest_eigenvalue,
        tolerance=1e-3,
        cg_steps=next(record.step for record in history if record.error is not None and record.error <= 1e-3),
        series_terms=series,
        step_size=1 / largest(problem),
        batch_size=40,
        num_steps=series,
        rank=int((problem.eigenvalues > problem.damping).sum()),
    )
    assert worst(problem, DattriCG.tuned(advice)) <= 1e-3
    assert worst(problem, DattriLiSSA.tuned(advice)) <= 1e-3
    assert solve(problem, DattriArnoldi.tuned(advice)).usable
    assert DattriEKFAC.tuned(advice) == DattriEKFAC(labels="sampled")


@pytest.mark.parametrize(
    "solver",
    [
        DattriCG(),
        DattriLiSSA(recursion_depth=10, batch_size=5),
        DattriArnoldi(max_iter=11),
        DattriDataInf(),
        DattriEKFAC(),
    ],
    ids=str,
)
def test_work_is_what_torch_executes(solver: Solver) -> None:
    # Of so many examples that eigenvectors, which are not among the operations it counts, are little.
    counted, executed = counted_and_executed(perceptron(sizes=(16, 16, 16, 4), count=200), solver)
    assert counted == pytest.approx(executed, rel=0.35)


class Sequences(nn.Module):
    """A layer at two positions, a norm, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm = nn.Linear(2, 2), nn.LayerNorm(4)
        self.around, self.head = nn.Conv2d(1, 1, 1), nn.Linear(4, 3)

    def forward(self, rows: Tensor) -> Tensor:
        mixed = self.around(self.mix(rows.reshape(-1, 2, 2))[:, None])
        return self.head(self.norm(mixed.flatten(1)))


def test_says_why_it_skips_a_problem() -> None:
    bare = Problem("bare", DenseOperator(torch.eye(2)[None]), 0.1, torch.ones(2, 1))
    for name in ("cg", "lissa", "arnoldi", "datainf", "ekfac"):
        assert "bare matrix" in str(load(f"dattri_{name}").skip(bare))
    for name in ("cg", "lissa", "arnoldi"):
        reason = str(load(f"dattri_{name}").skip(perceptron(curvature="ggn")))
        assert reason == "dattri solves with the hessian here, and H is the ggn"
    torch.manual_seed(0)
    data = (torch.randn(5, 4), torch.arange(5) % 3)
    for parameters, expected in {
        "^(norm|head)": "norm is a LayerNorm",
        "^around": "around is a Conv2d",
        "^mix": "mix has 2: use kronfluence_ekfac",
        "^head.bias": "of head the bias alone is a parameter",
    }.items():
        problem = from_model(Sequences(), "cross_entropy", data, data, damping=0.1, parameters=parameters)
        assert expected in str(DattriEKFAC().skip(problem))


def test_refuses_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="max_iter is 1; it must be at least 2"):
        DattriArnoldi(max_iter=1)
    with pytest.raises(ValueError, match="labels is 'all'; it must be 'true' or 'sampled'"):
        DattriEKFAC(labels="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scaling is 0\.0"):
        DattriLiSSA(scaling=0.0)
