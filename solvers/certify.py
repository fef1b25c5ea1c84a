"""A reference for problems too large for a dense one: CG until its error is certainly small."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from problems import Problem
from problems.ground_truth import Certified
from solvers.cg import ConjugateGradient
from solvers.solver import Breakdown, check_positive

# Below this no residual falls in the problem's own precision, times ‖b‖.
LEAST_RESIDUAL = {torch.float32: 1e-6, torch.float64: 1e-12}


def certify(
    problem: Problem,
    *,
    error: float = 2e-3,
    max_work: float = math.inf,
    on_step: Callable[[int, float], None] | None = None,
) -> Problem:
    """The problem with a reference by CG whose relative error is at most `error` in every column.

    Certain because ‖x − x*‖ ≤ ‖r‖/λ for every H ⪰ 0, r being the residual, recomputed at the end. The problem
    itself where p allows a dense reference, where H is not known to be ⪰ 0, and where `max_work` gradient
    equivalents, or the precision, do not suffice. `on_step` is told of the step and of the bound so far.
    """
    check_positive(error=error)
    if problem.is_dense or problem.certified is not None or not problem.operator.is_psd:
        return problem
    b = problem.columns()
    work, spent = problem.operator.work, problem.operator.work.passes
    solver = ConjugateGradient(LEAST_RESIDUAL[problem.operator.dtype])
    scale = b.norm(dim=0)
    try:
        exact = replace(problem, operator=problem.operator.exact)
        for step, iterate in enumerate(solver.iterates(exact, None, b, torch.Generator()), 1):
            assert iterate.residual is not None
            bound = error_bound(iterate.residual * scale, iterate.x, problem.damping)
            if on_step:
                on_step(step, bound)
            if bound <= error / 2 or bool(iterate.converged is not None and iterate.converged.all()):
                break
            if work.equivalents(work.passes - spent) > max_work:
                return problem
    except Breakdown:
        return problem
    x = iterate.x
    residual = problem.residual(x, b)
    bound = error_bound(residual * scale, x, problem.damping)
    if not bound <= error:
        return problem
    return replace(problem, certified=Certified(x.double(), bound, float(residual.max())))


def error_bound(residuals: Tensor, x: Tensor, smallest: float) -> float:
    """‖x − x*‖/‖x*‖ at most, worst column, of ‖b − (H + λI)x‖ (k,) where H + λI ⪰ `smallest` · I.

    ∞ while nothing is known of ‖x*‖.
    """
    off = residuals.double() / smallest
    least = x.double().norm(dim=0) - off
    bounds = torch.where(off > 0, off / least.where(least > 0, 0), 0.0)
    return float(bounds.max())
