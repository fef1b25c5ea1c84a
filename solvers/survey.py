"""What `auto` measures of a problem, and what it predicts of each solver that could take it to the target."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from problems import Problem
from problems.operators.layers import find_layers
from problems.operators.network import NetworkOperator
from problems.scaling import relative_norms
from problems.spectrum.lanczos import Tridiagonal
from problems.work import BACKWARD_COST, JACOBIAN_COST
from solvers import pilot as pilots
from solvers.block_cg import BlockConjugateGradient
from solvers.cg import ConjugateGradient
from solvers.diagonal import Diagonal
from solvers.ekfac import EKFAC
from solvers.exact import Exact
from solvers.identity import Identity
from solvers.krylov_prediction import cg_history, conjugate_gradients, last_error
from solvers.lissa import LiSSA
from solvers.measured import MOST_PRODUCTS, NOISE_STEPS, Measured, sample_of
from solvers.minres import MINRES
from solvers.nystrom import Nystrom
from solvers.preconditioner import NONE
from solvers.solver import Breakdown, Divergence, Solver, State
from solvers.tuning import Wanted, make_plan

# Steps of the first look at a right-hand side, and by how much more each further one goes.
FIRST_LOOK = 12
FURTHER = 1.5
# Its error is estimated at every step, later at one in step/CHECKS.
CHECKS = 16
# More CG steps than a pilot is given.
MOST_STEPS = 1000
# CG on one right-hand side goes on until its error is known to be this share of the target.
ENOUGH = 0.5
# Others have a residual in another ratio to their error: the tolerance is so much less than the one's.
MARGIN = 0.8
# λ_min(H + λI) is taken to be this share of the smallest Ritz value where H is not ⪰ 0.
SHORT = 0.5
# A block's steps over those of one column are k to this power: measured at 0.53 for 4 columns and 0.33 for 16
# where κ is 200 to 5e4, 0.8 for 4 with a preconditioner.
BLOCK, PRECONDITIONED_BLOCK = -0.45, -0.2
# Another solver is looked into where it might cost less than the best one known over this,
PROMISING = 1.5
# and where the look costs no more than the best one known over this.
AFFORDABLE = 2.0
# CG that seems to be beaten is followed until its pilot has cost the rival's work over this.
FAIR = 4.0
# Steps that the best of preconditioners leaves.
FEWEST_STEPS = 3
# P⁻¹b alone is looked into where b/λ is no more than so far off.
CLOSE = 0.5
# Of what has no residual to be watched, other columns may be twice as far off.
DIRECT = 0.5
# A recurrence's residual is the true one where it is so many roundings times κ.
FAR_FROM_ROUNDING = 1e3
# Iterates of a pilot that are kept, by which its earlier errors are known.
KEPT = 48
# Below this share of the target the last iterates of a pilot no longer move.
STILL = 0.3


@dataclass(frozen=True)
class Candidate:
    """A solver that would reach the target; `work` is predicted of all it costs, `spent` what it has cost.

    `state` is what its `prepare` returned, if it is `prepared`; `answer` is there where the pilot found it.
    A Krylov solver is done where all residuals are within its tolerance: those of its own recurrence where
    it is `trusted`, rounding being far below.
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


@dataclass(frozen=True)
class Piloted:
    """CG on one right-hand side, as it leads to the target.

    `steps` are those to the target, known (`reached`) or extrapolated; `residual` is what CG's is there.
    """

    steps: float
    residual: float
    reached: bool


class Survey:
    """Measures a problem with right-hand sides b (p, k), none of them 0, and ranks the solvers.

    All that needs no more than a sample of the data is measured on one: see `sample_of`.
    """

    def __init__(self, problem: Problem, target: float, generator: torch.Generator) -> None:
        self.problem = problem
        self.target = target
        self.generator = generator
        operator = problem.operator
        self.work = operator.work
        sample = sample_of(operator, generator)
        self.share = sample.num_draws / operator.num_draws
        self.sample = problem if sample is operator else replace(problem, operator=sample)
        self.b = problem.columns()
        self.column = self.b[:, :1]
        cost = operator.curvature.cost if isinstance(operator, NetworkOperator) else JACOBIAN_COST
        # Gradient equivalents of a product with all right-hand sides, and with one on the sample.
        self.product = (cost.shared + cost.per_column * self.b.shape[1]) / 3
        self.look = self.share * (cost.shared + cost.per_column) / 3
        self.columns = self.b.shape[1]
        # The solution of the first column, once it is known.
        self.reference: Tensor | None = None
        self.pilot_work = 0.0
        self.facts: dict[str, Any] = {}

    def candidates(self) -> list[Candidate]:
        """All that were found to lead to the target, the cheapest first; the last of them always does."""
        try:
            found = self._definite()
        except Breakdown as reason:
            self.facts["indefinite"] = str(reason)
            found = []
        if not self.problem.operator.is_psd:
            # What CG has not seen on one column it may meet on another.
            found += self._minres()
        found += self._exact()
        return sorted(found, key=lambda each: each.work - each.spent)

    def estimated_error(self, x: Tensor, before: Tensor) -> float | None:
        """The relative error of x (p, k), worst column, from how far each has come since `before`.

        What is left of the way is to what was last made of it as it is of the column that is known. None
        where none is, of all data.
        """
        if self.reference is None or self.sample is not self.problem:
            return None
        moved = relative_norms(x - before, x)
        if not float(moved[0]) > 0:
            return None
        return float(moved.max() / moved[0]) * self._error(x[:, :1])

    def _definite(self) -> list[Candidate]:
        plain = self._conjugate_gradients()
        now = next(plain)
        if self.alone and now.reached:
            return [self._plain(now)]
        known = self._exact()
        found: list[Candidate] = []
        for look in (self._without_products, self._ekfac, self._nystrom, self._lissa):
            best = min(each.work for each in [self._plain(now), *known, *found])
            found += look(best)
        # CG's own pilot ends where it has been beaten.
        while not now.reached:
            rival = min((each.work - each.spent for each in [*found, *known]), default=math.inf)
            if self._plain(now).work > rival and FAIR * self.pilot_work > rival:
                break
            now = next(plain)
        return [self._plain(now), *found]

    def _plain(self, now: Piloted) -> Candidate:
        """CG, a block of columns together: steps as the pilot has them, and one product that confirms."""
        basis = "CG on one right-hand side" if now.reached else "CG on one right-hand side, extrapolated"
        if self.alone and now.reached:
            solver = ConjugateGradient(_rounded_down(now.residual))
            spent = self.pilot_work
            return Candidate(solver, spent, basis, None, True, spent, answer=self.reference)
        return self._krylov(NONE, now, self._steps(now.steps, BLOCK) * self._step(), basis)

    def _krylov(
        self,
        preconditioner: str,
        now: Piloted,
        work: float,
        basis: str,
        state: State = None,
        spent: float = 0.0,
    ) -> Candidate:
        """CG, a block of columns together where there are several, with the residual that one column had."""
        tolerance = _rounded_down(MARGIN * now.residual)
        solver: Solver = ConjugateGradient(tolerance, preconditioner)
        if self.columns > 1:
            solver = BlockConjugateGradient(tolerance, preconditioner)
        condition = self.facts["largest_eigenvalue"] / self.problem.damping + 1
        trusted = tolerance > FAR_FROM_ROUNDING * condition * torch.finfo(self.b.dtype).eps
        if not trusted:
            work += self.product
        return Candidate(solver, work, basis, state, preconditioner != NONE, spent, trusted)

    @property
    def alone(self) -> bool:
        """Whether the pilot's one right-hand side, on all data, is all there is to solve."""
        return self.columns == 1 and self.sample is self.problem

    def _conjugate_gradients(self) -> Iterator[Piloted]:
        """CG on one column, looked at after some steps and then at longer and longer intervals."""
        damping = self.problem.damping
        next_look = FIRST_LOOK
        enough = self.target if self.alone else ENOUGH * self.target
        sample = self.sample.operator
        pilot = conjugate_gradients(sample, damping, self.column, MOST_STEPS)
        for step, (x, (found,)) in enumerate(pilot, start=1):  # noqa: B007
            assert found is not None
            smallest = damping if sample.is_psd else SHORT * float(found.measure[0].min())
            self.pilot_work = step * self.look
            # The estimate takes as long as a small product.
            if step % max(1, step // CHECKS) == 0 and last_error(found, smallest) <= enough:
                break
            if step == next_look:
                next_look = math.ceil(FURTHER * next_look)
                yield self._as_piloted(found, smallest, reached=False)
        assert found is not None
        self.reference = x
        # Where rounding ended it, it is as near as CG comes.
        yield self._as_piloted(found, smallest, reached=True)

    def _as_piloted(self, found: Tridiagonal, smallest: float, reached: bool) -> Piloted:
        self.facts |= {
            "largest_eigenvalue": float(found.measure[0].max()) - self.problem.damping,
            "smallest_ritz_value": float(found.measure[0].min()) - self.problem.damping,
            "pilot_steps": len(found.diagonal),
        }
        self.ritz = (found.measure[0] - self.problem.damping).flip(0).clamp_min(0)
        history = cg_history(found, smallest)
        steps = history.steps_to(self.target)
        if steps is None and reached:
            steps = len(history.errors) - 1
        if steps is not None:
            return Piloted(steps, max(float(history.residuals[steps]), 1e-12), reached)
        # CG ends after p steps but for rounding.
        expected = min(history.extrapolated(self.target), self.problem.size)
        rest = float(history.residuals[-1]) * self.target / float(history.errors[-1])
        return Piloted(expected, max(rest, 1e-12), reached)

    def _without_products(self, best: float) -> list[Candidate]:
        """b/λ, and (diag H + λ)⁻¹b, whose error is known where CG has solved one column."""
        if self.reference is None:
            return []
        # ‖b/λ − x‖ = ‖Hx‖/λ, whatever b is.
        if self.facts["largest_eigenvalue"] <= MARGIN * self.target * self.problem.damping:
            return [Candidate(Identity(), 0.0, "λ_max/λ, which bounds its error", None, prepared=True)]
        error = self._error(self.column / self.problem.damping)
        self.facts["identity_error"] = error
        rank = self.sample.operator.root_rank
        work = self.share * (BACKWARD_COST.shared + BACKWARD_COST.per_column * rank) / 3
        if error > CLOSE or not rank or AFFORDABLE * work > best:
            return []
        solver = Diagonal()
        state, spent = self._prepare(solver)
        if self._error(state.solve(self.column)) > DIRECT * self.target:
            return []
        return [
            Candidate(solver, spent, "its error on one right-hand side", state, prepared=True, spent=spent)
        ]

    def _ekfac(self, best: float) -> list[Candidate]:
        """CG with EK-FAC, its factors made from sampled labels: as good, for a third of the work."""
        if EKFAC(labels="sampled").skip(self.sample) is not None:
            return []
        operator = self.sample.operator
        assert isinstance(operator, NetworkOperator)
        layers = find_layers(operator.function).layers
        # Gradients for the factors, for the eigenvalues and to rotate them; and the factors' eigenvectors.
        setup = 3 * self.share + self._algebra(
            sum(10 * (each.outputs**3 + each.columns**3) for each in layers)
        )
        return self._preconditioned("ekfac(labels=sampled)", setup, best)

    def _nystrom(self, best: float) -> list[Candidate]:
        """CG preconditioned by Nyström, of the rank that promises the least work."""
        if Nystrom(rank=1).skip(self.sample) is not None:
            return []
        size = self.problem.size
        choices = [2**power for power in range(3, 9) if 2**power <= size]
        least, rank = min(((self._nystrom_work(rank), rank) for rank in choices), default=(math.inf, 0))
        if PROMISING * least > best:
            return []
        setup = self.share * (1 + 4 * rank) / 3 + self._algebra(6 * size * rank**2)
        return self._preconditioned(f"nystrom(rank={rank})", setup, best)

    def _nystrom_work(self, rank: int) -> float:
        """From σ_r, as CG's Ritz values show it, by the bound of CG with κ = 1 + 2σ_r/λ."""
        values = self.ritz
        if rank < len(values) // 2:
            left = float(values[rank])
        else:
            # The decay of the first half goes on: the smaller Ritz values have not converged.
            half = max(1, len(values) // 2)
            first, middle = float(values[0]), float(values[min(half, len(values) - 1)])
            exponent = math.log(first / middle) / math.log(half + 1) if middle > 0 else math.inf
            left = first * (rank + 1.0) ** -exponent
        condition = 1 + 2 * left / self.problem.damping
        steps = max(FEWEST_STEPS, 0.5 * math.sqrt(condition) * math.log(2 / self.target))
        setup = self.share * (1 + 4 * rank) / 3
        return setup + self._steps(steps, PRECONDITIONED_BLOCK) * self._step()

    def _preconditioned(self, name: str, setup: float, best: float) -> list[Candidate]:
        """CG with the preconditioner `name`, its set-up expected to cost `setup`, if it may be worth it."""
        least = setup + FEWEST_STEPS * self._step()
        if PROMISING * least > best or AFFORDABLE * (setup + FEWEST_STEPS * self.look) > best:
            return []
        alone = ConjugateGradient(1e-12, name)
        try:
            state, spent = self._prepare(alone)
            piloted = self._pilot_preconditioned(alone, state, best - spent)
        except Breakdown as reason:
            self.facts[name] = str(reason)
            return []
        if piloted is None:
            return []
        steps = self._steps(piloted.steps, PRECONDITIONED_BLOCK)
        work = spent + steps * self._step(state.multiplications)
        return [self._krylov(name, piloted, work, "the same on one right-hand side", state, spent)]

    def _pilot_preconditioned(self, solver: Solver, state: State, best: float) -> Piloted | None:
        """The same on one column, until it is there; None where it would cost more than `best`."""
        kept: dict[int, tuple[Tensor, float]] = {0: (torch.zeros_like(self.column), 1.0)}
        found = solver.iterates(self.sample, state, self.column, self.generator)
        for step, iterate in enumerate(found, start=1):
            assert iterate.residual is not None
            kept[step] = (iterate.x.clone(), float(iterate.residual))
            if len(kept) > KEPT:
                kept = dict(list(kept.items())[::2])
                kept.setdefault(step, (iterate.x.clone(), float(iterate.residual)))
            if self.reference is not None:
                if self._error(iterate.x) <= MARGIN * self.target:
                    return Piloted(step, float(iterate.residual), reached=True)
            else:
                # What has not moved over the last third of its steps has arrived.
                before = max(each for each in kept if each <= 2 * step // 3)
                if step >= FEWEST_STEPS and self._off(kept[before][0], iterate.x) <= STILL * self.target:
                    break
            if self._steps(step, PRECONDITIONED_BLOCK) * self._step(state.multiplications) > best:
                return None
        there = min(each for each, (x, _) in kept.items() if self._off(x, iterate.x) <= MARGIN * self.target)
        self.reference = iterate.x
        return Piloted(there, kept[there][1], reached=True)

    def _lissa(self, best: float) -> list[Candidate]:
        """LiSSA with settings of its own choice, where what they are measured by is cheap beside the rest."""
        operator, damping = self.problem.operator, self.problem.damping
        products = min(MOST_PRODUCTS, self.problem.size) + 3 * NOISE_STEPS
        if AFFORDABLE * products * self.look > best:
            return []
        solver = LiSSA(target=self.target)
        try:
            state, spent = self._prepare(solver, self.problem)
            measured: Measured = state.measured
            sides = pilots.pilot(
                self.sample.operator,
                measured.operator,
                damping,
                measured.margin,
                self.column,
                self.generator,
                "rhs",
            )
            if sides.unseen > pilots.UNSEEN:
                return []
            plan = make_plan(measured, sides, Wanted(self.target, None, None, None), operator)
        except (Breakdown, Divergence) as reason:
            self.facts["lissa"] = str(reason)
            return []
        if plan.schedule.batch_size is None:
            # On all data CG is faster.
            return []
        own_pilot = FIRST_LOOK * self.share * self.product
        work = spent + own_pilot + plan.epochs * self.product
        return [Candidate(solver, work, "b's spectral measure", state, prepared=True, spent=spent)]

    def _minres(self) -> list[Candidate]:
        """MINRES, of which no error is known, only the residual."""
        solver = MINRES(_rounded_down(self.target / 10))
        return [Candidate(solver, math.inf, "H may be indefinite")]

    def _exact(self) -> list[Candidate]:
        solver = Exact("auto" if self.problem.operator.is_psd else "eigen")
        way = solver.chosen(self.problem) if solver.skip(self.problem) is None else None
        return [] if way is None else [Candidate(solver, way.work, "by count")]

    def _prepare(self, solver: Solver, problem: Problem | None = None) -> tuple[Any, float]:
        """What `solver` prepares on the sample, and the work that took."""
        before = self.work.passes
        state = solver.prepare(problem or self.sample, self.generator)
        return state, self.work.equivalents(self.work.passes - before)

    def _steps(self, of_one: float, power: float) -> int:
        """Steps of a block of all columns, from those of one."""
        return max(1, math.ceil(of_one * self.columns**power))

    def _step(self, multiplications: float = 0.0) -> float:
        """Gradient equivalents of a step of block CG, with a preconditioner of so many multiplications."""
        k, size = self.columns, self.problem.size
        own = 0.0 if k == 1 else (10 if multiplications else 7) * size * k**2
        return self.product + self._algebra(own + multiplications * k)

    def _algebra(self, multiplications: float) -> float:
        return multiplications / (3 * self.work.num_examples * self.work.forward_multiplications)

    def _error(self, x: Tensor) -> float:
        assert self.reference is not None
        return self._off(x, self.reference)

    @staticmethod
    def _off(x: Tensor, reference: Tensor) -> float:
        return float((x - reference).double().norm() / reference.double().norm())


def _rounded_down(value: float) -> float:
    """Two digits are enough for a tolerance."""
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / scale) * scale:.2g}")
