"""What `auto` measures: CG on one right-hand side, and by it what steps cost and where they lead."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from problems import Problem
from problems.operators.network import NetworkOperator
from problems.scaling import relative_norms
from problems.spectrum.lanczos import Tridiagonal
from problems.work import JACOBIAN_COST
from solvers.krylov_prediction import cg_history, conjugate_gradients, last_error
from solvers.measured import sample_of
from solvers.solver import Solver

# CG is looked at after so many steps, and then each time after so many times more.
FIRST_LOOK = 12
FURTHER = 1.5
# Its error is estimated at every step, later at one in step/CHECKS.
CHECKS = 16
# More CG steps than a pilot is given.
MOST_STEPS = 1000
# CG on one right-hand side goes on until its error is known to be this share of the target.
ENOUGH = 0.5
# λ_min(H + λI) is taken to be this share of the smallest Ritz value where H is not ⪰ 0.
SHORT = 0.5
# What is told of an error must be below this share of the target.
CERTAIN = 0.8
# No residual is followed further than this.
SMALLEST = 1e-12
# A block's steps over those of one column are k to this power: measured at 0.53 for 4 columns and 0.33 for 16
# where κ is 200 to 5e4, 0.8 for 4 with a preconditioner.
BLOCK, PRECONDITIONED_BLOCK = -0.45, -0.2


@dataclass(frozen=True)
class Piloted:
    """CG on one right-hand side, as it leads to the target.

    `steps` are those to the target, known (`reached`) or extrapolated; `residual` is what CG's is there.
    """

    steps: float
    residual: float
    reached: bool


class Survey:
    """A problem with right-hand sides b (p, k), none of them 0, and what is known of it so far.

    What needs no more than a sample of the data is measured on `sample`, `share` of it: see `sample_of`.
    `product` is what a product with all columns costs, `look` one with one column on the sample.
    """

    def __init__(self, problem: Problem, target: float, generator: torch.Generator) -> None:
        self.problem = problem
        self.target = target
        self.generator = generator
        operator = problem.operator
        self.work = operator.work
        sample = sample_of(operator, generator)
        self.sample = problem if sample is operator else replace(problem, operator=sample)
        self.share = sample.num_draws / operator.num_draws
        self.b = problem.columns()
        self.columns = self.b.shape[1]
        self.column = self.b[:, :1]
        cost = operator.curvature.cost if isinstance(operator, NetworkOperator) else JACOBIAN_COST
        self.product = (cost.shared + cost.per_column * self.columns) / 3
        self.look = self.share * (cost.shared + cost.per_column) / 3
        self.pilot_work = 0.0
        # Whether CG has solved the first column.
        self.solved = False
        # The solution of the first column, of the sample, once it is known.
        self.reference: Tensor | None = None
        # H's Ritz values, descending.
        self.ritz = torch.zeros(0, dtype=torch.float64)
        # By name what preconditioners have prepared, the work that took, and their pilot.
        self.pilots: dict[str, tuple[Any, float, Any]] = {}
        self.facts: dict[str, Any] = {}

    @property
    def alone(self) -> bool:
        """Whether the pilot's one right-hand side, on all data, is all there is to solve."""
        return self.columns == 1 and self.sample is self.problem

    @property
    def condition(self) -> float:
        """κ of H + λI as the pilot shows it, H ⪰ 0; ∞ where it shows nothing."""
        if not len(self.ritz):
            return math.inf
        return max(0.0, float(self.ritz[0])) / self.problem.damping + 1

    def conjugate_gradients(self) -> Iterator[Piloted]:
        """CG on one column, looked at after some steps and then at longer and longer intervals.

        The last is `reached`. Breakdown on negative curvature.
        """
        damping, sample = self.problem.damping, self.sample.operator
        next_look = FIRST_LOOK
        enough = self.target if self.alone else ENOUGH * self.target
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
                yield self._seen(found, smallest, reached=False)
        assert found is not None
        self.reference, self.solved = x, True
        # Where rounding ended it, it is as near as CG comes.
        yield self._seen(found, smallest, reached=True)

    def _seen(self, found: Tridiagonal, smallest: float, reached: bool) -> Piloted:
        self.ritz = (found.measure[0] - self.problem.damping).flip(0)
        self.facts |= {
            "largest_eigenvalue": float(self.ritz[0]),
            "smallest_ritz_value": float(self.ritz[-1]),
            "pilot_steps": len(self.ritz),
        }
        history = cg_history(found, smallest)
        steps = history.steps_to(self.target)
        if steps is None and reached:
            steps = len(history.errors) - 1
        if steps is not None:
            return Piloted(steps, max(float(history.residuals[steps]), SMALLEST), reached)
        # But for rounding CG ends after p steps.
        expected = min(history.extrapolated(self.target), self.problem.size)
        rest = float(history.residuals[-1]) * self.target / float(history.errors[-1])
        return Piloted(expected, max(rest, SMALLEST), reached)

    @property
    def sees_errors(self) -> bool:
        """Whether the solution of a column is known, of all data."""
        return self.reference is not None and self.sample is self.problem

    def is_there(self, x: Tensor, before: Tensor | None, residual: float) -> bool:
        """Whether x (p, k) is within the target, as far as can be told; `residual` is the worst column's.

        For certain where κ times the residual is. Else by how far each column has come since `before`, some
        steps ago: what is left of the way is to that as it is of the column whose solution is known. Where
        none is, of all data, nothing speaks against it.
        """
        if residual * self.condition <= CERTAIN * self.target or not self.sees_errors:
            return True
        if before is None:
            return False
        moved = relative_norms(x - before, x)
        if not float(moved[0]) > 0:
            return True
        return float(moved.max() / moved[0]) * self.error(x[:, :1]) <= CERTAIN * self.target

    def error(self, x: Tensor) -> float:
        """How far x (p, 1) is from the first column's solution."""
        assert self.reference is not None
        return distance(x, self.reference)

    def prepare(self, solver: Solver, problem: Problem | None = None) -> tuple[Any, float]:
        """What `solver` prepares, on the sample unless told otherwise, and the work that took."""
        before = self.work.passes
        state = solver.prepare(problem or self.sample, self.generator)
        return state, self.work.equivalents(self.work.passes - before)

    def steps(self, of_one: float, power: float) -> int:
        """Steps of a block of all columns, from those of one."""
        return max(1, math.ceil(of_one * self.columns**power))

    def step(self, multiplications: float = 0.0) -> float:
        """Gradient equivalents of a step of block CG, with a preconditioner of so many multiplications."""
        k, size = self.columns, self.problem.size
        own = 0.0 if k == 1 else (10 if multiplications else 7) * size * k**2
        return self.product + self.algebra(own + multiplications * k)

    def algebra(self, multiplications: float) -> float:
        """Multiplications in gradient equivalents."""
        return multiplications / (3 * self.work.num_examples * self.work.forward_multiplications)


def distance(x: Tensor, reference: Tensor) -> float:
    """‖x − reference‖/‖reference‖ of one column."""
    return float(relative_norms(x.double() - reference.double(), reference.double()))
