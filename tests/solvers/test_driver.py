"""Budgets, records, guards and statuses, with solvers made to misbehave."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import problems
from problems import DenseOperator, Problem
from solvers import Breakdown, Iterate, Record, Solver, Status, solve
from solvers.driver import RECORD_GROWTH
from tests.conftest import dense_problem, random_psd_examples


@dataclass(frozen=True)
class Scripted(Solver):
    """Yields `count` iterates that `script(step, problem, b)` makes; may promise a tolerance."""

    script: Callable[[int, Problem, Tensor], Any]
    count: int = 10_000
    tolerance: float | None = None

    def iterates(
        self, problem: Problem, state: Any, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        for step in range(1, self.count + 1):
            answer = self.script(step, problem, b)
            yield answer if isinstance(answer, Iterate) else Iterate(answer)


@pytest.fixture
def problem() -> Problem:
    return dense_problem(random_psd_examples(10, 5, seed=0), damping=0.1)


class Clock:
    """In place of the time module."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def second(self, step: int, problem: Problem, b: Tensor) -> Tensor:
        """A step that takes a second."""
        self.now += 1
        return product(step, problem, b)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("solvers.driver.time", clock)
    return clock


def product(step: int, problem: Problem, b: Tensor) -> Tensor:
    _ = problem.operator @ b
    return torch.zeros_like(b)


def solved(step: int, problem: Problem, b: Tensor) -> Tensor:
    identity = torch.eye(problem.size, dtype=b.dtype)
    return torch.linalg.solve(problem.operator.dense() + problem.damping * identity, b)


def test_steps_work_and_seconds_end_a_run_at_the_step_that_reaches_them(
    problem: Problem, clock: Clock
) -> None:
    solution = solve(problem, Scripted(product), max_steps=17)
    assert (solution.status, solution.steps) == (Status.BUDGET_SPENT, 17)
    assert "max_steps = 17" in solution.reason
    # A product with two columns is (1 + 4·2)/3 = 3 gradient equivalents.
    solution = solve(problem, Scripted(product), max_work=10)
    assert (solution.status, solution.steps, solution.work) == (Status.BUDGET_SPENT, 4, 12.0)
    solution = solve(problem, Scripted(clock.second), max_seconds=4.5)
    assert (solution.status, solution.steps, solution.solve_seconds) == (Status.BUDGET_SPENT, 5, 5.0)


@pytest.mark.parametrize("budget", [{"max_steps": 0}, {"max_work": -1}, {"max_seconds": 0.0}])
def test_budgets_must_be_positive(problem: Problem, budget: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(budget))} is .*must be > 0"):
        solve(problem, Scripted(product), **budget)


def test_records_lie_on_a_geometric_grid_and_hold_the_last_step(problem: Problem) -> None:
    told: list[Record] = []
    solution = solve(problem, Scripted(product, count=1003), on_record=told.append)
    steps = [record.step for record in solution.history]
    assert steps[:10] == list(range(1, 11))
    assert steps[-1] == solution.steps == 1003
    assert all(later <= max(step + 1, RECORD_GROWTH * step) for step, later in itertools.pairwise(steps))
    assert len(steps) < 70
    assert tuple(told) == solution.history


def test_errors_are_evaluated_with_the_clock_stopped_and_their_work_apart(
    problem: Problem, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_error(self: Problem, x: Tensor, columns: slice | None = None) -> None:
        clock.now += 1000

    monkeypatch.setattr(Problem, "error", slow_error)
    solution = solve(problem, Scripted(clock.second, count=5))
    assert solution.solve_seconds == 5
    assert solution.work == 5 * 3  # the certificate's product is not among them


def test_a_tolerance_is_judged_by_the_recomputed_residual(problem: Problem) -> None:
    done = torch.ones(2, dtype=torch.bool)
    honest = solve(problem, Scripted(lambda *given: Iterate(solved(*given), converged=done), tolerance=1e-6))
    assert (honest.status, honest.steps) == (Status.CONVERGED, 1)
    liar = solve(
        problem,
        Scripted(lambda *given: Iterate(0.9 * solved(*given), torch.zeros(2), done), tolerance=1e-6),
    )
    assert liar.status is Status.BREAKDOWN
    assert "recomputed one is 1.0e-01" in liar.reason
    ended = solve(problem, Scripted(lambda *given: 0.9 * solved(*given), count=3, tolerance=1e-6))
    assert ended.status is Status.BUDGET_SPENT
    assert ended.reason.startswith("it ended by itself after 3 steps, at residual 1.0e-01")
    at_once = solve(problem, Scripted(lambda *given: 0.9 * solved(*given), count=1, tolerance=1e-6))
    assert at_once.reason.startswith("it ended by itself after 1 step, at")
    promised_nothing = solve(problem, Scripted(lambda *given: 0.9 * solved(*given), count=3))
    assert promised_nothing.status is Status.FINISHED
    lucky = solve(problem, Scripted(solved, tolerance=1e-6), max_steps=3)
    assert lucky.status is Status.CONVERGED


def test_running_away_is_stopped_and_reported(problem: Problem) -> None:
    solution = solve(problem, Scripted(lambda step, problem, b: b * 10.0**step))
    assert solution.status is Status.DIVERGED
    assert solution.steps < 10
    assert "times ‖b‖/λ" in solution.reason
    assert not solution.usable


def test_nan_is_stopped_and_reported(problem: Problem) -> None:
    solution = solve(problem, Scripted(lambda step, problem, b: b * (float("nan") if step > 5 else 1)))
    assert (solution.status, solution.steps) == (Status.DIVERGED, 6)
    assert "NaN or inf at step 6" in solution.reason


def test_a_final_answer_worse_than_zero_is_diverged(problem: Problem) -> None:
    for factor, status in ((1.0, Status.FINISHED), (2.1, Status.DIVERGED)):
        solution = solve(problem, Scripted(lambda s, p, b, f=factor: f * b / p.damping, count=1))
        assert solution.status is status
        assert solution.error is not None
        # Beyond twice the ball that holds every solution, zero is the better answer.
        if status is Status.DIVERGED:
            assert (solution.error > 1).any()


def test_indefinite_problems_have_no_ball_to_leave() -> None:
    operator = DenseOperator.from_matrix(torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64)))
    problem = Problem("indefinite", operator, 0.499, torch.ones(2, 1, dtype=torch.float64))
    solution = solve(problem, Scripted(solved, count=1))
    assert solution.status is Status.FINISHED
    runaway = solve(problem, Scripted(lambda step, problem, b: 1e9 * b, count=1))
    assert runaway.status is Status.DIVERGED
    assert "indefinite" in runaway.reason


def test_breakdown_keeps_the_last_answer(problem: Problem) -> None:
    def breaks(step: int, problem: Problem, b: Tensor) -> Tensor:
        if step == 3:
            raise Breakdown("the third step cannot be taken: use another")
        return solved(step, problem, b)

    solution = solve(problem, Scripted(breaks))
    assert (solution.status, solution.reason) == (
        Status.BREAKDOWN,
        "the third step cannot be taken: use another",
    )
    assert solution.error is not None
    assert solution.error.max() < 1e-12


def test_an_exception_is_a_failed_solution_with_its_traceback(problem: Problem) -> None:
    def raises(step: int, problem: Problem, b: Tensor) -> Tensor:
        raise KeyError("lost")

    solution = solve(problem, Scripted(raises))
    assert (solution.status, solution.x) == (Status.FAILED, None)
    assert "in raises" in solution.traceback
    assert "lost" in solution.reason


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda b: b[:, 0], r"shape \(5,\)"),
        (lambda b: b.float(), "torch.float32"),
        (lambda b: b.to("meta"), "on meta"),
        (lambda b: Iterate(b, residual=torch.ones(3)), r"a residual of shape \(3,\)"),
        (lambda b: Iterate(b, converged=torch.ones(2, 1)), r"a converged of shape \(2, 1\)"),
        (
            lambda b: Iterate(b.numpy()),
            r"the x that the solver yielded is numpy\.ndarray; needed is a tensor",
        ),
        (
            lambda b: Iterate(b, converged=True),
            "the converged that the solver yielded is bool; needed is a tensor",
        ),  # type: ignore[arg-type]
        (
            lambda b: Iterate(b, residual=0.5),
            "the residual that the solver yielded is float; needed is a tensor",
        ),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_iterate_is_a_failure(
    problem: Problem, answer: Callable[[Tensor], Any], message: str
) -> None:
    solution = solve(problem, Scripted(lambda step, problem, b: answer(b)))
    assert (solution.status, solution.x) == (Status.FAILED, None)
    assert re.search(message, solution.reason), solution.reason
    # The solver's own line, where it yielded.
    assert re.search(r" \(.*test_driver\.py, line \d+\)$", solution.reason)


@pytest.mark.parametrize(
    ("returned", "named"), [(lambda b: Iterate(b), "solvers.solver.Iterate"), (lambda b: None, "None")]
)
def test_returning_in_place_of_yielding_is_a_failure(
    problem: Problem, returned: Callable[[Tensor], Any], named: str
) -> None:
    class Returns(Solver):
        def iterates(self, problem: Problem, state: Any, b: Tensor, generator: torch.Generator) -> Any:
            return returned(b)

    reason = solve(problem, Returns()).reason
    assert f"returned {named}; it must yield" in reason
    assert "write `yield Iterate(x)`" in reason


def test_yielding_nothing_is_a_failure(problem: Problem) -> None:
    nothing = solve(problem, Scripted(product, count=0))
    assert nothing.status is Status.FAILED
    assert "yielded no iterate" in nothing.reason


def test_leaving_the_interpreter_is_a_failure(problem: Problem) -> None:
    def leaves(step: int, problem: Problem, b: Tensor) -> Tensor:
        raise SystemExit(3)

    assert solve(problem, Scripted(leaves)).status is Status.FAILED


def test_a_solver_that_overwrites_its_right_hand_side_harms_only_itself(problem: Problem) -> None:
    before = problem.columns().clone()
    solution = solve(problem, Scripted(lambda step, problem, b: b.zero_(), count=1, tolerance=1e-6))
    assert torch.equal(problem.columns(), before)
    assert solution.status is Status.BUDGET_SPENT
    assert solution.residual is not None
    torch.testing.assert_close(solution.residual, torch.ones(2, dtype=torch.float64))


def test_an_answer_does_not_share_memory_with_the_problem(problem: Problem) -> None:
    before = problem.columns().clone()
    solution = solve(problem, Scripted(lambda step, problem, b: b, count=1))
    assert solution.x is not None
    solution.x.zero_()
    assert torch.equal(problem.columns(), before)


def test_without_comparison_no_reference_is_computed(problem: Problem) -> None:
    solution = solve(problem, Scripted(solved, count=2), compare=False)
    assert (solution.error, solution.energy_error) == (None, None)
    assert [record.error for record in solution.history] == [None, None]
    assert "_reference" not in vars(problem)


@pytest.mark.parametrize("columns", [slice(1, 1), slice(5, 9), 1])
def test_columns_must_be_a_slice_of_those_there_are(problem: Problem, columns: Any) -> None:
    with pytest.raises(ValueError, match="must be a slice of the 2 columns"):
        solve(problem, Scripted(product), columns=columns)


def test_the_generator_is_closed_when_a_budget_ends_it(problem: Problem) -> None:
    closed = []

    class Tidy(Scripted):
        def iterates(
            self, problem: Problem, state: Any, b: Tensor, generator: torch.Generator
        ) -> Iterator[Iterate]:
            try:
                yield from super().iterates(problem, state, b, generator)
            finally:
                closed.append(True)

    solve(problem, Tidy(product), max_steps=2)
    assert closed == [True]


def test_skipping_gives_its_reason(problem: Problem) -> None:
    class Choosy(Scripted):
        def skip(self, problem: Problem) -> str | None:
            return "this problem has no layers"

    solution = solve(problem, Choosy(product))
    assert (solution.status, solution.reason) == (Status.SKIPPED, "this problem has no layers")


def test_lazy_columns_that_are_not_finite_are_refused() -> None:
    operator = DenseOperator(random_psd_examples(3, 4, seed=0))
    lazy = problems.Columns((4, 2), lambda i, j: torch.full((4, j - i), float("nan"), dtype=torch.float64))
    with pytest.raises(ValueError, match="rhs: 8 of 8 numbers are NaN"):
        solve(Problem("lazy", operator, 0.1, lazy), Scripted(product))


def test_what_products_prepare_for_later_ones_is_set_up(
    problem: Problem, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = [0.0]
    monkeypatch.setattr(DenseOperator, "preparation_seconds", property(lambda operator: prepared[0]))

    def script(step: int, problem: Problem, b: Tensor) -> Tensor:
        if step == 2:
            clock.now += 5
            prepared[0] += 5
        return clock.second(step, problem, b)

    solution = solve(problem, Scripted(script, count=3))
    assert solution.solve_seconds == 3
    assert solution.setup_seconds == 5


def test_a_solver_sees_no_more_right_hand_sides_than_it_is_to_solve() -> None:
    seen = []

    class Looks(Solver):
        """Looks at the problem."""

        def skip(self, problem: Problem) -> str | None:
            seen.append(problem.num_columns)
            return None

        def prepare(self, problem: Problem, generator: torch.Generator) -> None:
            seen.append(problem.num_columns)

        def iterates(self, problem, state, b, generator):  # type: ignore[no-untyped-def]
            seen.append(problem.num_columns)
            yield Iterate(torch.zeros_like(b))

    problem = dense_problem(random_psd_examples(10, 4, seed=0), 0.1, columns=5)
    assert solve(problem, Looks(), columns=slice(1, 3)).error is not None
    assert seen == [2, 2, 2]
