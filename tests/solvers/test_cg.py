import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import problems
import solvers
from problems import DenseOperator, Problem
from solvers import Status, solve
from solvers.cg import ConjugateGradient
from tests.conftest import dense_problem, random_psd_examples
from tests.solvers.krylov_oracles import (
    damped_matrix,
    gaussian,
    inverse_root,
    iterates,
    positive_definite,
    spectral_problem,
    true_residuals,
)


def diagonal_problem(values: list[float], damping: float, rhs: torch.Tensor | None = None) -> Problem:
    matrix = torch.diag(torch.tensor(values, dtype=torch.float64))
    rhs = torch.ones(len(values), 1, dtype=torch.float64) if rhs is None else rhs
    return Problem("diagonal", DenseOperator.from_matrix(matrix), damping, rhs)


def test_ends_after_as_many_steps_as_there_are_distinct_eigenvalues() -> None:
    solution = solve(diagonal_problem([1, 1, 1, 5, 5, 9], 0.5), solvers.load("cg", tolerance=1e-12))
    assert (solution.status, solution.steps) == (Status.CONVERGED, 3)


def test_stays_within_its_bound() -> None:
    """Energy-norm error ≤ 2((√κ − 1)/(√κ + 1))ᵗ at every recorded step."""
    for exponent in (0.5, 1.0, 2.0):
        problem = problems.load("quadratic", dimension=100, exponent=exponent, damping=1e-3)
        assert problem.condition_number is not None
        root = problem.condition_number**0.5
        for record in solve(problem, solvers.load("cg", tolerance=1e-6)).history:
            assert record.energy_error is not None
            assert record.energy_error <= 2 * ((root - 1) / (root + 1)) ** record.step


def test_takes_the_steps_that_scipy_takes() -> None:
    problem = problems.load("quadratic", num_columns=1, damping=1e-3)
    ours, theirs = (solve(problem, solvers.load(name, tolerance=1e-8)) for name in ("cg", "scipy_cg"))
    assert abs(ours.steps - theirs.steps) <= 1


def test_converged_columns_drop_out_of_the_products() -> None:
    """An eigenvector needs one step: the work is that of two columns for it, then of one."""
    rhs = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    problem = diagonal_problem([1.0, 2.0, 3.0], 0.5, rhs)
    solution = solve(problem, solvers.load("cg", tolerance=1e-12))
    assert solution.steps == 3
    # Products: 2 columns, then its check; 1 column twice, then its check.
    assert solution.work == pytest.approx((9 + 5 + 5 + 5 + 5) / 3)


def test_negative_curvature_is_a_breakdown_that_names_the_damping_it_needs() -> None:
    solution = solve(diagonal_problem([1.0, 0.5, -2.0], 0.1), solvers.load("cg"))
    assert solution.status is Status.BREAKDOWN
    assert "negative curvature" in solution.reason
    assert "use minres" in solution.reason
    enough = float(solution.reason.split("above ")[1].split(" ")[0])
    assert 0.1 < enough <= 2.0
    assert solve(diagonal_problem([1.0, 0.5, -2.0], 2.1), solvers.load("cg")).status is Status.CONVERGED


def test_a_tolerance_below_rounding_is_a_breakdown_not_a_lie_nor_a_loop() -> None:
    per_example = random_psd_examples(50, 30, seed=0).float()
    problem = dense_problem(per_example, damping=1e-4)
    solution = solve(problem, solvers.load("cg", tolerance=1e-12), max_steps=100_000)
    assert solution.status is Status.BREAKDOWN
    assert "use float64" in solution.reason
    assert solution.steps < 10_000


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="tolerance is 0"):
        solvers.load("cg", tolerance=0)
    with pytest.raises(ValueError, match="check_every is 0"):
        solvers.load("cg", check_every=0)
    with pytest.raises(ValueError, match="jacobi"):
        solvers.load("cg", preconditioner="jacoby")
    with pytest.raises(ValueError, match="lissa gives no matrix"):
        ConjugateGradient(preconditioner=solvers.load("lissa"))


def scipys_iterates(matrix: torch.Tensor, b: torch.Tensor, count: int) -> torch.Tensor:
    """SciPy's first answers for one column, shape (count, p)."""
    found: list[np.ndarray] = []
    scipy.sparse.linalg.cg(
        matrix.numpy(),
        b.numpy(),
        rtol=1e-300,
        atol=0.0,
        maxiter=count,
        callback=lambda x: found.append(x.copy()),
    )
    return torch.from_numpy(np.array(found))


def test_its_iterates_are_scipys() -> None:
    problem = dense_problem(random_psd_examples(60, 40, seed=0), damping=1e-2, columns=3)
    ours = torch.stack(iterates(problem, solvers.load("cg", tolerance=1e-12), 12))
    for column in range(3):
        theirs = scipys_iterates(damped_matrix(problem), problem.columns()[:, column], 12)
        torch.testing.assert_close(ours[:, :, column], theirs, rtol=1e-9, atol=1e-10)


def test_preconditioned_it_is_cg_on_the_transformed_system() -> None:
    """x_t = P^-½y_t, y_t the iterates of CG on P^-½(H + λI)P^-½ y = P^-½b."""
    problem = dense_problem(random_psd_examples(60, 40, seed=0), damping=1e-2, columns=2)
    matrix = damped_matrix(problem)
    near = positive_definite(40, 100.0, seed=1)
    for setting, p in (
        (lambda vectors: torch.linalg.solve(near, vectors), near),
        ("jacobi", matrix.diagonal().diag()),
    ):
        root = inverse_root(p)
        ours = torch.stack(iterates(problem, ConjugateGradient(1e-12, setting), 10))
        for column in range(2):
            theirs = scipys_iterates(root @ matrix @ root, root @ problem.columns()[:, column], 10) @ root
            torch.testing.assert_close(ours[:, :, column], theirs, rtol=1e-8, atol=1e-9)


def test_preconditioned_it_stays_within_its_bound() -> None:
    """Energy-norm error ≤ 2((√κ − 1)/(√κ + 1))ᵗ with κ of P^-½(H + λI)P^-½."""
    problem = problems.load("quadratic", dimension=60, exponent=2.0, damping=1e-4)
    matrix = damped_matrix(problem)
    for near in (matrix.diagonal().diag(), matrix + 1e-2 * positive_definite(60, 10.0)):
        root = inverse_root(near)
        values = torch.linalg.eigvalsh(root @ matrix @ root)
        kappa = float((values[-1] / values[0]).sqrt())
        solution = solve(problem, ConjugateGradient(1e-8, lambda v, near=near: torch.linalg.solve(near, v)))
        assert solution.status is Status.CONVERGED
        for record in solution.history:
            assert record.energy_error is not None
            assert record.energy_error <= 2 * ((kappa - 1) / (kappa + 1)) ** record.step + 1e-12


def test_the_tolerance_is_of_the_2_norm_whatever_the_preconditioner() -> None:
    problem = dense_problem(random_psd_examples(60, 40, seed=0), damping=1e-2, columns=3)
    near = positive_definite(40, 1e6)
    for tolerance in (1e-2, 1e-6):
        solution = solve(
            problem, ConjugateGradient(tolerance, lambda vectors: torch.linalg.solve(near, vectors))
        )
        assert solution.status is Status.CONVERGED
        assert solution.x is not None
        assert (true_residuals(problem, solution.x) <= tolerance * (1 + 1e-9)).all()


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_a_preconditioner_that_is_not_positive_definite_is_a_breakdown(sign: float) -> None:
    problem = diagonal_problem([1.0, 2.0, 3.0], 0.5)
    solution = solve(problem, ConjugateGradient(preconditioner=lambda vectors: sign * vectors))
    assert solution.status is Status.BREAKDOWN
    assert "the preconditioner is not positive definite" in solution.reason


def test_the_exact_inverse_as_preconditioner_takes_one_step() -> None:
    problem = dense_problem(random_psd_examples(60, 40, seed=0), damping=1e-4, columns=3)
    matrix = damped_matrix(problem)
    solver = ConjugateGradient(1e-10, lambda vectors: torch.linalg.solve(matrix, vectors))
    assert solve(problem, solver).steps == 1


def test_set_up_and_application_of_a_preconditioner_are_work() -> None:
    """Two examples of p = 4: the diagonal takes both and 4 backward passes each, P⁻¹ 4 multiplications."""
    problem = dense_problem(random_psd_examples(2, 4, seed=0, rank=4), damping=1.0, columns=1)
    plain, jacobi = (solve(problem, ConjugateGradient(1e-10, name)) for name in ("none", "jacobi"))
    assert plain.setup_work == 0
    assert jacobi.setup_work == pytest.approx((1 + 2 * 4) / 3)
    # A step's product and application, of one example's forward pass, and the check's product.
    assert jacobi.work == pytest.approx((jacobi.steps + 1) * 5 / 3 + jacobi.steps / (3 * 2))


class Faulty(DenseOperator):
    """Its third product is wrong by a tenth."""

    products = 0

    def _product(self, columns: torch.Tensor) -> torch.Tensor:
        self.products += 1
        return super()._product(columns) * (1.1 if self.products == 3 else 1.0)


def test_a_residual_that_has_drifted_is_caught_where_it_is_recomputed() -> None:
    per_example = random_psd_examples(60, 40, seed=0)
    true = dense_problem(per_example, damping=1e-3, columns=1)
    found = {}
    for every in (5, 10**6):
        problem = Problem("faulty", Faulty(per_example), 1e-3, true.columns())
        found[every] = solve(problem, ConjugateGradient(1e-8, check_every=every), compare=False)
        assert found[every].status is Status.CONVERGED
        assert found[every].x is not None
        assert (true_residuals(true, found[every].x) <= 1e-8).all()
    problem = Problem("faulty", Faulty(per_example), 1e-3, true.columns())
    actual = float(true_residuals(true, iterates(problem, ConjugateGradient(1e-8), 5)[-1]))
    checked, unchecked = (
        next(record.residual for record in found[every].history if record.step == 5) for every in found
    )
    assert checked == pytest.approx(actual, rel=1e-6)
    assert unchecked is not None
    assert unchecked < 0.99 * actual
    assert found[5].steps < found[10**6].steps


def test_what_rounding_forbids_is_given_up_sooner_for_being_checked() -> None:
    values = torch.logspace(0, -6, 100, dtype=torch.float64)
    problem = spectral_problem(values, 1e-6, gaussian(100, 1, dtype=torch.float32))
    steps = {}
    for every in (50, 10**6):
        solution = solve(problem, ConjugateGradient(1e-4, check_every=every), compare=False, max_steps=20_000)
        assert solution.status is Status.BREAKDOWN, solution.reason
        steps[every] = solution.steps
    assert steps[50] < 0.7 * steps[10**6]


@pytest.mark.parametrize("exponent", [1.5, 3.0])
def test_keeps_its_promise_at_a_condition_of_1e8(exponent: float) -> None:
    values = torch.arange(1, 101, dtype=torch.float64) ** -exponent
    problem = spectral_problem(values, 1e-8, gaussian(100, 2))
    solution = solve(problem, solvers.load("cg", tolerance=1e-6))
    assert solution.status is Status.CONVERGED, solution.reason
    assert solution.x is not None
    assert (true_residuals(problem, solution.x) <= 1e-6 * (1 + 1e-6)).all()


def test_an_eigenvector_takes_one_step() -> None:
    problem = dense_problem(random_psd_examples(30, 20, seed=0), damping=0.1)
    values, vectors = torch.linalg.eigh(problem.operator.dense())
    solution = solve(replace(problem, rhs=vectors[:, [7]]), solvers.load("cg", tolerance=1e-10))
    assert solution.steps == 1
    torch.testing.assert_close(solution.x, vectors[:, [7]] / (values[7] + 0.1), rtol=1e-9, atol=1e-12)


@given(
    size=st.integers(1, 12),
    columns=st.integers(1, 14),
    condition=st.floats(1.0, 1e3),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_solves_whatever_it_is_preconditioned_with(
    size: int, columns: int, condition: float, seed: int
) -> None:
    problem = dense_problem(random_psd_examples(20, size, seed=seed), damping=1e-2, columns=columns)
    near = positive_definite(size, condition, seed)
    solution = solve(problem, ConjugateGradient(1e-10, lambda v: torch.linalg.solve(near, v)), compare=False)
    assert solution.status is Status.CONVERGED
    assert solution.x is not None
    expected = torch.linalg.solve(damped_matrix(problem), problem.columns())
    torch.testing.assert_close(solution.x, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda v: v[:, 0], "returns \\(30,\\)"),
        (lambda v: v.float(), "torch.float32"),
        (lambda v: v.div_(2.0), "writes to the vectors"),
        (lambda v: v * float("nan"), "NaN or inf"),
        (lambda v: None, "returns NoneType"),
    ],
)
@pytest.mark.parametrize("name", ["cg", "block_cg", "minres"])
def test_a_function_that_is_no_preconditioner_is_told_why(name: str, function: object, why: str) -> None:
    problem = dense_problem(random_psd_examples(40, 30, seed=0), 0.1)
    solution = solve(problem, solvers.load(name, preconditioner=function))
    assert solution.status is Status.FAILED
    assert re.search(why, solution.reason), solution.reason


def test_a_preconditioner_that_breaks_down_is_named() -> None:
    matrix = torch.diag(torch.linspace(-1, 1, 10, dtype=torch.float64))
    problem = problems.Problem(
        "indefinite", problems.DenseOperator.from_matrix(matrix), 0.1, torch.ones(10, 1).double()
    )
    solution = solve(problem, solvers.load("minres", preconditioner="jacobi"))
    assert solution.status is Status.BREAKDOWN
    assert solution.reason.startswith("its preconditioner, diagonal: ")
    assert "use none" in solution.reason
