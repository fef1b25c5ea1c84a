"""CG with EK-FAC and with Nyström, as `auto` looks into them."""

from __future__ import annotations

import math

from problems.operators.layers import find_layers
from problems.operators.network import NetworkOperator
from solvers.candidate import AFFORDABLE, FAIR, PROMISING, Candidate, Look, krylov, not_worth_it
from solvers.cg import ConjugateGradient
from solvers.ekfac import EKFAC
from solvers.krylov_pilot import FEWEST_STEPS, KrylovPilot
from solvers.nystrom import Nystrom
from solvers.solver import Breakdown
from solvers.survey import PRECONDITIONED_BLOCK, SMALLEST, Survey

# Ranks that are considered are powers of 2, from 8 to 256.
RANKS = [2**power for power in range(3, 9)]


def _cost_of_ekfac(survey: Survey) -> float:
    return _cost(survey, _ekfac_setup(survey))


def _ekfac(survey: Survey, best: float) -> list[Candidate]:
    """CG with EK-FAC, its factors made from sampled labels: as good, for a third of the work."""
    return _preconditioned(survey, "ekfac(labels=sampled)", _ekfac_setup(survey), best)


def _ekfac_setup(survey: Survey) -> float:
    """Gradients for the factors, for the eigenvalues and to rotate them; the factors' eigenvectors."""
    if EKFAC(labels="sampled").skip(survey.sample) is not None:
        return math.inf
    operator = survey.sample.operator
    assert isinstance(operator, NetworkOperator)
    sizes = [(each.outputs, each.columns) for each in find_layers(operator.function).layers]
    return 3 * survey.share + survey.algebra(sum(10 * (out**3 + into**3) for out, into in sizes))


def _cost_of_nystrom(survey: Survey) -> float:
    _, rank = _nystrom_choice(survey)
    return _cost(survey, _nystrom_setup(survey, rank))


def _nystrom(survey: Survey, best: float) -> list[Candidate]:
    """CG with Nyström, of the rank that promises the least work."""
    least, rank = _nystrom_choice(survey)
    if PROMISING * least > best:
        return not_worth_it(survey)
    return _preconditioned(survey, f"nystrom(rank={rank})", _nystrom_setup(survey, rank), best)


def _nystrom_choice(survey: Survey) -> tuple[float, int]:
    """The least work, and its rank; ∞ where no rank fits."""
    size = survey.problem.size
    choices = [rank for rank in RANKS if rank <= size and Nystrom(rank).skip(survey.sample) is None]
    return min(((_nystrom_work(survey, rank), rank) for rank in choices), default=(math.inf, 0))


def _nystrom_setup(survey: Survey, rank: int) -> float:
    return survey.share * (1 + 4 * rank) / 3 + survey.algebra(6 * survey.problem.size * rank**2)


def _nystrom_work(survey: Survey, rank: int) -> float:
    """Set-up, and steps by CG's bound for κ = 1 + 2σ_r/λ, σ_r as CG's Ritz values show it."""
    values = survey.ritz.clamp_min(0)
    half = max(1, len(values) // 2)
    if rank < half:
        left = float(values[rank])
    else:
        # The decay of the first half goes on: the smaller Ritz values have not converged.
        first, middle = float(values[0]), float(values[min(half, len(values) - 1)])
        exponent = math.log(first / middle) / math.log(half + 1) if middle > 0 else math.inf
        left = first * (rank + 1.0) ** -exponent
    condition = 1 + 2 * left / survey.problem.damping
    steps = max(FEWEST_STEPS, 0.5 * math.sqrt(condition) * math.log(2 / survey.target))
    return _nystrom_setup(survey, rank) + survey.steps(steps, PRECONDITIONED_BLOCK) * survey.step()


def _cost(survey: Survey, setup: float) -> float:
    """Of a look: the set-up and some steps with one column."""
    return setup + FEWEST_STEPS * survey.look


def _preconditioned(survey: Survey, name: str, setup: float, best: float) -> list[Candidate]:
    """CG with the preconditioner `name`, its set-up expected to cost `setup`, if it may be worth it."""
    least = setup + FEWEST_STEPS * survey.step()
    if PROMISING * least > best or AFFORDABLE * _cost(survey, setup) > best:
        return not_worth_it(survey)
    try:
        if name not in survey.pilots:
            alone = ConjugateGradient(SMALLEST, name)
            state, spent = survey.prepare(alone)
            survey.pilots[name] = state, spent, KrylovPilot(survey, alone, state)
        state, spent, pilot = survey.pilots[name]
        step = survey.step(state.multiplications)
        most = math.inf if survey.solved else FAIR * survey.pilot_work
        piloted = pilot.run(PRECONDITIONED_BLOCK, step, best - spent, most)
    except Breakdown as reason:
        survey.facts[name] = str(reason)
        return []
    if piloted is None:
        return []
    work = spent + survey.steps(piloted.steps, PRECONDITIONED_BLOCK) * step
    return [krylov(survey, name, piloted, work, "the same on one right-hand side", state, spent)]


PRECONDITIONED = (Look(_cost_of_ekfac, _ekfac), Look(_cost_of_nystrom, _nystrom))
