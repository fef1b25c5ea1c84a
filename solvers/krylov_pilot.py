"""A Krylov solver on one right-hand side: after how many steps, and at which residual, it is there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from solvers.candidate import MARGIN, NotYet
from solvers.solver import Solver, State
from solvers.survey import Piloted, Survey, distance

# Steps that the best of preconditioners leaves.
FEWEST_STEPS = 3
# Iterates of a pilot that are kept, by which its earlier errors are known.
KEPT = 48
# What has moved by less than this share of the target in the last third of its steps has arrived.
STILL = 0.3


class KrylovPilot:
    """`solver` on one column, on the sample; it goes on from where it was left.

    Where the column's solution is not known it is what the iterates come to rest at.
    """

    def __init__(self, survey: Survey, solver: Solver, state: State) -> None:
        self.survey = survey
        self.work = 0.0
        self._found = solver.iterates(survey.sample, state, survey.column, survey.generator)
        self._step = 0
        self._kept: dict[int, tuple[Tensor, float]] = {0: (torch.zeros_like(survey.column), 1.0)}

    def run(self, power: float, step_work: float, best: float, most: float = math.inf) -> Piloted | None:
        """How it leads to the target; None where all columns would cost more than `best`.

        They take the steps of one times their number to the `power`, each at `step_work`. NotYet when it has
        cost `most`, or all would cost more than a `best` that is extrapolated, as while `most` is finite.
        """
        survey = self.survey
        while not self._is_there():
            if survey.steps(self._step, power) * step_work > best:
                if math.isfinite(most):
                    raise NotYet
                return None
            if self.work > most:
                raise NotYet
            if not self._advance():
                break
        last, (x, _) = max(self._kept.items())
        if survey.reference is None:
            survey.reference = x
        near = [step for step, (x, _) in self._kept.items() if survey.error(x) <= MARGIN * survey.target]
        # Of a solution that was known the last is the first that is near.
        there = min(near, default=last)
        return Piloted(there, self._kept[there][1], reached=True) if near else None

    def _advance(self) -> bool:
        """Make a step; False where there are no more."""
        begin = self.survey.work.passes
        iterate = next(self._found, None)
        self.work += self.survey.work.equivalents(self.survey.work.passes - begin)
        if iterate is None:
            return False
        assert iterate.residual is not None
        self._step += 1
        kept = list(self._kept.items())[:: 2 if len(self._kept) == KEPT else 1]
        self._kept = dict(kept) | {self._step: (iterate.x.clone(), float(iterate.residual))}
        return True

    def _is_there(self) -> bool:
        x = self._kept[self._step][0]
        if self.survey.reference is not None:
            return self.survey.error(x) <= MARGIN * self.survey.target
        if self._step < FEWEST_STEPS:
            return False
        before = max(step for step in self._kept if 3 * step <= 2 * self._step)
        return distance(self._kept[before][0], x) <= STILL * self.survey.target
