"""Stochastic variance-reduced gradient descent on the quadratic ½xᵀ(H + λI)x − bᵀx."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from problems import Problem
from problems.scaling import relative_norms
from problems.validation import check_counts
from solvers.measured import Measured, measure_curvature
from solvers.solver import Breakdown, Iterate, Solver, check_positive
from solvers.tuning import MOST_STEPS

Auto = Literal["auto"]

# Of 1/L_b; with inner loops of LONGEST/(ηλ) steps each epoch contracts, whatever b is.
FRACTION = 0.25
LONGEST = 8.0
# The inner loop is lengthened where an epoch has not brought the residual below this share of what it was.
ENOUGH = 0.5
# Epochs of the longest inner loop that leave PROGRESS of the best residual or more; then rounding is to
# blame, or the step where the residual is above FAR, which rounding never is.
PATIENCE = 8
PROGRESS = 0.999
FAR = 1e-2
# After an epoch that made the residual so many times larger the step is halved, too.
WORSE = 10.0
HALVINGS = 4


@dataclass(frozen=True)
class SVRG(Solver):
    """SVRG (Johnson & Zhang 2013): u ← u − η((H̃ + λ)(u − x) − r), r = b − (H + λ)x of the snapshot x.

    LiSSA on the correction u − x, whose noise shrinks with it, so that it converges to any tolerance, at a
    rate per epoch: an epoch is a product over all data, by which the true residual is known, and m steps on
    mini-batches, of which the mean of the second half becomes the next snapshot. With E (H̃ + λ)² ⪯ L(H + λ)
    and E h² ⪯ R(H + λ) the mean square of the error's energy norm falls by
    (1/(ηλm) + 2ηR/b)/(1 − ηL) at least; "auto" takes η = 1/(4L), the batch b at which a larger one saves
    steps no more, and m from a pass over the data up to 8/(ηλ), where the factor is at most 0.84. L and R are
    measured in set-up. A step costs (1 + 4k)/3 · b/n gradient equivalents. The first snapshot is b/λ.
    """

    tolerance: float = 1e-6
    step_size: float | Auto = "auto"
    batch_size: int | Auto = "auto"
    inner_steps: int | Auto = "auto"

    remedy: ClassVar[str] = "lower step_size or raise batch_size"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)
        for name in ("step_size", "batch_size", "inner_steps"):
            value = getattr(self, name)
            if isinstance(value, str):
                if value != "auto":
                    raise ValueError(f'{name} is {value!r}; it must be a number or "auto"')
            elif name == "step_size":
                check_positive(step_size=value)
            else:
                check_counts(**{name: value})

    @property
    def columns_are_independent(self) -> bool:
        # The slowest column lengthens the inner loop for all.
        return self.inner_steps != "auto"

    def prepare(self, problem: Problem, generator: torch.Generator) -> Measured:
        return measure_curvature(problem.operator, problem.damping, generator)

    def iterates(
        self, problem: Problem, state: Measured, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        operator, damping = problem.operator, problem.damping
        batch_size = self._batch_size(problem, state)
        step = self.step_size
        if step == "auto":
            step = FRACTION / state.second_moment(batch_size)
        length, longest = self._lengths(problem, state, step, batch_size)
        x = kept = b / damping
        kept_residual = b
        best, stalled, halvings = math.inf, 0, 0
        while True:
            r = b - operator @ x - damping * x
            residual = relative_norms(r, b)
            converged = residual <= self.tolerance
            worst = float(residual.max())
            facts = {"step_size": step, "batch_size": batch_size, "inner_steps": length}
            yield Iterate(x, residual, converged, facts)
            if bool(converged.all()):
                return
            stalled = stalled + 1 if length >= longest and worst > PROGRESS * best else 0
            if not worst <= WORSE * best or (stalled > PATIENCE and worst > FAR):
                halvings, stalled = halvings + 1, 0
                if halvings > HALVINGS:
                    raise Breakdown(_unstable(worst, best, step))
                step, x, r = step / 2, kept, kept_residual
            elif stalled > PATIENCE:
                raise Breakdown(_stalled(best, self.tolerance))
            else:
                if worst > ENOUGH * best:
                    length = min(2 * length, longest)
                kept, kept_residual, best = x, r, min(worst, best)
            total = u = torch.zeros_like(b)
            for t in range(1, length + 1):
                batch = operator.minibatch(batch_size, generator)
                u = u - step * (batch @ u + damping * u - r)
                if 2 * t > length:
                    total = total + u
                yield Iterate(x + u, diagnostics=facts)
            x = x + total / (length - length // 2)

    def _batch_size(self, problem: Problem, measured: Measured) -> int:
        if self.batch_size != "auto":
            return self.batch_size
        # One of a quarter of the data saves no work any more.
        most = max(1, problem.operator.num_examples // 4)
        return max(1, min(math.ceil(measured.sufficient_batch), most))

    def _lengths(self, problem: Problem, measured: Measured, step: float, batch_size: int) -> tuple[int, int]:
        """Steps of the first inner loop, and of the longest."""
        if self.inner_steps != "auto":
            return self.inner_steps, self.inner_steps
        longest = math.ceil(LONGEST / (step * measured.margin))
        if longest > MOST_STEPS:
            raise Breakdown(
                f"SVRG may need inner loops of {longest:.1e} steps at λ = {problem.damping:g}; more than "
                f"{MOST_STEPS:,} are not tried: use cg, set inner_steps, or raise damping"
            )
        return min(longest, math.ceil(problem.operator.num_examples / batch_size)), longest


def _unstable(now: float, before: float, step: float) -> str:
    return (
        f"the residual is {now:.1e} after an epoch at the step {step:.3g}, and was {before:.1e} at its best; "
        f"{HALVINGS} halvings of step_size did not help: raise batch_size or inner_steps, or use cg"
    )


def _stalled(residual: float, tolerance: float) -> str:
    return (
        f"the residual no longer falls: it stays at {residual:.1e}, above the tolerance {tolerance:g}. Raise "
        "tolerance, lower step_size, raise damping or use float64"
    )
