"""A solver that `auto` may choose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from solvers.block_cg import BlockConjugateGradient
from solvers.cg import ConjugateGradient
from solvers.preconditioner import NONE
from solvers.solver import Solver, State
from solvers.survey import Piloted, Survey

# Another solver is looked into where it might cost less than the best one known over this,
PROMISING = 1.5
# and where the look costs no more than the best one known over this.
AFFORDABLE = 2.0
# CG that seems to be beaten is followed until its pilot has cost the rival's work over this, and no other
# solver's pilot costs more than so many times CG's while CG is not there.
FAIR = 4.0
# What holds of one column holds of others within so much.
MARGIN = 0.8
# A recurrence's residual is the true one where it is so many roundings times κ.
FAR_FROM_ROUNDING = 100.0


@dataclass(frozen=True)
class Candidate:
    """A solver that would reach the target; `work` is predicted of all it costs, `spent` what it has cost.

    `basis` says what the prediction rests on. `state` is what its `prepare` returned, if it is `prepared`;
    `answer` is there where the pilot found it. A Krylov solver is done where all residuals are within its
    tolerance: those of its own recurrence where it is `trusted`, since rounding is far below or the error
    can be seen.
    """

    solver: Solver
    work: float
    basis: str
    state: State = None
    prepared: bool = False
    spent: float = 0.0
    trusted: bool = False
    answer: Tensor | None = None

    def __str__(self) -> str:
        return str(self.solver)


class NotYet(Exception):
    """A look has cost what it may, or does not seem to be worth it, while what CG needs is not known."""


def not_worth_it(survey: Survey) -> list[Candidate]:
    """No candidate; NotYet while what CG needs is not known."""
    if not survey.solved:
        raise NotYet
    return []


@dataclass(frozen=True)
class Look:
    """What is to be found out of another solver: what that costs, and how, given the best work known.

    `take` may raise NotYet, to be asked again when CG's pilot has gone on.
    """

    cost: Callable[[Survey], float]
    take: Callable[[Survey, float], list[Candidate]]


def krylov(
    survey: Survey,
    preconditioner: str,
    now: Piloted,
    work: float,
    basis: str,
    state: State = None,
    spent: float = 0.0,
) -> Candidate:
    """CG, a block of columns together where there are several, to the residual that one column had."""
    # ‖e‖ ≤ ‖r‖/λ and ‖x‖ ≥ ‖b‖/(λ_max + λ): no column needs less than the target over κ. CG's residual may
    # be large while its error is small, on one column and not on another.
    enough = min(survey.target, max(now.residual, survey.target / survey.condition))
    tolerance = rounded_down(MARGIN * enough)
    solver: Solver = ConjugateGradient(tolerance, preconditioner)
    if survey.columns > 1:
        solver = BlockConjugateGradient(tolerance, preconditioner)
    rounding = survey.condition * torch.finfo(survey.b.dtype).eps
    trusted = survey.sees_errors or tolerance > FAR_FROM_ROUNDING * rounding
    if not trusted:
        work += survey.product
    return Candidate(solver, work, basis, state, preconditioner != NONE, spent, trusted)


def rounded_down(value: float) -> float:
    """Two digits are enough for a tolerance."""
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / scale) * scale:.2g}")
