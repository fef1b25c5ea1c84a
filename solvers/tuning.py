"""LiSSA's settings from what was measured: step size, batch size, number of steps, and whether to sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from solvers import theory
from solvers.error_estimate import SAFETY
from solvers.measured import Measured
from solvers.prediction import RightHandSides, Schedule
from solvers.solver import Breakdown

# Two chains show by their difference how far noise moves them; their mean has half its variance, so that
# nothing is lost.
CHAINS = 2
# η L_b that are tried: theory's contraction is best at 1, noise is less below.
FRACTIONS = (1.0, 0.7, 0.5, 0.25)
# η (λ_max + λ) that are tried with all data, where the edge is 2.
FULL_FRACTIONS = (1.0, 1.2, 1.4, 1.6, 1.8, 1.9)
# Of those, the largest where λ_max is a sample's, which may be short of that of all data.
MOST_OF_A_SAMPLE = 1.4
# Shares of the steps that pass before averaging begins; 1 takes the last iterates as they are, which is
# best where contraction limits and not noise.
WAITS = (0.3, 0.5, 0.7, 1.0)
# Fewer, larger steps are worth this much more work.
WORTH = 1.5
# More steps than anyone waits for.
MOST_STEPS = 200_000


@dataclass(frozen=True)
class Wanted:
    """The relative error aimed at, and what the user has set; None is to be chosen."""

    target: float
    step_size: float | None
    batch_size: int | Literal["full"] | None
    num_steps: int | None


@dataclass(frozen=True)
class Plan:
    """A schedule with what it is predicted to end with (worst column) and to cost, in passes over all data.

    `second_moment` is L_b of its batch, λ_max + λ for all data. `full_epochs` is what all data would cost,
    ∞ where not even they would do.
    """

    schedule: Schedule
    second_moment: float
    bias: float
    deviation: float
    epochs: float
    full_epochs: float

    @property
    def error(self) -> float:
        """Predicted relative root mean square error."""
        return math.hypot(self.bias, self.deviation)


def make_plan(
    measured: Measured, sides: RightHandSides, wanted: Wanted, data: CurvatureOperator, caution: float = 1.0
) -> Plan:
    """The cheapest schedule that is predicted to reach the target on the worst column.

    `data` is what mini-batches are drawn from. `caution` multiplies L_b, after it has proved too small.
    Raises Breakdown where a step size or a batch size that was set admits none, and where it would take more
    steps than anyone waits for.
    """
    full = _cheapest(_on_all_data(measured, sides, wanted, data, caution), wanted)
    full_epochs = full.epochs if full else math.inf
    best = None
    if wanted.batch_size != "full":
        best = sampled_plan(measured, sides, wanted, data, caution, full_epochs)
    if wanted.batch_size in (None, "full") and full and (best is None or full.epochs <= best.epochs):
        return full
    if best is None:
        raise Breakdown(_too_long(measured, wanted, caution))
    return best


def sampled_plan(
    measured: Measured,
    sides: RightHandSides,
    wanted: Wanted,
    data: CurvatureOperator,
    caution: float = 1.0,
    full_epochs: float = math.inf,
) -> Plan | None:
    """The same on mini-batches alone, whatever all data cost; None where none gets there."""
    return _cheapest(_on_batches(measured, sides, wanted, data, caution, full_epochs), wanted)


def steps_to(
    sides: RightHandSides,
    wanted: Wanted,
    of: Schedule,
    wait: float,
    excess: float,
    worth: float = math.inf,
) -> Schedule | None:
    """`of` with the fewest steps after which the target is met; None where MOST_STEPS do not do.

    `wait` is one of WAITS; `excess` multiplies what noise is predicted to do. More than `worth` steps are of
    no interest.
    """

    def schedule(last: int) -> Schedule:
        first = last - 1 if wait == 1 else min(last - 1, round(wait * last))
        return Schedule(of.step_size, of.batch_size, first, last, of.chains)

    def met(last: int) -> bool:
        found = schedule(last)
        bias = sides.bias(found)
        # What noise does takes longer to work out.
        if float(bias.max()) > wanted.target:
            return False
        return float(torch.hypot(bias, deviation(sides, found, excess)).max()) <= wanted.target

    if wanted.num_steps is not None:
        return schedule(wanted.num_steps)
    if worth < 1 or (worth < MOST_STEPS and not met(int(worth))) or not met(MOST_STEPS):
        return None
    low, high = 0, MOST_STEPS
    while high - low > max(1, low // 50):
        middle = max(low + 1, math.isqrt(low * high))
        low, high = (low, middle) if met(middle) else (middle, high)
    return schedule(high)


def predicted_error(sides: RightHandSides, schedule: Schedule, excess: float) -> Tensor:
    """Error (k,) with noise at SAFETY times its root mean square, and `excess` times what is predicted."""
    return torch.hypot(sides.bias(schedule), deviation(sides, schedule, excess))


def deviation(sides: RightHandSides, schedule: Schedule, excess: float) -> Tensor:
    """The noise's part in it, (k,)."""
    return SAFETY * excess * sides.deviation(schedule)


def epochs_of(operator: CurvatureOperator, schedule: Schedule, measured: Measured) -> float:
    """Passes over all data that the schedule takes: whole sequences also where few of their tokens count."""
    if schedule.batch_size is None:
        return schedule.last * (1 + measured.overhead / operator.num_draws)
    draws = math.ceil(schedule.batch_size / measured.units_per_draw - 1e-9) + measured.overhead
    return schedule.chains * schedule.last * draws / operator.num_draws


def _on_all_data(
    measured: Measured, sides: RightHandSides, wanted: Wanted, data: CurvatureOperator, caution: float
) -> Iterator[Plan]:
    whole = (measured.largest + measured.damping) * caution
    most = 2 if measured.operator is data else MOST_OF_A_SAMPLE
    steps = [fraction / whole for fraction in FULL_FRACTIONS if fraction <= most]
    if wanted.step_size is not None:
        steps = [wanted.step_size]
    for step in steps:
        if step * whole < 2:
            found = steps_to(sides, wanted, Schedule(step, None, 0, 1), 1, 0.0)
            if found:
                bias = float(sides.bias(found).max())
                epochs = epochs_of(data, found, measured)
                yield Plan(found, whole, bias, 0.0, epochs, epochs)


def _on_batches(
    measured: Measured,
    sides: RightHandSides,
    wanted: Wanted,
    data: CurvatureOperator,
    caution: float,
    full_epochs: float,
) -> Iterator[Plan]:
    least = full_epochs if wanted.batch_size is None else math.inf
    for batch in _batches(measured, wanted, data):
        second_moment = caution * measured.second_moment(batch)
        steps = (
            [fraction / second_moment for fraction in FRACTIONS]
            if wanted.step_size is None
            else [wanted.step_size]
        )
        for step in steps:
            if step * second_moment >= 2:
                continue
            excess = noise_excess(step * second_moment)
            one = Schedule(step, batch, 0, 1, CHAINS)
            for wait in WAITS:
                # What costs more is not chosen.
                worth = WORTH * least / epochs_of(data, one, measured)
                found = steps_to(sides, wanted, one, wait, excess, worth)
                if found:
                    epochs = epochs_of(data, found, measured)
                    least = min(least, epochs)
                    yield Plan(
                        found,
                        second_moment,
                        float(sides.bias(found).max()),
                        excess * float(sides.deviation(found).max()),
                        epochs,
                        full_epochs,
                    )


def noise_excess(fraction: float) -> float:
    """What the noise of u − u* adds to that of u*, at `fraction` = ηL_b: √(2/(2 − ηL_b)), theory's bound."""
    return math.sqrt(2 / (2 - fraction))


def _batches(measured: Measured, wanted: Wanted, data: CurvatureOperator) -> list[int]:
    """Batch sizes to try: 1, 2, 4, … draws, up to a quarter of the data or what was set."""
    if isinstance(wanted.batch_size, int):
        return [wanted.batch_size]
    most = max(1, data.num_draws // 4)
    # Of one token of a sequence all the sequence is computed.
    return [max(1, int(2**power * measured.units_per_draw)) for power in range(int(math.log2(most)) + 1)]


def _cheapest(plans: Iterable[Plan], wanted: Wanted) -> Plan | None:
    """The plan of fewest steps among those that cost little more than the cheapest.

    Where the number of steps is set some may not reach the target: then the cheapest that does, or the one
    that ends nearest.
    """
    known = list(plans)
    if not known:
        return None
    if wanted.num_steps is not None:
        reaching = [plan for plan in known if plan.error <= wanted.target]
        if not reaching:
            return min(known, key=lambda plan: (plan.error, plan.epochs))
        return min(reaching, key=lambda plan: plan.epochs)
    least = min(plan.epochs for plan in known)
    return min(
        (plan for plan in known if plan.epochs <= WORTH * least),
        key=lambda plan: (plan.schedule.last, plan.epochs),
    )


def _too_long(measured: Measured, wanted: Wanted, caution: float) -> str:
    """Why no schedule was found, and what to change."""
    whole = caution * (measured.largest + measured.damping)
    if wanted.step_size is not None and wanted.step_size * whole >= 2:
        return (
            f"step_size is {wanted.step_size:g}; even on all data it must be below 2/(λ_max + λ) = "
            f"{2 / whole:.3g}: lower it, or leave it to be chosen"
        )
    if isinstance(wanted.batch_size, int):
        second_moment = caution * measured.second_moment(wanted.batch_size)
        step = "no step_size" if wanted.step_size is None else f"step_size = {wanted.step_size:g}"
        return (
            f"batch_size is {wanted.batch_size}; with it {step} reaches {wanted.target:g} within "
            f"{MOST_STEPS:,} steps (below 2/L_b = {2 / second_moment:.3g} a step is stable): raise "
            "batch_size, raise target, or leave batch_size to be chosen"
        )
    if wanted.step_size is not None and wanted.batch_size is None:
        return (
            f"step_size is {wanted.step_size:g}; with it no batch, and not all data, reach {wanted.target:g} "
            f"within {MOST_STEPS:,} steps: leave step_size to be chosen"
        )
    condition = whole / measured.margin
    return (
        f"LiSSA needs some {math.log(1 / wanted.target) * condition:.1e} steps to reach {wanted.target:g} at "
        f"λ = {measured.damping:g}, {condition:.1e} times below λ_max + λ; more than {MOST_STEPS:,} are not "
        f"tried. CG needs at most {theory.cg_steps(condition, wanted.target):,} products: use cg, "
        "precondition, or raise damping"
    )
