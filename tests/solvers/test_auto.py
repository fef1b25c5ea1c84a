"""auto: what it chooses where one solver is plainly the cheapest, that it gets there, and its accounts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import problems
import solvers
from problems import Problem
from solvers import Breakdown, Divergence, Solution, Status, solve
from solvers import auto as module
from solvers.auto import Auto
from solvers.candidate import Candidate
from solvers.identity import Identity
from solvers.survey import Survey
from tests.conftest import dense_problem, random_psd_examples
from tests.solvers.krylov_oracles import gaussian, spectral_problem


def auto(problem: Problem, target: float = 0.05, seed: int = 0) -> Solution:
    solution = solve(problem, Auto(target), seed=seed)
    assert solution.status is Status.FINISHED, solution.reason + solution.traceback
    return solution


def chosen(solution: Solution) -> str:
    return str(solution.diagnostics["chosen"])


def error(solution: Solution) -> float:
    assert solution.error is not None
    return float(solution.error.max())


def ill_conditioned(columns: int) -> Problem:
    """A linear softmax model of badly scaled inputs, which EK-FAC's factors undo."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(12, 4).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    scales = torch.logspace(0, -2.5, 12, dtype=torch.float64)
    inputs = scales * torch.randn(1500, 12, generator=generator, dtype=torch.float64)
    targets = torch.randint(4, (1500,), generator=generator)
    queries = (inputs[:columns], targets[:columns])
    return problems.from_model(model, "cross_entropy", (inputs, targets), queries, damping=3e-7)


def test_a_bound_by_the_largest_eigenvalue_needs_no_solver() -> None:
    problem = dense_problem(random_psd_examples(50, 8, seed=0), damping=100.0)
    solution = auto(problem)
    assert chosen(solution) == "identity"
    assert solution.diagnostics["chosen_work"] == 0
    torch.testing.assert_close(solution.x, problem.columns() / 100.0)


def test_one_column_is_solved_by_the_pilot_itself() -> None:
    solution = auto(dense_problem(random_psd_examples(200, 60, seed=0), damping=0.05, columns=1))
    assert chosen(solution).startswith("cg(")
    assert solution.diagnostics["measurement_work"] == 0
    # A step is a product of one column.
    assert solution.work == pytest.approx(5 / 3 * solution.diagnostics["pilot_steps"])
    assert error(solution) <= 0.05


def test_few_parameters_are_solved_exactly() -> None:
    solution = auto(dense_problem(random_psd_examples(100, 6, seed=0), damping=1e-3, columns=5), target=1e-4)
    assert chosen(solution) == "exact"
    assert error(solution) < 1e-9


def test_columns_are_solved_together() -> None:
    solution = auto(dense_problem(random_psd_examples(300, 80, seed=0), damping=0.02, columns=4))
    assert chosen(solution).startswith("block_cg(")
    assert error(solution) <= 0.05


@pytest.mark.parametrize("columns", [1, 4])
def test_an_ill_conditioned_network_is_preconditioned(columns: int) -> None:
    problem = ill_conditioned(columns)
    solution = auto(problem)
    assert "ekfac" in chosen(solution)
    assert error(solution) <= 0.05
    # It is what makes the difference: CG, asked for no more than is needed, takes more.
    plain = solve(problem, solvers.load("cg", tolerance=1e-8))
    first = next(record for record in plain.history if record.error is not None and record.error <= 0.05)
    assert solution.diagnostics["chosen_work"] < first.work


def test_many_examples_are_sampled() -> None:
    """Of 20 000 examples LiSSA reads fewer than CG, which reads all in every step."""
    problem = problems.load("quadratic", dtype=torch.float64, num_examples=20_000, dimension=16)
    solution = auto(problem)
    assert chosen(solution).startswith("lissa")
    assert error(solution) <= 0.05
    plain = solve(problem, solvers.load("block_cg", tolerance=1e-8))
    first = next(record for record in plain.history if record.error is not None and record.error <= 0.05)
    assert solution.diagnostics["chosen_work"] < first.work


def test_an_indefinite_system_is_solved_as_it_is() -> None:
    values = torch.cat([torch.linspace(-1, -0.1, 20), torch.linspace(0.1, 1, 20)]).double()
    problem = spectral_problem(values - 0.05, 0.05, gaussian(40, 3))
    solution = auto(problem)
    assert chosen(solution).startswith(("minres", "exact(method=eigen"))
    assert error(solution) <= 0.05


@settings(max_examples=40, deadline=None)
@given(
    num_examples=st.integers(1, 80),
    size=st.integers(1, 30),
    columns=st.integers(1, 5),
    damping=st.floats(-5, 2).map(lambda power: 10**power),
    target=st.sampled_from([0.3, 0.05, 1e-2, 1e-4]),
    heavy_tailed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_it_gets_there(
    num_examples: int, size: int, columns: int, damping: float, target: float, heavy_tailed: bool, seed: int
) -> None:
    """Of one column the error is known, of the others it is estimated: twice the target is never passed."""
    examples = random_psd_examples(num_examples, size, seed=seed, heavy_tailed=heavy_tailed)
    solution = auto(dense_problem(examples, damping, columns, seed=seed), target, seed=seed)
    assert error(solution) <= 2 * target


@pytest.mark.parametrize("num_examples", [10, 5000])
@pytest.mark.parametrize("seed", range(3))
def test_columns_that_are_not_like_the_first(num_examples: int, seed: int) -> None:
    """Of the first a tenth as much lies along the largest eigenvalues, where its residual stays large."""
    generator = torch.Generator().manual_seed(seed)
    size, top = 40, 5
    values = torch.cat(
        [1e4 * torch.linspace(1, 0.2, top), 0.02 * torch.rand(size - top, generator=generator)]
    )
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    matrix = (basis * values.double()) @ basis.T
    weights = 0.5 + torch.rand(num_examples, 1, 1, generator=generator, dtype=torch.float64)
    operator = problems.DenseOperator(weights / weights.mean() * (matrix + matrix.T) / 2)
    parts = []
    for columns in (basis[:, top:], basis[:, :top]):
        drawn = columns @ torch.randn(columns.shape[1], 3, generator=generator, dtype=torch.float64)
        parts.append(drawn / drawn.norm(dim=0))
    flat, steep = parts
    steep[:, 0] *= 0.1
    solution = auto(Problem("unlike", operator, 1.0, flat + steep))
    assert error(solution) <= 0.05


def test_its_accounts_add_up() -> None:
    for problem in (ill_conditioned(3), dense_problem(random_psd_examples(300, 80, seed=0), 0.02, 4)):
        found = auto(problem)
        told = found.diagnostics
        assert found.setup_work == 0
        assert told["chosen_work"] + told["measurement_work"] == pytest.approx(found.work, rel=1e-12)
        assert told["predictions"][told["chosen"]] == told["predicted_work"]
        assert chosen(found) in found.reason


def test_the_chosen_solver_alone_gets_there_too() -> None:
    """What it names can be run by its name, and then also confirms its residual."""
    problem = dense_problem(random_psd_examples(300, 80, seed=0), damping=0.02, columns=4)
    found = auto(problem)
    name, _, rest = chosen(found).partition("(")
    tolerance = float(rest.removeprefix("tolerance=").removesuffix(")"))
    alone = solve(problem, solvers.load(name, tolerance=tolerance))
    assert alone.status is Status.CONVERGED
    assert error(alone) <= 0.05


def test_empty_columns_stay_empty() -> None:
    problem = dense_problem(random_psd_examples(100, 20, seed=0), damping=0.02, columns=3)
    rhs = problem.columns().clone()
    rhs[:, [0, 2]] = 0
    solution = auto(replace(problem, rhs=rhs))
    assert solution.x is not None
    assert not solution.x[:, [0, 2]].any()
    assert error(solution) <= 0.05
    nothing = auto(replace(problem, rhs=torch.zeros_like(rhs)))
    assert nothing.x is not None
    assert not nothing.x.any()


class _Fails(Identity):
    """A solver that ends with the exception it is given, after one iterate."""

    def __init__(self, make: Callable[[], Exception]) -> None:
        object.__setattr__(self, "make", make)

    def iterates(self, problem, state, b, generator):  # type: ignore[no-untyped-def]
        yield from super().iterates(problem, state, b, generator)
        raise self.make()  # type: ignore[attr-defined]


class _Endless(Identity):
    """A solver that makes products for ever, and gets nowhere."""

    def iterates(self, problem, state, b, generator):  # type: ignore[no-untyped-def]
        while True:
            _ = problem.operator @ b
            yield from super().iterates(problem, state, b, generator)


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (_Fails(lambda: Breakdown("negative curvature")), "negative curvature"),
        (_Fails(lambda: Divergence("it ran away")), "it ran away"),
        (_Endless(), "is not there"),
    ],
)
def test_falls_back_to_the_next(first: Identity, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked = module.ranked

    def beside(survey: Survey) -> list[Candidate]:
        return [Candidate(first, 1.0, "hope", prepared=True), *ranked(survey)]

    monkeypatch.setattr(module, "ranked", beside)
    solution = auto(dense_problem(random_psd_examples(300, 80, seed=0), damping=0.02, columns=4))
    assert chosen(solution).startswith("block_cg")
    assert why in solution.reason
    assert why in solution.diagnostics["given_up"][0]
    assert error(solution) <= 0.05
    # What was given up counts as measurement.
    told = solution.diagnostics
    assert told["chosen_work"] + told["measurement_work"] == pytest.approx(solution.work, rel=1e-12)


def test_says_so_where_nothing_gets_there(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Candidate(_Fails(lambda: Breakdown("no")), 1.0, "hope", prepared=True)
    monkeypatch.setattr(module, "ranked", lambda _: [failing])
    solution = solve(dense_problem(random_psd_examples(20, 5, seed=0), damping=0.1), Auto())
    assert solution.status is Status.BREAKDOWN
    assert "no solver gets there" in solution.reason


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1, float("nan")])
def test_bad_targets(target: float) -> None:
    with pytest.raises(ValueError, match="target is"):
        Auto(target)
