from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import problems
import solvers
from problems import DenseOperator, Problem
from solvers import Status, solve
from solvers.block_cg import BlockConjugateGradient
from tests.conftest import dense_problem, random_psd_examples
from tests.solvers.krylov_oracles import (
    damped_matrix,
    gaussian,
    iterates,
    krylov_basis,
    least_energy,
    positive_definite,
    spectral_problem,
    true_residuals,
)


class Counting(DenseOperator):
    """Remembers with how many columns it was multiplied."""

    def __init__(self, per_example: torch.Tensor) -> None:
        super().__init__(per_example)
        self.widths: list[int] = []

    def _product(self, columns: torch.Tensor) -> torch.Tensor:
        self.widths.append(columns.shape[1])
        return super()._product(columns)


def test_its_answers_are_the_best_in_the_space_of_all_columns_together() -> None:
    """The oracle: the least energy norm of the error over span[B, AB, …], by a dense solve."""
    problem = dense_problem(random_psd_examples(60, 40, seed=0), damping=1e-2, columns=3)
    matrix, b = damped_matrix(problem), problem.columns()
    for step, x in enumerate(iterates(problem, solvers.load("block_cg", tolerance=1e-12), 8), start=1):
        expected = least_energy(matrix, b, krylov_basis(matrix, b, step))
        torch.testing.assert_close(x, expected, rtol=1e-8, atol=1e-9)


def test_preconditioned_they_are_the_best_in_that_of_the_preconditioned_system() -> None:
    """Over span[P⁻¹B, P⁻¹AP⁻¹B, …], which is P^-½ times the space of the transformed system."""
    problem = dense_problem(random_psd_examples(60, 40, seed=0), damping=1e-2, columns=3)
    near = positive_definite(40, 100.0, seed=1)
    matrix, b = damped_matrix(problem), problem.columns()
    solver = BlockConjugateGradient(1e-12, lambda vectors: torch.linalg.solve(near, vectors))
    for step, x in enumerate(iterates(problem, solver, 8), start=1):
        basis = krylov_basis(torch.linalg.solve(near, matrix), torch.linalg.solve(near, b), step)
        torch.testing.assert_close(x, least_energy(matrix, b, basis), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("size", "columns"), [(12, 4), (30, 3), (31, 5), (8, 11), (1, 1), (1, 3)])
def test_ends_after_p_over_k_steps(size: int, columns: int) -> None:
    problem = dense_problem(random_psd_examples(3 * size, size, seed=0), damping=0.1, columns=columns)
    solution = solve(problem, solvers.load("block_cg", tolerance=1e-9))
    assert solution.status is Status.CONVERGED
    assert solution.steps <= -(-size // min(columns, size))
    expected = torch.linalg.solve(damped_matrix(problem), problem.columns())
    torch.testing.assert_close(solution.x, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("preconditioner", ["none", "jacobi"])
def test_is_never_behind_cg(preconditioner: str) -> None:
    """In the energy norm of the error, column by column and step by step; so within cg's bound too."""
    for exponent in (0.5, 1.0, 2.0):
        problem = problems.load("quadratic", dimension=60, exponent=exponent, damping=1e-3)
        block, single = (
            iterates(problem, solvers.load(name, tolerance=1e-7, preconditioner=preconditioner), 15)
            for name in ("block_cg", "cg")
        )
        for ours, theirs in zip(block, single, strict=False):
            ours_error, theirs_error = problem.energy_error(ours), problem.energy_error(theirs)
            assert ours_error is not None
            assert theirs_error is not None
            assert (ours_error <= theirs_error * (1 + 1e-6) + 1e-12).all()


def test_dependent_columns_cost_what_the_independent_ones_cost() -> None:
    per_example = random_psd_examples(60, 40, seed=0)
    two = gaussian(40, 2)
    zero = torch.zeros(40, 1, dtype=torch.float64)
    many = torch.cat([two, zero, 1e6 * two[:, [0]], two[:, [0]] - 2 * two[:, [1]]], dim=1)
    counting = Counting(per_example)
    problem = Problem("counting", counting, 0.1, many)
    solver = solvers.load("block_cg", tolerance=1e-9)
    solution = solve(problem, solver, compare=False)
    alone = solve(replace(problem, rhs=two), solver, compare=False)
    assert solution.status is Status.CONVERGED
    assert abs(solution.steps - alone.steps) <= 1
    assert set(counting.widths[: alone.steps - 1]) == {2}
    expected = torch.linalg.solve(damped_matrix(problem), many)
    torch.testing.assert_close(solution.x, expected, rtol=1e-6, atol=1e-6 * float(two.norm()))


@pytest.mark.parametrize("distance", [1e-5, 1e-9, 1e-13])
@pytest.mark.parametrize("tolerance", [1e-6, 1e-11])
def test_columns_that_are_nearly_the_same_are_solved_as_well(distance: float, tolerance: float) -> None:
    rhs = gaussian(40, 3)
    rhs[:, 1] = rhs[:, 0] + distance * rhs[:, 1]
    problem = replace(dense_problem(random_psd_examples(60, 40, seed=0), 1e-3), rhs=rhs)
    solution = solve(problem, solvers.load("block_cg", tolerance=tolerance))
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    assert (true_residuals(problem, solution.x) <= tolerance * (1 + 1e-3)).all()


def test_an_eigenvector_leaves_the_products_after_one_step() -> None:
    per_example = random_psd_examples(60, 40, seed=0)
    vectors = torch.linalg.eigh(per_example.mean(dim=0))[1]
    counting = Counting(per_example)
    problem = Problem("counting", counting, 1e-2, torch.cat([vectors[:, [5]], gaussian(40, 1)], dim=1))
    solution = solve(problem, solvers.load("block_cg", tolerance=1e-9), compare=False)
    assert solution.status is Status.CONVERGED
    # Two directions, then one, and one for each column's check; the last is the driver's certificate.
    assert counting.widths[0] == 2
    assert set(counting.widths[1:-1]) == {1}


def test_a_column_that_has_converged_stays_as_it_is() -> None:
    problem = dense_problem(random_psd_examples(60, 40, seed=0), damping=1e-3, columns=3)
    vectors = torch.linalg.eigh(problem.operator.dense())[1]
    mixed = torch.cat([vectors[:, :3].sum(dim=1, keepdim=True), problem.columns()], dim=1)
    solver = solvers.load("block_cg", tolerance=1e-6)
    kept: torch.Tensor | None = None
    for iterate in solver.iterates(replace(problem, rhs=mixed), None, mixed.clone(), torch.Generator()):
        assert iterate.converged is not None
        if kept is not None:
            assert torch.equal(iterate.x[:, 0], kept)
        elif iterate.converged[0] and not iterate.converged.all():
            kept = iterate.x[:, 0].clone()
    assert kept is not None


@pytest.mark.parametrize("exponent", [1.5, 3.0])
def test_keeps_its_promise_at_a_condition_of_1e8(exponent: float) -> None:
    values = torch.arange(1, 101, dtype=torch.float64) ** -exponent
    problem = spectral_problem(values, 1e-8, gaussian(100, 3))
    solution = solve(problem, solvers.load("block_cg", tolerance=1e-6))
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    assert (true_residuals(problem, solution.x) <= 1e-6 * (1 + 1e-6)).all()


def test_keeps_its_promise_in_float32() -> None:
    values = torch.arange(1, 101, dtype=torch.float64) ** -1.5
    problem = spectral_problem(values, 1e-4, gaussian(100, 3, dtype=torch.float32))
    solution = solve(problem, solvers.load("block_cg", tolerance=1e-3))
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    assert (true_residuals(problem, solution.x) <= 1.01e-3).all()


def test_a_tolerance_below_rounding_is_a_breakdown_not_a_lie_nor_a_loop() -> None:
    problem = dense_problem(random_psd_examples(50, 30, seed=0).float(), damping=1e-4)
    solution = solve(problem, solvers.load("block_cg", tolerance=1e-12), max_steps=20_000)
    assert solution.status is Status.BREAKDOWN
    assert "use float64" in solution.reason


def test_negative_curvature_is_a_breakdown_that_names_the_damping_it_needs() -> None:
    matrix = torch.diag(torch.tensor([1.0, 0.5, -2.0, 3.0], dtype=torch.float64))
    problem = Problem("indefinite", DenseOperator.from_matrix(matrix), 0.1, gaussian(4, 2))
    solution = solve(problem, solvers.load("block_cg"))
    assert solution.status is Status.BREAKDOWN
    assert "negative curvature" in solution.reason
    assert "use minres" in solution.reason
    enough = float(solution.reason.split("above ")[1].split(" ")[0])
    assert 0.1 < enough <= 2.0
    assert solve(replace(problem, damping=2.1), solvers.load("block_cg")).status is Status.CONVERGED


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_a_preconditioner_that_is_not_positive_definite_is_a_breakdown(sign: float) -> None:
    problem = dense_problem(random_psd_examples(20, 10, seed=0), damping=0.1, columns=2)
    solution = solve(problem, BlockConjugateGradient(preconditioner=lambda vectors: sign * vectors))
    assert solution.status is Status.BREAKDOWN
    assert "the preconditioner is not positive definite" in solution.reason


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="tolerance is 0"):
        solvers.load("block_cg", tolerance=0)
    with pytest.raises(ValueError, match="check_every is 0"):
        solvers.load("block_cg", check_every=0)


@given(
    size=st.integers(1, 12),
    columns=st.integers(1, 14),
    rank=st.integers(1, 14),
    condition=st.floats(1.0, 1e3),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_solves_blocks_of_every_rank(size: int, columns: int, rank: int, condition: float, seed: int) -> None:
    problem = dense_problem(random_psd_examples(20, size, seed=seed), damping=1e-2)
    rhs = gaussian(size, min(rank, columns), seed) @ gaussian(min(rank, columns), columns, seed + 1)
    problem = replace(problem, rhs=rhs)
    near = positive_definite(size, condition, seed)
    solver = BlockConjugateGradient(1e-9, lambda vectors: torch.linalg.solve(near, vectors))
    for each in (solver, BlockConjugateGradient(1e-9)):
        solution = solve(problem, each, compare=False)
        assert solution.status is Status.CONVERGED, solution.reason
        assert solution.x is not None
        expected = torch.linalg.solve(damped_matrix(problem), rhs)
        torch.testing.assert_close(solution.x, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
