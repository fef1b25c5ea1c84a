"""What every solver must do on every problem; both are found by discovery, so that a new file is enrolled."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

import problems
import solvers
from problems import Problem
from solvers import Example, Solver, Status, solve

PROBLEMS = {
    f"{name}-{index}": family
    for name, cls in problems.available().items()
    for index, family in enumerate(cls.examples())
}
CASES = [(name, problem_id) for name in solvers.available() for problem_id in PROBLEMS]
every_case = pytest.mark.parametrize(("name", "problem_id"), CASES, ids=["-".join(case) for case in CASES])


@functools.cache
def build(problem_id: str, dtype: torch.dtype = torch.float64) -> Problem:
    return PROBLEMS[problem_id].build(device=torch.device("cpu"), dtype=dtype, seed=0)


def examples(name: str, problem: Problem) -> list[Example]:
    found = list(solvers.find(name).examples(problem))
    assert found, "a solver must offer at least one example to be tried on"
    runnable = [example for example in found if example.solver.skip(problem) is None]
    if not runnable:
        pytest.skip(f"skips this problem: {found[0].solver.skip(problem)}")
    return runnable


def tight(solver: Solver) -> Solver:
    """With a tolerance so small that answers of different runs can be told apart only by rounding."""
    return solver if solver.promised_tolerance is None else replace(solver, tolerance=1e-11)  # type: ignore[call-arg]


@every_case
def test_reaches_the_reference_at_the_accuracy_it_claims(name: str, problem_id: str) -> None:
    problem = build(problem_id)
    for example in examples(name, problem):
        solution = solve(problem, example.solver)
        assert solution.usable, solution.reason
        if example.relative_error is not None:
            assert solution.error is not None
            assert solution.error.max() <= example.relative_error * (1 + 1e-9)


@every_case
@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
def test_a_tolerance_means_what_it_says(name: str, problem_id: str, tolerance: float) -> None:
    problem = build(problem_id)
    matrix = problem.operator.dense() + problem.damping * torch.eye(problem.size, dtype=torch.float64)
    b = problem.columns()
    for example in examples(name, problem):
        if example.solver.promised_tolerance is None:
            continue
        solution = solve(problem, replace(example.solver, tolerance=tolerance))  # type: ignore[call-arg]
        assert solution.status is Status.CONVERGED, solution.reason
        assert solution.x is not None
        residual = (b - matrix @ solution.x).norm(dim=0) / b.norm(dim=0)
        assert (residual <= tolerance * (1 + 1e-6)).all()


@every_case
def test_one_column_alone_equals_the_same_column_in_a_block(name: str, problem_id: str) -> None:
    problem = build(problem_id)
    for example in examples(name, problem):
        solver = tight(example.solver)
        block = solve(problem, solver).x
        assert block is not None
        for column in {0, problem.num_columns - 1}:
            solution = solve(problem, solver, columns=slice(column, column + 1))
            if not solver.columns_are_independent:
                assert solution.error is not None
                assert example.relative_error is not None
                assert solution.error.max() <= example.relative_error
                continue
            alone = solution.x
            torch.testing.assert_close(
                alone, block[:, [column]], rtol=1e-8, atol=1e-8 * float(block.abs().max())
            )


@every_case
def test_a_seed_fixes_everything_but_seconds(name: str, problem_id: str) -> None:
    problem = build(problem_id)
    for example in examples(name, problem):
        first = solve(problem, example.solver, seed=5)
        torch.manual_seed(123)
        again = solve(problem, example.solver, seed=5)
        assert first.x is not None
        assert again.x is not None
        assert torch.equal(first.x, again.x)
        without_seconds = [[replace(record, seconds=0) for record in run.history] for run in (first, again)]
        assert without_seconds[0] == without_seconds[1]
        assert (first.status, first.reason, first.work) == (again.status, again.reason, again.work)


@every_case
def test_scales_with_the_right_hand_side_and_leaves_it_as_it_was(name: str, problem_id: str) -> None:
    # Exact in binary; the square of the small one underflows, that of the large one overflows.
    for dtype, scale in ((torch.float64, 2.0**-600), (torch.float64, 2.0**600), (torch.float32, 2.0**-90)):
        problem = build(problem_id, dtype)
        b = problem.columns().clone()
        scaled = replace(problem, rhs=scale * b)
        for example in examples(name, problem):
            solver = example.solver
            if solver.promised_tolerance is not None and dtype == torch.float32:
                solver = replace(solver, tolerance=1e-4)  # type: ignore[call-arg]
            one, other = solve(problem, solver), solve(scaled, solver)
            assert one.x is not None
            assert other.x is not None
            assert torch.equal(other.x, scale * one.x)
            assert one.status == other.status
        assert torch.equal(problem.columns(), b)


@every_case
def test_no_right_hand_side_no_answer(name: str, problem_id: str) -> None:
    problem = build(problem_id)
    zeros = torch.zeros(problem.size, 1, dtype=torch.float64)
    for rhs in (zeros, torch.cat([problem.columns()[:, :1], zeros], dim=1)):
        zero = replace(problem, rhs=rhs)
        for example in examples(name, problem):
            solution = solve(zero, example.solver)
            assert solution.usable, solution.reason
            assert solution.x is not None
            assert (solution.x[:, -1] == 0).all()


@every_case
def test_float32_is_as_good_as_rounding_allows(name: str, problem_id: str) -> None:
    problem = build(problem_id, torch.float32)
    assert problem.condition_number is not None
    for example in examples(name, problem):
        if example.relative_error is None:
            continue
        solver = example.solver
        floor = 10 * problem.condition_number * 1e-7
        if solver.promised_tolerance is not None:
            solver = replace(solver, tolerance=1e-4)  # type: ignore[call-arg]
        claimed = max(example.relative_error, 2 * problem.condition_number * (solver.promised_tolerance or 0))
        solution = solve(problem, solver)
        assert solution.usable, solution.reason
        assert solution.x is not None
        assert solution.x.dtype == torch.float32
        assert solution.error is not None
        assert solution.error.max() <= claimed + floor


@every_case
def test_work_is_counted_and_history_is_in_order(name: str, problem_id: str) -> None:
    problem = build(problem_id)
    for example in examples(name, problem):
        solution = solve(problem, example.solver)
        steps = [record.step for record in solution.history]
        work = [record.work for record in solution.history]
        seconds = [record.seconds for record in solution.history]
        assert steps == sorted(set(steps))
        assert steps[-1] == solution.steps
        assert work == sorted(work)
        assert seconds == sorted(seconds)
        assert work[-1] <= solution.work
        assert solution.error is not None
        assert solution.history[-1].error == pytest.approx(float(solution.error.max()), rel=1e-9)


@every_case
def test_settings_are_frozen_and_shown(name: str, problem_id: str) -> None:
    for example in examples(name, build(problem_id)):
        assert str(example.solver).startswith(name)
        with pytest.raises(AttributeError):
            example.solver.anything = 1  # type: ignore[attr-defined]
