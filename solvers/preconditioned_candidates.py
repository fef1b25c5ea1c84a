"""CG with EK-FAC and with Nyström, as `auto` looks into them."""

from __future__ import annotations

import math

from problems.operators.layers import find_layers
from problems.operators.network import NetworkOperator
from solvers.candidate import AFFORDABLE, PROMISING, Candidate, krylov
from solvers.cg import ConjugateGradient
from solvers.ekfac import EKFAC
from solvers.krylov_pilot import FEWEST_STEPS, pilot
from solvers.nystrom import Nystrom
from solvers.solver import Breakdown
from solvers.survey import PRECONDITIONED_BLOCK, SMALLEST, Survey

# Ranks that are considered are powers of 2, from 8 to 256.
RANKS = [2**power for power in range(3, 9)]


def ekfac(survey: Survey, best: float) -> list[Candidate]:
    """CG with EK-FAC, its factors made from sampled labels: as good, for a third of the work."""
    operator = survey.sample.operator
    if EKFAC(labels="sampled").skip(survey.sample) is not None:
        return []
    assert isinstance(operator, NetworkOperator)
    sizes = [(each.outputs, each.columns) for each in find_layers(operator.function).layers]
    # Gradients for the factors, for the eigenvalues and to rotate them; and the factors' eigenvectors.
    setup = 3 * survey.share + survey.algebra(sum(10 * (out**3 + into**3) for out, into in sizes))
    return _preconditioned(survey, "ekfac(labels=sampled)", setup, best)


def nystrom(survey: Survey, best: float) -> list[Candidate]:
    """CG with Nyström, of the rank that promises the least work."""
    size = survey.problem.size
    choices = [rank for rank in RANKS if rank <= size and Nystrom(rank).skip(survey.sample) is None]
    least, rank = min(((_nystrom_work(survey, rank), rank) for rank in choices), default=(math.inf, 0))
    if PROMISING * least > best:
        return []
    return _preconditioned(survey, f"nystrom(rank={rank})", _nystrom_setup(survey, rank), best)


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


def _preconditioned(survey: Survey, name: str, setup: float, best: float) -> list[Candidate]:
    """CG with the preconditioner `name`, its set-up expected to cost `setup`, if it may be worth it."""
    least = setup + FEWEST_STEPS * survey.step()
    if PROMISING * least > best or AFFORDABLE * (setup + FEWEST_STEPS * survey.look) > best:
        return []
    alone = ConjugateGradient(SMALLEST, name)
    try:
        state, spent = survey.prepare(alone)
        step = survey.step(state.multiplications)
        piloted = pilot(survey, alone, state, PRECONDITIONED_BLOCK, step, best - spent)
    except Breakdown as reason:
        survey.facts[name] = str(reason)
        return []
    if piloted is None:
        return []
    work = spent + survey.steps(piloted.steps, PRECONDITIONED_BLOCK) * step
    return [krylov(survey, name, piloted, work, "the same on one right-hand side", state, spent)]
