"""A Krylov solver on one right-hand side: after how many steps, and at which residual, it is there."""

from __future__ import annotations

import torch
from torch import Tensor

from solvers.candidate import MARGIN
from solvers.solver import Solver, State
from solvers.survey import Piloted, Survey, distance

# Steps that the best of preconditioners leaves.
FEWEST_STEPS = 3
# Iterates of a pilot that are kept, by which its earlier errors are known.
KEPT = 48
# What has moved by less than this share of the target in the last third of its steps has arrived.
STILL = 0.3


def pilot(
    survey: Survey, solver: Solver, state: State, power: float, step_work: float, best: float
) -> Piloted | None:
    """`solver` on one column, until it is there; None where all of them would cost more than `best`.

    All take the steps of one times their number to the `power`, each at `step_work`. Where the column's
    solution is not known it is what the iterates come to rest at.
    """
    kept: dict[int, tuple[Tensor, float]] = {0: (torch.zeros_like(survey.column), 1.0)}
    found = solver.iterates(survey.sample, state, survey.column, survey.generator)
    for step, iterate in enumerate(found, start=1):
        assert iterate.residual is not None
        x, residual = iterate.x.clone(), float(iterate.residual)
        if survey.reference is not None:
            if survey.error(x) <= MARGIN * survey.target:
                return Piloted(step, residual, reached=True)
        else:
            kept = dict(list(kept.items())[:: 2 if len(kept) == KEPT else 1]) | {step: (x, residual)}
            before = max(each for each in kept if 3 * each <= 2 * step)
            if step >= FEWEST_STEPS and distance(kept[before][0], x) <= STILL * survey.target:
                break
        if survey.steps(step, power) * step_work > best:
            return None
    survey.reference = x
    there = min(each for each, (x, _) in kept.items() if survey.error(x) <= MARGIN * survey.target)
    return Piloted(there, kept[there][1], reached=True)
