"""A solver on a problem: what all checks share."""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from pathlib import Path

import torch

from bench.conformance.offers import offered_by
from bench.conformance.outcome import Failure, NotApplicable, TooLong
from bench.conformance.place import place_in
from bench.conformance.trials import Trial
from bench.limit import MOST_SECONDS, restart
from problems import Problem
from problems.discovery import file_of
from solvers import Example, Solution, Solver, Status, solve

# No example of a small problem takes so many steps: a solver that does will not end by itself.
MOST_STEPS = 25_000
# So small that the answers of two runs can be told apart only by rounding, and reached in float64.
TIGHT = 1e-10
# Solvers that draw nothing, or the same, agree this far: rounding of small problems.
ROUNDING = 1e-8


class Subject:
    """A solver class on a trial, each solve limited. What was solved once is kept for later checks."""

    def __init__(self, solver: type[Solver], trial: Trial, max_seconds: float = MOST_SECONDS) -> None:
        self.solver = solver
        self.trial = trial
        self.max_seconds = max_seconds
        self._offered: dict[Problem, list[Example]] = {}
        self._with_tolerance: dict[tuple[int, float], Solver] = {}
        # Beside each solution the settings, so that the id they are known by is not given to others.
        self._solved: dict[tuple[object, ...], tuple[Solver, Solution]] = {}

    @property
    def problem(self) -> Problem:
        """The trial's problem in float64."""
        return self.trial.problem()

    @property
    def file(self) -> Path:
        """The file of the plug-in."""
        return file_of(self.solver)

    def offered(self, problem: Problem) -> list[Example]:
        """What `examples` offers for `problem`; Failure where that is nothing to try."""
        if problem not in self._offered:
            found = offered_by(self.solver, Solver, Example, "Example(solver, relative_error)", problem)
            for each in found:
                _check_example(each)
            self._offered[problem] = found
        return self._offered[problem]

    def examples(self, problem: Problem) -> list[Example]:
        """Of those offered the ones that run on `problem`; NotApplicable where all skip it."""
        found = self.offered(problem)
        runnable = [example for example in found if not example.solver.skip(problem)]
        if not runnable:
            raise NotApplicable(f"the solver skips it: {found[0].solver.skip(problem)}")
        return runnable

    def varied(self, problem: Problem) -> list[Example]:
        """Those of `examples` for which the trial's problem is to be varied."""
        found = self.examples(problem)
        if self.trial.beside is None:
            return found
        other = self.trial.beside
        left = [example for example in found if example.solver.skip(other.problem())]
        if not left:
            raise NotApplicable(f"all its settings run on {other.name}, which is varied in their place")
        return left

    def with_tolerance(self, solver: Solver, tolerance: float) -> Solver:
        """`solver` with another tolerance; itself where it promises none."""
        if solver.promised_tolerance is None:
            return solver
        key = (id(solver), tolerance)
        if key not in self._with_tolerance:
            self._with_tolerance[key] = replace(solver, tolerance=tolerance)  # type: ignore[call-arg]
        return self._with_tolerance[key]

    def solve(
        self,
        problem: Problem,
        solver: Solver,
        *,
        seed: int = 0,
        columns: slice | None = None,
        max_steps: int | None = None,
        anew: bool = False,
    ) -> Solution:
        """The solution, from what was kept unless `anew`; Failure where the solver ended with an error.

        TooLong where it had to be stopped.
        """
        key = (problem, id(solver), seed, str(columns), max_steps)
        if anew:
            # Products are replayed once they were recorded; two runs that are compared must start alike.
            problem.operator.forget()
        if anew or key not in self._solved:
            most = max_steps or MOST_STEPS
            restart()
            solution = solve(
                problem, solver, seed=seed, columns=columns, max_steps=most, max_seconds=self.max_seconds
            )
            self._solved[key] = (solver, solution)
        solution = self._solved[key][1]
        if solution.status is Status.FAILED:
            raise Failure(f"{solver} raised {solution.reason}{place_in(solution.traceback, self.file)}")
        if solution.solve_seconds >= self.max_seconds:
            raise TooLong(
                f"{solver} was still going after {self.max_seconds:g} s and {solution.steps} steps: return "
                "from `iterates` when every column has converged, or after a number of steps"
            )
        if not solution.reason:
            raise Failure(f"{solver} ended {solution.status} and does not say why: give Breakdown a message")
        return solution

    def answered(self, problem: Problem, solver: Solver, **options: int) -> Solution:
        """The solution; Failure where there is no usable one, or the solver did not end by itself."""
        solution = self.solve(problem, solver, **options)  # type: ignore[arg-type]
        if not solution.usable:
            raise Failure(f"{solver} ended {solution.status}: {solution.reason}")
        if solution.steps >= MOST_STEPS:
            raise Failure(
                f"{solver} was still going after {MOST_STEPS} steps: return from `iterates` when every "
                "column has converged, or after a number of steps"
            )
        return solution

    def claim(self, problem: Problem, example: Example) -> float | None:
        """The relative error that `example` claims, more where rounding in the problem's dtype forces it."""
        if example.relative_error is None:
            return None
        if problem.operator.dtype == torch.float64:
            return example.relative_error * (1 + 1e-9)
        assert problem.condition_number is not None
        return example.relative_error + 10 * problem.condition_number * 1e-7

    def draws(self, problem: Problem, solver: Solver) -> bool:
        """Whether its answer depends on the seed."""
        one, other = (self.answered(problem, solver, seed=seed) for seed in (0, 1))
        assert one.x is not None
        assert other.x is not None
        return not torch.equal(one.x, other.x)


def _check_example(example: Example) -> None:
    solver, claim = example.solver, example.relative_error
    if not isinstance(solver, Solver):
        raise Failure(
            f"`examples` offers Example({solver!r}, ...): its first part must be a solver, Name(...)"
        )
    if claim is not None and not (isinstance(claim, Real | torch.Tensor) and claim >= 0):
        raise Failure(f"`examples` claims the relative error {claim!r}: it must be a number ≥ 0, or None")
