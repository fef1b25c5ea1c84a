"""The solver that a study's text names, and its answer."""

from __future__ import annotations

import solvers
from bench.study import OnProgress
from problems import Problem
from problems.specification import parse
from solvers import Record, Solution, Solver


def solver_of(text: str) -> Solver:
    """The solver that `text` names as on the command line; ValueError where there is none such."""
    asked = parse(text)
    return solvers.load(asked.name, **asked.settings)


def answer_of(
    text: str, problem: Problem, seed: int, on_progress: OnProgress, *, compare: bool = False
) -> Solution:
    """What the solver that `text` names makes of the problem; RuntimeError where it gives no answer.

    Its error is known where it is to `compare` with the problem's reference, if there is one.
    """

    def show(record: Record) -> None:
        told = "" if record.residual is None else f", residual {record.residual:.1e}"
        on_progress(f"{text}, step {record.step}{told}", 0)

    solution = solvers.solve(problem, solver_of(text), seed=seed, compare=compare, on_record=show)
    if not solution.usable:
        raise RuntimeError(
            f"{text} gave no answer at λ = {problem.damping:g} ({solution.status}): {solution.reason}"
        )
    assert solution.x is not None
    return solution
