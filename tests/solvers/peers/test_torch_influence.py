"""torch-influence through its adapters: what it solves, what its settings mean, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import problems
from problems import Problem, from_model
from problems.models.mlp import mlp
from solvers import Solution, Status, load, solve
from solvers.peers import network
from solvers.peers import torch_influence as adapter
from solvers.peers.advice import Advice
from solvers.peers.torch_influence import (
    LIBRARY,
    TorchInfluenceCG,
    TorchInfluenceDirect,
    TorchInfluenceLiSSA,
)
from solvers.solver import Solver
from tests.conftest import dense_problem, random_psd_examples
from tests.solvers.krylov_oracles import damped_matrix, iterates, krylov_basis, least_energy
from tests.solvers.peers.flops import counted_and_executed

pytestmark = pytest.mark.skipif(bool(LIBRARY.missing()), reason=str(LIBRARY.missing()))

TIGHT_CG = TorchInfluenceCG(tolerance=1e-10)
DIRECT = TorchInfluenceDirect()
ALL = [DIRECT, TIGHT_CG, TorchInfluenceLiSSA(depth=4, scale=20.0, batch_size=6)]
# λ in float32, of which the direct one makes its λI.
ROUNDED = 2**-24


@cache
def softmax(damping: float = 1e-2) -> Problem:
    """A convex problem, whose Hessian is the Gauss–Newton matrix; p = 50, κ = 23."""
    return problems.load("softmax_regression", pooling=4, training_size=151, num_queries=3, damping=damping)


@cache
def perceptron(
    loss: str = "cross_entropy", curvature: str = "ggn", damping: float = 0.5, parameters: str | None = None
) -> Problem:
    generator = torch.Generator().manual_seed(0)
    model = mlp([4, 5, 3], generator)
    inputs = torch.randn(37, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(37, 3, generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        targets = targets.argmax(dim=1)
    elif loss == "bce":
        targets = (targets > 0).double()
    return from_model(
        model, loss, (inputs, targets), (inputs[:2], targets[:2]),
        damping=damping, curvature=curvature, parameters=parameters,
    )  # fmt: skip


@cache
def one_example(damping: float = 0.3) -> Problem:
    """Of one example, nine times: whatever is drawn, H̃ = H."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 4, generator=generator, dtype=torch.float64).expand(9, 4).contiguous()
    data = (inputs, torch.ones(9, dtype=torch.long))
    queries = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    model = nn.Linear(4, 3).double()
    return from_model(
        model, "cross_entropy", data, (queries, torch.zeros(2, dtype=torch.long)), damping=damping
    )


def worst(problem: Problem, solver: Solver) -> float:
    """Relative error against the dense solution."""
    solution = solve(problem, solver)
    assert solution.status in (Status.FINISHED, Status.CONVERGED), solution.reason
    assert solution.error is not None
    return float(solution.error.max())


def skipped(problem: Problem, solver: Solver) -> str:
    solution: Solution = solve(problem, solver)
    assert solution.status is Status.SKIPPED
    return solution.reason


def test_solves_a_convex_problem() -> None:
    problem = softmax()
    assert worst(problem, TIGHT_CG) <= 1e-8
    assert worst(problem, DIRECT) <= 2 * ROUNDED
    # The rest is noise of mini-batches.
    assert worst(softmax(damping=0.1), TorchInfluenceLiSSA(depth=40, scale=0.5, batch_size=300)) <= 0.05


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
def test_solves_with_either_matrix_and_every_loss(loss: str, curvature: str) -> None:
    problem = perceptron(loss, curvature, damping=1.5)
    assert worst(problem, TIGHT_CG) <= 1e-8
    if curvature == "hessian":
        assert worst(problem, DIRECT) <= 10 * ROUNDED


def test_the_two_matrices_are_not_the_same() -> None:
    one, other = (perceptron("mse", curvature, damping=1.5) for curvature in ("ggn", "hessian"))
    answers = [solve(each, TIGHT_CG).x for each in (one, other)]
    assert float((answers[0] - answers[1]).norm() / answers[0].norm()) > 0.05


@pytest.mark.parametrize("parameters", [r"2\.", "weight"])
def test_other_parameters_are_constants(parameters: str) -> None:
    problem = perceptron(curvature="hessian", damping=1.5, parameters=parameters)
    for solver in (TIGHT_CG, DIRECT):
        assert worst(problem, solver) <= 10 * ROUNDED


def test_its_damping_is_ours_and_its_scale_one_over_the_step() -> None:
    """h/scale after T steps is (1/s) Σ_{t ≤ T} (I − (H + λ)/s)ᵗ b: λ is not multiplied by the scale."""
    problem, scale, depth = one_example(), 4.0, 5
    b, identity = problem.columns(), torch.eye(problem.size, dtype=torch.float64)

    def series(damping: float) -> list[Tensor]:
        step = identity - (damped_matrix(problem) + (damping - problem.damping) * identity) / scale
        sums, term = [b], b
        for _ in range(depth):
            term = step @ term
            sums.append(sums[-1] + term)
        return [each / scale for each in sums[1:]]

    solver = TorchInfluenceLiSSA(depth=depth, scale=scale, batch_size=2)
    found = iterates(problem, solver, 2 * depth)
    assert len(found) == 2 * depth
    for step, expected in enumerate(series(problem.damping)):
        torch.testing.assert_close(found[step][:, 0], expected[:, 0], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found[depth + step][:, 1], expected[:, 1], rtol=1e-12, atol=1e-14)
    # Koh & Liang's damping, λ/scale, would be another matrix.
    other = series(problem.damping / scale)[-1]
    assert float((found[-1] - other).norm() / other.norm()) > 0.1


def test_repetitions_are_averaged() -> None:
    problem = softmax()
    solver = TorchInfluenceLiSSA(depth=6, scale=1.0, batch_size=3, repeat=2)
    together = iterates(problem, solver, 12)
    alone = iterates(problem, replace(solver, repeat=1), 6)
    for one, same in zip(alone, together[:6], strict=True):
        torch.testing.assert_close(same, one, rtol=1e-12, atol=1e-14)
    # What a second one gives is in the mean, of which the first is a half.
    second = 2 * together[-1][:, 0] - alone[-1][:, 0]
    assert float((second - alone[-1][:, 0]).norm()) > 1e-3 * float(second.norm())
    expected = iterates(one_example(), replace(solver, repeat=1), 6)[-1]
    torch.testing.assert_close(iterates(one_example(), solver, 12)[-1], expected, rtol=1e-12, atol=1e-14)


def test_examples_are_drawn_with_replacement() -> None:
    """In one batch of n draws of n examples all of them would be H: the answer would not move."""
    problem = replace(softmax(), rhs=softmax().columns()[:, :1])
    solver = TorchInfluenceLiSSA(depth=1, scale=1.0, batch_size=151)
    b, identity = problem.columns(), torch.eye(problem.size, dtype=torch.float64)
    exactly = b + (identity - damped_matrix(problem)) @ b
    answers = [solve(problem, solver, seed=seed).x for seed in range(20)]
    moves = torch.stack([each - exactly for each in answers])
    assert float(moves[0].norm() / exactly.norm()) > 1e-3
    deviation = moves.std(dim=0) / 20**0.5
    assert bool((moves.mean(dim=0).abs() <= 5 * deviation + 1e-12).all())


def test_a_seed_decides_and_torchs_own_numbers_are_left_alone() -> None:
    problem, solver = softmax(), TorchInfluenceLiSSA(depth=5, scale=2.0, batch_size=3)
    torch.manual_seed(1)
    first = solve(problem, solver, seed=4).x
    after = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(()), after)
    torch.manual_seed(2)
    assert torch.equal(solve(problem, solver, seed=4).x, first)
    assert not torch.equal(solve(problem, solver, seed=5).x, first)


def test_a_step_of_cg_is_the_best_of_its_krylov_space() -> None:
    problem = replace(softmax(damping=0.1), rhs=softmax().columns()[:, :1])
    damped, b = damped_matrix(problem), problem.columns()
    for step, x in enumerate(iterates(problem, TIGHT_CG, 6), 1):
        expected = least_energy(damped, b, krylov_basis(damped, b, step))
        torch.testing.assert_close(x, expected, rtol=1e-8, atol=1e-10)


def test_the_tolerance_is_kept_and_a_limit_of_steps_told() -> None:
    solution = solve(softmax(), TorchInfluenceCG())
    assert solution.status is Status.CONVERGED
    assert solution.residual is not None
    assert 1e-7 < float(solution.residual.max()) <= 1e-5
    solution = solve(softmax(), TorchInfluenceCG(num_steps=3))
    assert solution.status is Status.BUDGET_SPENT
    assert solution.steps == 9
    assert solve(softmax(), TorchInfluenceCG(), max_steps=4).steps == 4


@pytest.mark.parametrize("most", [5, 16, 36])
def test_a_smaller_last_batch_is_weighted_by_its_size(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = perceptron(curvature="hessian", damping=1.5)
    monkeypatch.setattr(network, "MOST_AT_ONCE", most)
    assert 37 % most
    for solver in (TIGHT_CG, DIRECT):
        assert worst(problem, solver) <= 10 * ROUNDED


def test_it_is_as_exact_as_the_dtype_and_its_identity_allow() -> None:
    """Of the direct one, λ in float32 is all the error there is in float64."""
    problem = softmax(damping=0.013)
    rounded = float(torch.tensor(0.013, dtype=torch.float32))
    matrix = damped_matrix(problem) + (rounded - 0.013) * torch.eye(50, dtype=torch.float64)
    x = solve(problem, DIRECT).x
    torch.testing.assert_close(x, torch.linalg.solve(matrix, problem.columns()), rtol=1e-11, atol=1e-12)
    single = problems.load(
        "softmax_regression", pooling=4, training_size=151, num_queries=3, damping=0.013, dtype=torch.float32
    )
    for solver in (DIRECT, TorchInfluenceCG(tolerance=1e-4)):
        solution = solve(single, solver)
        assert solution.x.dtype == torch.float32
        assert solution.error is not None
        assert float(solution.error.max()) <= 1e-3


def test_a_column_of_zeros_gives_zeros() -> None:
    b = softmax().columns()[:, :1]
    for rhs in (torch.cat([torch.zeros_like(b), b], dim=1), torch.zeros_like(b)):
        problem = replace(softmax(), rhs=rhs)
        for solver in ALL:
            x = solve(problem, solver).x
            assert torch.isfinite(x).all()
            assert not x[:, 0].any()


def test_a_network_left_early_is_of_no_consequence() -> None:
    problem = perceptron(damping=1.5)
    assert problem.task is not None
    before = [each.clone() for each in problem.task.function.model.parameters()]
    state = TIGHT_CG.prepare(problem, torch.Generator())
    first = list(TIGHT_CG.iterates(problem, state, problem.columns(), torch.Generator()))[-1].x.clone()
    early = TIGHT_CG.iterates(problem, state, problem.columns(), torch.Generator())
    next(early)
    early.close()  # type: ignore[attr-defined]
    again = list(TIGHT_CG.iterates(problem, state, problem.columns(), torch.Generator()))[-1].x
    assert torch.equal(again, first)
    for value, each in zip(before, problem.task.function.model.parameters(), strict=True):
        assert torch.equal(value, each)


def test_a_scale_too_small_is_said_to_be() -> None:
    problem = softmax()
    assert problem.eigenvalues is not None
    least = (float(problem.eigenvalues[-1]) + problem.damping) / 2
    enough, too_small = (
        solve(problem, TorchInfluenceLiSSA(depth=40, scale=share * least, batch_size=200))
        for share in (2.0, 0.5)
    )
    assert enough.status is Status.FINISHED
    assert too_small.status is Status.DIVERGED
    assert "raise scale above (λ_max + λ)/2" in too_small.reason


def test_an_indefinite_hessian_is_not_silent() -> None:
    problem = perceptron("mse", "hessian", damping=1e-3)
    assert problem.eigenvalues is not None
    assert float(problem.eigenvalues[0]) < -0.01
    lissa = TorchInfluenceLiSSA(depth=60, scale=2.0, batch_size=37)
    assert solve(problem, lissa, columns=slice(0, 1)).status is Status.DIVERGED
    # The inverse is of any matrix that has one.
    assert worst(problem, DIRECT) <= 1e-6


def test_what_it_cannot_take_is_said_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = dense_problem(random_psd_examples(5, 4, seed=0), damping=0.1)
    for solver in ALL:
        assert "bare matrix" in skipped(bare, solver)
        assert "EmpiricalFisher" in skipped(perceptron(curvature="empirical_fisher"), solver)
    assert skipped(perceptron(), DIRECT) == ("torch-influence solves with the hessian here, and H is the ggn")
    monkeypatch.setattr(adapter, "MOST_GIB", 1e-5)
    assert skipped(softmax(), DIRECT) == (
        "torch-influence would hold 7.5e-05 GiB for p = 50, more than 1e-05: use torch_influence_cg"
    )


class Tied(nn.Module):
    """Two layers of one weight, and a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (nn.Linear(3, 3).double() for _ in range(3))
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(self.first(inputs).tanh()))


def test_tied_parameters_are_refused_unless_they_are_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(11, 3, generator=generator, dtype=torch.float64)
    data = (inputs, torch.arange(11) % 3)
    problem = from_model(Tied(), "cross_entropy", data, (inputs[:2], data[1][:2]), damping=1.0)
    assert skipped(problem, TIGHT_CG) == (
        "torch-influence takes a parameter under one name, and first.weight and second.weight are one: leave "
        "it out of the parameters"
    )
    others = from_model(
        Tied(), "cross_entropy", data, (inputs[:2], data[1][:2]), damping=1.0, parameters=r"head|bias"
    )
    assert worst(others, TIGHT_CG) <= 1e-8


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("torch_influence_cg", {"tolerance": 0}, "tolerance is 0"),
        ("torch_influence_cg", {"num_steps": 0}, "num_steps is 0"),
        ("torch_influence_lissa", {"scale": -1}, "scale is -1"),
        ("torch_influence_lissa", {"depth": 0}, "depth is 0"),
        ("torch_influence_lissa", {"repeat": 0}, "repeat is 0"),
        ("torch_influence_lissa", {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_settings_are_checked(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(name, **settings)


def test_is_tuned_to_the_error_that_is_asked_for() -> None:
    problem = softmax()
    assert problem.condition_number is not None
    tolerance = 0.01 / problem.condition_number
    advice = Advice(
        target=0.01, damping=problem.damping, largest_eigenvalue=0.2, tolerance=tolerance, cg_steps=50,
        series_terms=1, step_size=0.25, batch_size=17, num_steps=123, rank=1,
    )  # fmt: skip
    assert worst(problem, TorchInfluenceCG.tuned(advice)) <= 0.01
    assert TorchInfluenceLiSSA.tuned(advice) == TorchInfluenceLiSSA(1, 123, 4.0, 17)
    assert TorchInfluenceDirect.tuned(advice) == DIRECT


def in_this_thread(run: Callable[[Callable[[Any], None]], None]) -> Iterator[Any]:
    """In the place of `iterate_callbacks`: torch's operations are seen in the thread that looks."""
    values: list[Any] = []
    run(lambda value: values.append(value.clone()))
    yield from values


@pytest.mark.parametrize(
    ("solver", "curvature"),
    [
        (DIRECT, "hessian"),
        (TIGHT_CG, "ggn"),
        (TIGHT_CG, "hessian"),
        (TorchInfluenceLiSSA(depth=6, scale=10.0, batch_size=70), "ggn"),
        (TorchInfluenceLiSSA(depth=6, scale=10.0, batch_size=70), "hessian"),
    ],
    ids=str,
)
def test_work_is_what_torch_executes(solver: Solver, curvature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "iterate_callbacks", in_this_thread)
    generator = torch.Generator().manual_seed(0)
    # So many that the matrix algebra, which is counted and not seen, is little.
    inputs = torch.randn(1500, 8, generator=generator, dtype=torch.float64)
    data = (inputs, torch.arange(1500) % 4)
    model = mlp([8, 12, 12, 4], generator)
    problem = from_model(
        model, "cross_entropy", data, (inputs[:2], data[1][:2]), damping=1.0, curvature=curvature
    )
    counted, executed = counted_and_executed(problem, solver)
    assert counted == pytest.approx(executed, rel=0.35)
