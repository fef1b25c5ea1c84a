"""What a solver must do on every problem, just as it is given."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from bench.conformance.outcome import Failure, NotApplicable
from bench.conformance.subject import ROUNDING, TIGHT, Subject
from problems import Problem
from problems.scaling import relative_norms
from solvers import Status

# Where λ is less than this share of λ_max a stationary method may run out of its steps.
HARD = 1e-2
CLAIMS_NOTHING = "it claims nothing: give `examples` a relative_error"


def settings_are_frozen_and_shown(subject: Subject) -> None:
    """Settings cannot be changed once they were checked; name and docstring say what the solver is."""
    cls = subject.solver
    if not cls.__doc__ or cls.__doc__.startswith(f"{cls.__name__}("):
        raise Failure(f"{cls.__name__} has no docstring: say what it computes, after whom, at what cost")
    for example in subject.offered(subject.problem):
        solver = example.solver
        if not str(solver).startswith(solver.name):
            raise Failure(f"str(solver) is {str(solver)!r}; it must begin with the name, {solver.name!r}")
        try:
            solver.an_attribute_of_no_solver = 1  # type: ignore[attr-defined]
        except dataclasses.FrozenInstanceError:
            continue
        raise Failure(
            f"{cls.__name__} can be changed after its settings were checked: @dataclass(frozen=True)"
        )


def skip_says_why(subject: Subject) -> None:
    """`skip` returns None where the solver runs, else the reason in words; `solve` then ends SKIPPED."""
    for example in subject.offered(subject.problem):
        reason = example.solver.skip(subject.problem)
        if reason is None:
            continue
        if not reason:
            raise Failure(f"{example.solver}.skip(problem) is {reason!r}; return None where it runs")
        if not isinstance(reason, str) or not reason.strip():
            raise Failure(f"{example.solver}.skip(problem) is {reason!r}; return None, or why it cannot run")
        solution = subject.solve(subject.problem, example.solver)
        if solution.status is not Status.SKIPPED:
            raise Failure(f"{example.solver} skips the problem ({reason}) and yet ended {solution.status}")


def reaches_the_accuracy_it_claims(subject: Subject) -> None:
    """Every setting of `examples` ends by itself, with an answer within the relative error it claims.

    Below λ = 1e-2 λ_max it may run out of its steps instead, if it says so (BUDGET_SPENT).
    """
    runnable = subject.examples(subject.problem)
    for example in runnable:
        solution = subject.answered(subject.problem, example.solver)
        claim = subject.claim(subject.problem, example)
        if claim is None or _ran_out(subject.problem, solution.status):
            continue
        assert solution.error is not None
        worst = float(solution.error.max())
        if not worst <= claim:
            raise Failure(
                f"{example.solver} ended {solution.status} at relative error {worst:.2e} and claims "
                f"{claim:.2e}: correct the method, or claim in `examples` what its theory gives"
            )
    if all(example.relative_error is None for example in runnable):
        raise NotApplicable(CLAIMS_NOTHING)


def a_tolerance_is_kept(subject: Subject) -> None:
    """‖b − (H + λI)x‖ ≤ tolerance · ‖b‖ for every column, by the matrix itself; for 1e-2, its own, 1e-10.

    1e-10, where columns share chosen settings, on one matrix and one network.
    """
    problem = subject.problem
    promising = [each for each in subject.examples(problem) if each.solver.promised_tolerance is not None]
    if not promising:
        raise NotApplicable("it promises no tolerance")
    matrix = shifted_matrix(problem)
    for example in promising:
        own = example.solver.promised_tolerance
        assert own is not None
        # Columns alone are compared with the block at TIGHT, so that where they are it is solved anyhow.
        tight = example.solver.columns_are_independent or subject.trial.thorough
        for tolerance in sorted({1e-2, own, TIGHT} if tight else {1e-2, own}):
            solver = example.solver if tolerance == own else subject.with_tolerance(example.solver, tolerance)
            solution = subject.answered(problem, solver)
            if _ran_out(problem, solution.status):
                continue
            if solution.status is not Status.CONVERGED:
                raise Failure(f"{solver} ended {solution.status}, short of {tolerance:g}: {solution.reason}")
            assert solution.x is not None
            residual = float(relative_norms(problem.columns() - matrix @ solution.x, problem.columns()).max())
            if not residual <= tolerance * (1 + 1e-6):
                raise Failure(f"{solver} converged at a residual of {residual:.2e}, above {tolerance:g}")


def a_column_alone_is_as_in_a_block(subject: Subject) -> None:
    """The last right-hand side alone gets the answer it gets beside the others, to rounding.

    With a tolerance, to what a tolerance of 1e-10 allows. Where columns share chosen settings
    (`columns_are_independent` is False) within the claimed error, on one matrix and one network.
    """
    problem = subject.problem
    runnable = subject.examples(problem)
    if problem.num_columns == 1:
        raise NotApplicable("there is one right-hand side")
    last = slice(problem.num_columns - 1, problem.num_columns)
    for example in runnable:
        solver = subject.with_tolerance(example.solver, TIGHT)
        if not solver.columns_are_independent and (
            example.relative_error is None or not subject.trial.thorough
        ):
            continue
        alone = subject.answered(problem, solver, columns=last)  # type: ignore[arg-type]
        assert alone.x is not None
        if not solver.columns_are_independent:
            claim = subject.claim(problem, example)
            assert alone.error is not None
            assert claim is not None
            if not float(alone.error.max()) <= claim:
                raise Failure(
                    f"{solver} claims {claim:.2e}; the column alone is {float(alone.error):.2e} off"
                )
            continue
        block = subject.answered(problem, solver).x
        assert block is not None
        same_answer(
            alone.x,
            block[:, last],
            allowed(subject, example.solver.promised_tolerance),
            f"{solver}: the last column alone and in the block",
            "treat every column by itself, or set columns_are_independent to False where all share settings",
        )


def work_is_counted_and_history_in_order(subject: Subject) -> None:
    """Steps rise, work and seconds never fall, the last record is the answer's, and nothing is negative."""
    for example in subject.examples(subject.problem):
        solution = subject.answered(subject.problem, example.solver)
        history = solution.history
        steps = [record.step for record in history]
        if steps != sorted(set(steps)) or steps[-1] != solution.steps:
            raise Failure(f"{example.solver}: the steps {steps} do not rise to the last, {solution.steps}")
        for name in ("work", "seconds"):
            values = [getattr(record, name) for record in history]
            if values != sorted(values) or values[0] < 0:
                raise Failure(f"{example.solver}: {name} falls: {values}")
        if history[-1].work > solution.work or min(solution.work, solution.setup_work) < 0:
            raise Failure(f"{example.solver}: work {solution.work:g}, less than that of its last record")
        assert solution.error is not None
        last, error = history[-1].error, float(solution.error.max())
        if last is None or not math.isclose(last, error, rel_tol=1e-9, abs_tol=1e-300):
            raise Failure(
                f"{example.solver}: its last iterate is {last} off, the answer {error:.2e}: `iterates` must "
                "not change the last x after it was yielded"
            )


def usable_answers_are_finite(subject: Subject) -> None:
    """No NaN and no inf in an answer that may be used."""
    for example in subject.examples(subject.problem):
        solution = subject.solve(subject.problem, example.solver)
        assert_finite(solution.x if solution.usable else None, str(example.solver))


CHECKS = (
    settings_are_frozen_and_shown,
    skip_says_why,
    reaches_the_accuracy_it_claims,
    a_tolerance_is_kept,
    a_column_alone_is_as_in_a_block,
    work_is_counted_and_history_in_order,
    usable_answers_are_finite,
)


def shifted_matrix(problem: Problem) -> Tensor:
    """H + λI, formed, (p, p)."""
    matrix = problem.operator.dense()
    matrix.diagonal().add_(problem.damping)
    return matrix


def same_answer(one: Tensor, other: Tensor, at_most: float, what: str, remedy: str) -> None:
    """Failure where a column of two answers (p, k) differs by more than `at_most` of its norm."""
    difference = float(relative_norms(one - other, other).max())
    if not difference <= at_most:
        raise Failure(f"{what} differ by {difference:.2e} of their norm, more than {at_most:.0e}: {remedy}")


def allowed(subject: Subject, tolerance: float | None) -> float:
    """By how much two answers of one solver may differ: rounding, or what residuals within TIGHT allow."""
    condition = subject.problem.condition_number
    assert condition is not None
    return ROUNDING if tolerance is None else max(ROUNDING, 4 * condition * TIGHT)


def assert_finite(x: Tensor | None, what: str) -> None:
    """Failure where `x` holds NaN or inf."""
    if x is not None and not torch.isfinite(x).all():
        raise Failure(f"{what} gave an answer that holds NaN or inf as a usable one")


def _ran_out(problem: Problem, status: Status) -> bool:
    assert problem.eigenvalues is not None
    return status is Status.BUDGET_SPENT and problem.damping < HARD * float(problem.eigenvalues.abs().max())
