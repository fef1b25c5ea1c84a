"""The solvers that `auto` chooses from, each with the work that is predicted of it."""

from __future__ import annotations

import contextlib
import math

from problems.work import BACKWARD_COST
from solvers import pilot as pilots
from solvers.candidate import (
    AFFORDABLE,
    FAIR,
    MARGIN,
    Candidate,
    Look,
    NotYet,
    krylov,
    not_worth_it,
    rounded_down,
)
from solvers.cg import ConjugateGradient
from solvers.diagonal import Diagonal
from solvers.exact import Exact
from solvers.identity import Identity
from solvers.krylov_pilot import KrylovPilot
from solvers.lissa import LiSSA
from solvers.measured import MOST_PRODUCTS, NOISE_STEPS
from solvers.minres import MINRES
from solvers.preconditioned_candidates import PRECONDITIONED
from solvers.preconditioner import NONE
from solvers.solver import Breakdown, Divergence
from solvers.survey import BLOCK, FIRST_LOOK, SMALLEST, Piloted, Survey
from solvers.tuning import Wanted, make_plan

# (diag H + λ)⁻¹b is looked at where b/λ is no more than so far off.
CLOSE = 0.5
# It has no residual to be watched, and other columns may be twice as far off.
DIRECT = 0.5


def ranked(survey: Survey) -> list[Candidate]:
    """All that were found to lead to the target, by the work that is still to be done."""
    try:
        found = _definite(survey)
    except Breakdown as reason:
        survey.facts["indefinite"] = str(reason)
        found = []
    found += _exact(survey)
    if not survey.problem.operator.is_psd:
        # What CG has not met on one column it may on another.
        found += _minres(survey, min((each.work for each in found), default=math.inf))
    return sorted(found, key=lambda each: each.work - each.spent)


def _definite(survey: Survey) -> list[Candidate]:
    """CG, and whatever may be worth a look beside it. Breakdown where H + λI is not positive definite.

    A look is taken once CG's own pilot has cost as much: until then what CG needs is not known well.
    """
    plain = survey.conjugate_gradients()
    now = next(plain)
    if survey.alone and now.reached:
        return [_plain(survey, now)]
    known = _exact(survey)
    found: list[Candidate] = []
    looks = [Look(_only_once_solved, _without_products), *PRECONDITIONED, Look(_cost_of_lissa, _lissa)]
    while True:
        for look in tuple(looks):
            if now.reached or look.cost(survey) <= survey.pilot_work:
                best = min(each.work for each in [_plain(survey, now), *known, *found])
                with contextlib.suppress(NotYet):
                    found += look.take(survey, best)
                    looks.remove(look)
        rival = min((each.work - each.spent for each in [*found, *known]), default=math.inf)
        beaten = _plain(survey, now).work > rival and FAIR * survey.pilot_work > rival
        if now.reached or beaten:
            return [_plain(survey, now), *found]
        now = next(plain)


def _plain(survey: Survey, now: Piloted) -> Candidate:
    """CG, as its pilot has come so far; where that was all there is to solve, with its answer."""
    basis = "CG on one right-hand side" + ("" if now.reached else ", extrapolated")
    if survey.alone and now.reached:
        spent, solver = survey.pilot_work, ConjugateGradient(rounded_down(now.residual))
        return Candidate(solver, spent, basis, prepared=True, spent=spent, answer=survey.reference)
    return krylov(survey, NONE, now, survey.steps(now.steps, BLOCK) * survey.step(), basis)


def _without_products(survey: Survey, best: float) -> list[Candidate]:
    """b/λ, and (diag H + λ)⁻¹b, whose error is known where CG has solved one column."""
    if survey.reference is None:
        return []
    # ‖b/λ − x‖ = ‖Hx‖/λ, whatever b is.
    if survey.facts["largest_eigenvalue"] <= MARGIN * survey.target * survey.problem.damping:
        return [Candidate(Identity(), 0.0, "λ_max/λ, which bounds its error", prepared=True)]
    if survey.error(survey.column / survey.problem.damping) > CLOSE:
        return []
    # Of a bare matrix the diagonal is there, and counts as a gradient.
    rank = survey.sample.operator.root_rank if survey.problem.task else 1
    work = survey.share * (BACKWARD_COST.shared + BACKWARD_COST.per_column * rank) / 3
    if not rank or AFFORDABLE * work > best:
        return []
    solver = Diagonal()
    state, spent = survey.prepare(solver)
    if survey.error(state.solve(survey.column)) > DIRECT * survey.target:
        return []
    return [Candidate(solver, spent, "its error on one right-hand side", state, prepared=True, spent=spent)]


def _only_once_solved(survey: Survey) -> float:
    return math.inf


def _cost_of_lissa(survey: Survey) -> float:
    return (min(MOST_PRODUCTS, survey.problem.size) + 3 * NOISE_STEPS) * survey.look


def _lissa(survey: Survey, best: float) -> list[Candidate]:
    """LiSSA with settings of its own choice, where what they are measured by is cheap beside the rest."""
    operator = survey.problem.operator
    if AFFORDABLE * _cost_of_lissa(survey) > best:
        return not_worth_it(survey)
    solver = LiSSA(target=survey.target)
    try:
        state, spent = survey.prepare(solver, survey.problem)
        sides = pilots.pilot(
            survey.sample.operator,
            state.measured.operator,
            survey.problem.damping,
            state.measured.margin,
            survey.column,
            survey.generator,
            "rhs",
        )
        if sides.unseen > pilots.UNSEEN:
            return []
        plan = make_plan(state.measured, sides, Wanted(survey.target, None, None, None), operator)
    except (Breakdown, Divergence) as reason:
        survey.facts["lissa"] = str(reason)
        return []
    # On all data CG is faster.
    if plan.schedule.batch_size is None:
        return []
    work = spent + (FIRST_LOOK * survey.share + plan.epochs) * survey.product
    return [Candidate(solver, work, "b's spectral measure", state, prepared=True, spent=spent)]


def _minres(survey: Survey, best: float) -> list[Candidate]:
    """MINRES, which needs no H + λI ≻ 0; where CG has not failed as a last resort, to a residual alone."""
    to_a_residual = MINRES(rounded_down(survey.target / 10))
    last = Candidate(to_a_residual, math.inf, "a residual, of which no error is known")
    if "indefinite" not in survey.facts:
        return [last]
    try:
        piloted = KrylovPilot(survey, MINRES(SMALLEST), None).run(0.0, survey.product, best)
    except Breakdown as reason:
        survey.facts["minres"] = str(reason)
        return [last]
    if piloted is None:
        return [last]
    solver = MINRES(rounded_down(MARGIN * piloted.residual))
    work, basis = piloted.steps * survey.product, "MINRES on one right-hand side"
    return [Candidate(solver, work, basis, trusted=survey.sees_errors)]


def _exact(survey: Survey) -> list[Candidate]:
    """The exact solve, where it fits."""
    solver = Exact("auto" if survey.problem.operator.is_psd else "eigen")
    way = solver.chosen(survey.problem) if solver.skip(survey.problem) is None else None
    return [] if way is None else [Candidate(solver, way.work, "count")]
