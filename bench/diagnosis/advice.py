"""What to warn of, and which solver to recommend."""

from __future__ import annotations

import math
import shlex

import torch

from bench.diagnosis import predicted_solvers as predicted
from bench.diagnosis.predicted_solvers import PredictedSolver
from bench.diagnosis.result import Recommendation
from problems import Problem
from problems.specification import parse
from problems.spectrum import Spectrum
from reports.formats import number

# Where one example carries more of Tr(H), it is named.
DOMINANT_SHARE = 0.05
# Less than so many times the mean's trace is none out of the ordinary.
UNLIKE = 2.0
HETEROGENEOUS = 5.0
# R is found as a lower bound, and with λ beside H.
NEAR = 0.4


def order(row: PredictedSolver) -> tuple[int, float]:
    """Those that reach the target by work, then those of which that is not known, the rest by error."""
    if row.reaches or row.reaches is None:
        return (0 if row.reaches else 1), math.inf if row.work is None else row.work
    return 2, math.inf if row.error is None else row.error


def recommend(rows: list[PredictedSolver], definite: bool, target: float, command: str) -> Recommendation:
    """The first row: the cheapest that is predicted to reach the target."""
    best = rows[0]
    if not definite:
        why = "MINRES is the solver here that does not need H + λI to be positive definite."
    else:
        why = (
            f"{best.name} is predicted to reach {target:g} for {_work(best)} gradient equivalents "
            f"({best.basis})"
        )
        others = [row for row in rows[1:] if row.reaches and row.work is not None]
        if others:
            why += f"; next is {others[0].name} with {_work(others[0])}"
        tuned = next(row for row in rows if row.name == predicted.TUNED)
        if tuned.reaches is False:
            why += f"; {tuned.name} is not predicted to get there"
        elif tuned is not best and tuned not in others[:1]:
            why += f"; {tuned.name} {_work(tuned)}"
        why += "."
    name, _, settings = best.specification.partition(":")
    arguments = (
        "".join(f", {key}={value!r}" for key, value in parse(best.specification).settings.items())
        if settings
        else ""
    )
    return Recommendation(
        name,
        best.specification,
        f"{command} -s {shlex.quote(best.specification)}",
        f'solvers.solve(problem, solvers.load("{name}"{arguments}))',
        why,
    )


def _work(row: PredictedSolver) -> str:
    return number(math.nan if row.work is None else row.work)


def of_examples(spectrum: Spectrum, example: int | None, draws: int) -> list[str]:
    """What to say where a single one of `draws` examples, or sequences, carries much of H."""
    unequal = spectrum.heterogeneity
    if unequal is None:
        return []
    ratio = unequal.ratio.value
    share = ratio / draws
    constant = spectrum.noise_constant.value.value if spectrum.noise_constant else 0.0
    # R ≤ max λ_max(h_i) ≤ max Tr(h_i) = C Tr(H): near it, that one example makes the noise.
    rules = ratio >= HETEROGENEOUS and constant >= NEAR * ratio * spectrum.trace.value
    # Of a few examples each carries much.
    if (share <= DOMINANT_SHARE or ratio < UNLIKE) and not rules:
        return []
    draw = "sequence" if spectrum.unit == "token" else "example"
    return [
        f"{draw} {example} carries {100 * share:.2g} % of Tr(H), {ratio:.3g} times the mean: mini-batches "
        "without it miss that curvature, those with it have too much. Look at it; LiSSA needs small steps or "
        "large batches here"
    ]


def indefinite(lowest: float, residual: float, damping: float, definite: bool) -> str:
    """What to say of an H that need not be ⪰ 0, from its smallest Ritz value and its residual."""
    text = (
        f"H is indefinite: it has an eigenvalue of at most {lowest:.3g}"
        if lowest < 0
        else f"H need not be positive semidefinite; its smallest Ritz value is {lowest:.3g}"
    )
    # Where the Ritz value stands, an eigenvalue lies within its residual.
    safe = max(0.0, residual - lowest)
    if definite:
        return f"{text}; λ = {damping:g} makes H + λI positive definite, as far as Lanczos has come"
    remedy = f"raise damping above {safe:.2g}, use the Gauss–Newton matrix (curvature=ggn), or MINRES"
    if lowest + damping <= 0:
        return f"{text}, so H + λI with λ = {damping:g} is not positive definite; LiSSA and CG fail: {remedy}"
    return f"{text}; whether H + λI with λ = {damping:g} is positive definite is not certain: {remedy}"


def of_rounding(problem: Problem, spectrum: Spectrum, recommendation: Recommendation) -> list[str]:
    """CG's residual stops near rounding times κ."""
    tolerance = parse(recommendation.specification).settings.get("tolerance")
    if recommendation.solver != "cg" or tolerance is None:
        return []
    rounding = (
        torch.finfo(problem.operator.dtype).eps * (spectrum.largest + problem.damping) / problem.damping
    )
    if tolerance > rounding:
        return []
    return [
        f"rounding may stop CG's residual near {rounding:.1g}, above the tolerance {tolerance:g}: use "
        "float64 or raise damping"
    ]
