"""LiSSA with settings it chose: it watches its error, ends early, backs off, or turns to all data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from problems import Problem
from problems.operators.base import CurvatureOperator
from solvers.error_estimate import bound, estimate_error
from solvers.geometry import Geometry, plain
from solvers.measured import SAMPLE, Measured, sample_of
from solvers.pilot import MOST_STEPS, UNSEEN, pilot
from solvers.prediction import RightHandSides, Schedule, Start, relative
from solvers.probe import PROBE_STEPS, probe
from solvers.solver import Breakdown, Divergence, Iterate
from solvers.theory import PAPERS_TIME, cg_steps
from solvers.tuning import (
    CHAINS,
    Plan,
    Wanted,
    epochs_of,
    make_plan,
    noise_excess,
    steps_to,
)

# Products that the pilot makes, and draws below which it would show nothing.
PILOT_PRODUCTS = 20
LEAST_SAMPLE = 64
# When the error is looked at, in planned lengths of the average, or of the run where there is none.
CHECKS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
# How often the probe may halve the step.
PROBES = 4
# No solution is longer than ‖b‖/λ_min(H + λ); a path that starts at b/λ does not get so many times as far
# unless it diverges.
RUNAWAY = 3.0
# Of t steps, one in this many looks at the length: each look waits for the device.
WATCH = 16
# What L_b is multiplied by when a run ran away.
BACK_OFF = 4.0


class _RanAway(Exception):
    """The iterates left the ball in which every solution lies; the message says by how much."""


@dataclass
class _Log:
    """What becomes of the run, for `Solution.diagnostics`."""

    measured: Measured
    wanted: Wanted
    # What pilot and residuals are of: all data, or a sample.
    sample: CurvatureOperator
    pilot_work: float = 0.0
    back_offs: int = 0
    probe_growth: float | None = None
    plan: Plan | None = None
    why: str = ""

    def __call__(self, **found: Any) -> dict[str, Any]:
        assert self.plan is not None
        schedule = self.plan.schedule
        return {
            "rule": "sharp",
            "target": self.wanted.target,
            "step_size": schedule.step_size,
            "batch_size": "full" if schedule.batch_size is None else schedule.batch_size,
            "num_steps": schedule.last,
            "averaged_from": schedule.first,
            "chains": schedule.chains,
            "largest_eigenvalue": self.measured.largest,
            "smallest_ritz_value": self.measured.smallest,
            "noise_constant": self.measured.noise_constant,
            "second_moment": self.plan.second_moment,
            "sufficient_batch": self.measured.sufficient_batch,
            "predicted_error": self.plan.error,
            "predicted_bias": self.plan.bias,
            "predicted_noise": self.plan.deviation,
            "predicted_epochs": self.plan.epochs,
            "full_data_epochs": self.plan.full_epochs if math.isfinite(self.plan.full_epochs) else None,
            "pilot_work": self.pilot_work,
            "probe_growth": self.probe_growth,
            "back_offs": self.back_offs,
            "why": self.why,
            **found,
        }


def iterates(
    problem: Problem,
    measured: Measured,
    wanted: Wanted,
    start: Start,
    b: Tensor,
    generator: torch.Generator,
    geometry: Geometry | None = None,
) -> Iterator[Iterate]:
    """LiSSA to the error that is wanted; what is not set follows from `measured` and a pilot on b (p, k).

    `measured` is of the `geometry`'s operator, by default H itself. Raises Breakdown where no schedule gets
    there, Divergence where the run ran away twice.
    """
    geometry = geometry or plain(problem)
    before = problem.operator.work.passes
    # P is near H + λI of all data: what few draws are under P is their own noise, even where P is exact.
    size = SAMPLE if geometry.is_preconditioned else pilot_size(measured)
    sample = sample_of(geometry.operator, generator, size)
    log = _Log(measured, wanted, sample)
    sides = pilot(
        sample,
        measured.operator,
        geometry.damping,
        measured.margin,
        geometry.half(b),
        generator,
        start,
        half=geometry.half if geometry.is_preconditioned else None,
    )
    if sides.unseen > UNSEEN:
        raise Breakdown(_unseen(measured, wanted, sides))
    log.pilot_work = problem.operator.work.equivalents(problem.operator.work.passes - before)
    u = geometry.start(b) if start == "rhs" else torch.zeros_like(b)
    caution = 1.0
    while True:
        caution, log.plan = _steady_plan(geometry, measured, sides, wanted, caution, log, generator)
        log.why = _why(log.plan, wanted)
        try:
            if log.plan.schedule.batch_size is None:
                whole = sample is geometry.operator
                yield from _on_all_data(geometry, u, b, sides, log.plan.schedule, wanted, log, fresh=whole)
            else:
                yield from _on_batches(geometry, u, b, sides, log.plan, wanted, log, generator)
            return
        except _RanAway as reason:
            if log.back_offs:
                batch = log.plan.schedule.batch_size
                cause = "λ_max is larger than measured"
                if batch is not None:
                    cause = f"L_b = {log.plan.second_moment:.3g} falls short of mini-batches of {batch}"
                raise Divergence(
                    f"{reason}, again after its step was cut to 1/{BACK_OFF:g}: {cause}"
                ) from None
            log.back_offs += 1
            caution *= BACK_OFF


def _steady_plan(
    geometry: Geometry,
    measured: Measured,
    sides: RightHandSides,
    wanted: Wanted,
    caution: float,
    log: _Log,
    generator: torch.Generator,
) -> tuple[float, Plan]:
    """The cheapest plan whose step and batch shrink what they should, and the caution that took."""
    for _ in range(PROBES):
        plan = make_plan(measured, sides, wanted, geometry.operator, caution)
        if plan.schedule.batch_size is None:
            return caution, plan
        log.probe_growth = probe(geometry.operator, geometry.damping, plan.schedule, generator)
        if log.probe_growth < 1:
            return caution, plan
        caution *= 2
    raise Divergence(
        f"sharp directions still grew by a factor of {log.probe_growth:.3g} in {PROBE_STEPS} steps with L_b "
        f"at {caution / 2:g} times its bound"
    )


def _on_batches(
    geometry: Geometry,
    start: Tensor,
    b: Tensor,
    sides: RightHandSides,
    plan: Plan,
    wanted: Wanted,
    log: _Log,
    generator: torch.Generator,
) -> Iterator[Iterate]:
    """Independent chains, each with its tail average; the answer is their mean."""
    schedule, problem = plan.schedule, geometry.problem
    step, first = schedule.step_size, schedule.first
    excess = noise_excess(step * plan.second_moment)
    limit = RUNAWAY * b.norm(dim=0) / geometry.margin(log.measured.margin)
    chains = [start] * schedule.chains
    sums = [torch.zeros_like(b)] * schedule.chains
    checks = _checks(schedule, wanted)
    for t in range(1, checks[-1] + 1):
        assert schedule.batch_size is not None
        for chain, u in enumerate(chains):
            batch = problem.operator.minibatch(schedule.batch_size, generator)
            chains[chain] = u - step * geometry.solve(batch @ u + problem.damping * u - b)
            if schedule.averages and t > first:
                sums[chain] = sums[chain] + chains[chain]
        if _is_watched(t) or t in checks:
            _watch(chains, limit, t)
        tails = [total / (t - first) for total in sums] if schedule.averages and t > first else chains
        x = torch.stack(tails).mean(dim=0)
        if t not in checks:
            yield Iterate(x, diagnostics=log())
            continue
        now = schedule.until(t)
        found, spread = estimate_error(geometry, log.sample, sides, now, tails, x, b, excess)
        error = float(found.max())
        yield Iterate(
            x,
            diagnostics=log(estimated_error=error, noise_over_predicted=spread),
            reason=_outcome(error, wanted),
        )
        if error <= wanted.target or wanted.num_steps is not None:
            return
        # All data may now be the cheaper way, noise being what it is.
        wait = first / schedule.last if schedule.averages else 1
        further = steps_to(sides, wanted, schedule, wait, excess * spread)
        left = math.inf
        if further:
            left = epochs_of(problem.operator, further, log.measured)
            left -= epochs_of(problem.operator, now, log.measured)
        if wanted.batch_size is None and plan.full_epochs < left:
            log.why += f"; after {t} steps went on with all data: noise was {spread:.2g} times as predicted"
            full = make_plan(log.measured, sides, replace(wanted, batch_size="full"), geometry.operator)
            yield from _on_all_data(geometry, x, b, sides, full.schedule, wanted, log, fresh=False)
            return


def _on_all_data(
    geometry: Geometry,
    u: Tensor,
    b: Tensor,
    sides: RightHandSides,
    schedule: Schedule,
    wanted: Wanted,
    log: _Log,
    fresh: bool,
) -> Iterator[Iterate]:
    """Richardson iteration from u. `fresh`: u is the start whose bias `sides` predict, of all data.

    The residual is known at each step. ‖r‖/λ_min(H + λ) bounds the error; what is predicted, scaled by the
    residual's ratio to what was predicted of it, is nearer where b is as the pilot has seen it.
    """
    problem, margin = geometry.problem, geometry.margin(log.measured.margin)
    norm = geometry.half(b).norm(dim=0)
    limit = RUNAWAY * b.norm(dim=0) / margin
    last = schedule.last if wanted.num_steps is not None else round(CHECKS[-1] * schedule.last)
    for t in range(1, last + 1):
        residual = b - problem.operator @ u - problem.damping * u
        error = bound(residual.norm(dim=0) / margin, u.norm(dim=0)).double().cpu()
        if fresh and t > 1:
            before = Schedule(schedule.step_size, None, t - 2, t - 1)
            seen = relative(geometry.half(residual).norm(dim=0), norm).double().cpu()
            ratio = relative(seen, sides.residual(before))
            nearer = sides.bias(before) * ratio
            # A residual of which nothing was predicted says nothing of the bias.
            error = torch.where(sides.residual(before) > 0, torch.minimum(error, nearer), error)
        u = u + schedule.step_size * geometry.solve(residual)
        if _is_watched(t):
            _watch([u], limit, t)
        worst = float(error.max())
        # The error is that before the step, which one product more than its own has shown.
        reason = _outcome(worst, wanted)
        yield Iterate(u, diagnostics=log(estimated_error=worst), reason=reason)
        if wanted.num_steps is None and worst <= wanted.target:
            return


def _outcome(error: float, wanted: Wanted) -> str:
    reached = "" if error <= wanted.target else " not reached"
    return f"estimated error {error:.2g}, target {wanted.target:g}{reached}"


def _unseen(measured: Measured, wanted: Wanted, sides: RightHandSides) -> str:
    whole = measured.largest + measured.damping
    return (
        f"after {MOST_STEPS} products CG's answer may still be {sides.unseen:.2g} off, so that no plan can "
        f"be trusted: the smallest eigenvalue lies {whole / measured.margin:.1e} times below λ_max + λ, "
        f"where LiSSA needs up to {math.log(1 / wanted.target) * whole / measured.margin:.1e} steps on all "
        f"data, and CG up to {cg_steps(whole / measured.margin, wanted.target):,}. Use cg or exact, "
        "precondition, or raise damping"
    )


def _is_watched(step: int) -> bool:
    return step % max(1, step // WATCH) == 0


def _watch(chains: list[Tensor], limit: Tensor, step: int) -> None:
    for u in chains:
        factor = float(relative(u.norm(dim=0), limit).max()) * RUNAWAY
        if not factor <= RUNAWAY:
            raise _RanAway(f"‖u‖ reached {factor:.3g} times what a solution can be at step {step}")


def _checks(schedule: Schedule, wanted: Wanted) -> list[int]:
    if wanted.num_steps is not None:
        return [schedule.last]
    begin = schedule.first if schedule.averages else 0
    return sorted({begin + max(1, round(share * (schedule.last - begin))) for share in CHECKS})


def _why(plan: Plan, wanted: Wanted) -> str:
    if wanted.batch_size is not None:
        return f"batch_size = {wanted.batch_size} was set: predicted {plan.epochs:.3g} passes over the data"
    if plan.schedule.batch_size is None:
        return f"all data: predicted {plan.epochs:.3g} passes, fewer than mini-batches need"
    share = f", all data {plan.full_epochs:.3g}" if math.isfinite(plan.full_epochs) else ""
    return f"mini-batches: predicted {plan.epochs:.3g} passes over the data{share}"


def pilot_size(measured: Measured) -> int:
    """Draws that pilot and residuals use without a preconditioner: the pilot costs no more than the run.

    The run is taken to be that of the paper's ηλT = 2.25 at b*; most take longer.
    """
    batch = max(1, round(measured.sufficient_batch))
    steps = PAPERS_TIME * measured.second_moment(batch) / measured.damping
    draws = CHAINS * steps * batch / measured.units_per_draw
    return round(min(SAMPLE, max(LEAST_SAMPLE, draws / PILOT_PRODUCTS)))
