"""A reference for what a study compares, indefinite Hessians included."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.study import OnProgress
from problems import Problem
from problems.ground_truth import Certified
from problems.spectrum.lanczos import extreme_eigenvalues
from solvers import Breakdown
from solvers.certify import LEAST_RESIDUAL, certify, error_bound
from solvers.minres import MINRES

LANCZOS_PRODUCTS = 60


def with_reference(problem: Problem, on_progress: OnProgress, *, error: float) -> Problem:
    """The problem with a reference whose relative error is at most `error`, or ValueError saying why not.

    Dense where p allows; by CG with a certain bound for H ⪰ 0. Of a Hessian too large for either by MINRES,
    where Lanczos finds H + λI positive definite: its bound, ‖r‖/(λ_min + λ), is as good as that λ_min.
    """

    def show(step: int, bound: float) -> None:
        on_progress(f"reference, step {step}, error ≤ {bound:.1e}", 0)

    if problem.is_dense:
        on_progress("reference", 0)
        return problem
    found = certify(problem, error=error, on_step=show)
    if found.certified is None and not problem.operator.is_psd:
        found = _by_minres(problem, on_progress, error)
    if found.certified is None:
        raise ValueError(
            f"no reference within {error:g} can be had for p = {problem.size} in "
            f"{str(problem.operator.dtype).removeprefix('torch.')}: raise damping, or use a smaller problem"
        )
    return found


def _by_minres(problem: Problem, on_progress: OnProgress, error: float) -> Problem:
    on_progress("smallest eigenvalue of H", 0)
    exact = replace(problem, operator=problem.operator.exact)
    generator = torch.Generator().manual_seed(0)
    extremes = extreme_eigenvalues(exact.operator, generator, max_products=LANCZOS_PRODUCTS)
    smallest = extremes.smallest.value - extremes.smallest_residual + problem.damping
    if smallest <= 0:
        raise ValueError(
            f"H + λI is indefinite (λ_min + λ = {smallest:.3g}), and p = {problem.size} is too large for a "
            "dense reference: raise damping"
        )
    b = problem.columns()
    scale = b.norm(dim=0)
    solver = MINRES(LEAST_RESIDUAL[problem.operator.dtype])
    try:
        for step, iterate in enumerate(solver.iterates(exact, None, b, torch.Generator()), 1):
            assert iterate.residual is not None
            bound = error_bound(iterate.residual * scale, iterate.x, smallest)
            on_progress(f"reference, step {step}, error ≤ {bound:.1e}", 0)
            if bound <= error / 2:
                break
    except Breakdown:
        return problem
    residuals = problem.residual(iterate.x, b)
    bound = error_bound(residuals * scale, iterate.x, smallest)
    if not bound <= error:
        return problem
    return replace(problem, certified=Certified(iterate.x.double(), bound, float(residuals.max())))
