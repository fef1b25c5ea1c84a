"""What is the same for every solver: clock, budgets, records, guards and the final certificate."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from problems import Problem
from problems.validation import check_finite
from solvers.solution import Record, Solution, Status
from solvers.solver import Breakdown, Iterate, Solver

# ‖x*‖ ≤ ‖b‖/λ for every H ⪰ 0. A path may leave that ball for a while; one this far out does not come back.
RUNAWAY = 1e3
# Outside twice the ball, ‖x − x*‖ > ‖x*‖ is certain: the answer is worse than x = 0.
WORSE_THAN_NOTHING = 2.0
# Every step is recorded up to the tenth, then at most 10 % more steps lie between two records.
RECORD_GROWTH = 1.1


@dataclass(frozen=True)
class Budget:
    """Limits to one solve: steps, gradient equivalents, seconds, set-up apart; None is no limit."""

    max_steps: int | None = None
    max_work: float | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_work", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; a budget must be > 0, or None for no limit")

    def spent(self, steps: int, work: float, seconds: float) -> str | None:
        """Which limit has been reached, in words, or None."""
        if self.max_steps is not None and steps >= self.max_steps:
            return f"max_steps = {self.max_steps} reached"
        if self.max_work is not None and work >= self.max_work:
            return f"max_work = {self.max_work:g} gradient equivalents reached"
        if self.max_seconds is not None and seconds >= self.max_seconds:
            return f"max_seconds = {self.max_seconds:g} reached"
        return None


def solve(
    problem: Problem,
    solver: Solver,
    *,
    seed: int = 0,
    columns: slice | None = None,
    max_steps: int | None = None,
    max_work: float | None = None,
    max_seconds: float | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> Solution:
    """Solve (H + λI) X = B with `solver`, and say how it went.

    `columns` chooses right-hand sides; budgets end the run after the step that reaches them; `on_record` is
    told of each recorded iterate. Steps that are recorded lie on a geometric grid, errors are evaluated
    with the clock stopped, and the residual is recomputed at the end. An exception in the solver gives a
    FAILED solution.
    """
    budget = Budget(max_steps, max_work, max_seconds)
    b = problem.columns(columns)
    check_finite("rhs", b)
    run = _Run(problem, solver, b, columns, budget, on_record)
    try:
        reason = solver.skip(problem)
        if reason:
            return Solution(None, Status.SKIPPED, reason)
        run.prepare(_generator(seed, stream=0))
        run.iterate(_generator(seed, stream=1))
    except Breakdown as breakdown:
        run.end(Status.BREAKDOWN, str(breakdown))
    except Exception as error:
        run.end(Status.FAILED, f"{type(error).__name__}: {error}")
        run.traceback = traceback.format_exc()
    return run.solution()


def _generator(seed: int, stream: int) -> torch.Generator:
    """Set-up and iteration draw from streams of their own, so that neither moves the other's numbers."""
    return torch.Generator().manual_seed(2 * seed + stream)


class _Meter:
    """Seconds and work spent inside `with` blocks; CUDA is synchronised at both ends."""

    def __init__(self, problem: Problem) -> None:
        self._work = problem.operator.work
        self._device = problem.operator.device
        self.seconds = 0.0
        self._passes = 0

    @property
    def work(self) -> float:
        return self._work.equivalents(self._passes)

    def __enter__(self) -> None:
        self._synchronise()
        self._passes_before = self._work.passes
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._synchronise()
        self.seconds += time.perf_counter() - self._began
        self._passes += self._work.passes - self._passes_before

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@dataclass
class _Run:
    """One solve under way."""

    problem: Problem
    solver: Solver
    b: Tensor
    columns: slice | None
    budget: Budget
    on_record: Callable[[Record], None] | None
    history: list[Record] = field(default_factory=list)
    steps: int = 0
    last: Iterate | None = None
    status: Status | None = None
    reason: str = ""
    traceback: str = ""

    def __post_init__(self) -> None:
        self.setup = _Meter(self.problem)
        self.meter = _Meter(self.problem)
        norms = self.b.norm(dim=0)
        # λ/‖b‖; 0 for a column b = 0, which has no size to compare with.
        self.inverse_limit = [self.problem.damping / norm if norm > 0 else 0.0 for norm in norms.tolist()]
        # Ground truth is computed before any clock runs.
        _ = self.problem.reference

    def prepare(self, generator: torch.Generator) -> None:
        with self.setup:
            self.state = self.solver.prepare(self.problem, generator)

    def iterate(self, generator: torch.Generator) -> None:
        """Pull iterates until the solver ends, has converged, has spent its budget or runs away."""
        iterates = self.solver.iterates(self.problem, self.state, self.b, generator)
        try:
            self._pull(iterates)
        finally:
            close = getattr(iterates, "close", None)
            if close:
                close()

    def _pull(self, iterates: Iterator[Iterate]) -> None:
        next_record = 1
        recorded = 0
        while self.status is None:
            with self.meter:
                iterate = next(iterates, None)
            if iterate is None:
                break
            self._check_shape(iterate)
            self.last = iterate
            self.steps += 1
            spent = self.budget.spent(self.steps, self.meter.work, self.meter.seconds)
            if self.steps >= next_record or spent:
                self._record(iterate)
                recorded = self.steps
                next_record = max(self.steps + 1, math.floor(self.steps * RECORD_GROWTH))
                # A solver ends by itself when it has converged; one that does not is stopped at a record.
                if _all_converged(iterate):
                    break
            if spent and self.status is None:
                self.end(Status.BUDGET_SPENT, spent)
        if self.last is None:
            raise RuntimeError("the solver yielded no iterate; `iterates` must yield at least one")
        if recorded < self.steps:
            self._record(self.last)

    def end(self, status: Status, reason: str) -> None:
        self.status, self.reason = status, reason

    def solution(self) -> Solution:
        """The answer with its certificate: the residual of one more product, apart from work and seconds."""
        x = None if self.last is None else self.last.x.detach()
        judged = x if x is not None and torch.isfinite(x).all() else None
        residual = None if judged is None else self.problem.residual(judged, self.b)
        if judged is not None and residual is not None and self.status in (None, Status.BUDGET_SPENT):
            self._judge(judged, residual)
        assert self.status is not None
        return Solution(
            x=x,
            status=self.status,
            reason=self.reason,
            history=tuple(self.history),
            steps=self.steps,
            setup_work=self.setup.work,
            work=self.meter.work,
            setup_seconds=self.setup.seconds,
            solve_seconds=self.meter.seconds,
            residual=residual,
            error=None if judged is None else self.problem.error(judged, self.columns),
            energy_error=None if judged is None else self.problem.energy_error(judged, self.columns),
            diagnostics=dict(self.last.diagnostics) if self.last else {},
            traceback=self.traceback,
        )

    def _judge(self, x: Tensor, residual: Tensor) -> None:
        tolerance = self.solver.promised_tolerance
        worst = float(residual.max())
        factor = self._times_limit(x)
        if self.problem.operator.is_psd and factor > WORSE_THAN_NOTHING:
            self._diverged(f"‖x‖ ended at {factor:.3g} times ‖b‖/λ, which no solution exceeds")
        elif tolerance is not None and worst <= tolerance:
            self.end(Status.CONVERGED, f"residual {worst:.1e} ≤ tolerance {tolerance:g}")
        elif self.status is Status.BUDGET_SPENT:
            if tolerance is not None:
                self.reason += f" at residual {worst:.1e}, above the tolerance {tolerance:g}"
        elif tolerance is None:
            self.end(Status.FINISHED, f"no tolerance promised; residual {worst:.1e}")
        elif self.last is not None and _all_converged(self.last):
            self.end(
                Status.BREAKDOWN,
                f"the solver's own residual is within the tolerance {tolerance:g}, the recomputed one is "
                f"{worst:.1e}: raise tolerance or use float64",
            )
        else:
            self.end(
                Status.BUDGET_SPENT,
                f"the solver's own limit of {self.steps} steps ended it at residual {worst:.1e}, above the "
                f"tolerance {tolerance:g}",
            )

    def _record(self, iterate: Iterate) -> None:
        record = Record(
            step=self.steps,
            work=self.meter.work,
            seconds=self.meter.seconds,
            residual=_worst(iterate.residual),
            error=_worst(self.problem.error(iterate.x, self.columns)),
            energy_error=_worst(self.problem.energy_error(iterate.x, self.columns)),
        )
        self.history.append(record)
        if self.on_record:
            self.on_record(record)
        factor = self._times_limit(iterate.x)
        if not math.isfinite(factor):
            self._diverged(f"x held NaN or inf at step {self.steps}")
        elif self.problem.operator.is_psd and factor > RUNAWAY:
            self._diverged(f"‖x‖ reached {factor:.3g} times ‖b‖/λ at step {self.steps}")

    def _times_limit(self, x: Tensor) -> float:
        """How many times ‖b‖/λ the longest column of x is; NaN or inf where x is not finite."""
        return _largest(
            [norm * scale for norm, scale in zip(x.norm(dim=0).tolist(), self.inverse_limit, strict=True)]
        )

    def _diverged(self, what: str) -> None:
        self.end(Status.DIVERGED, f"{what}: {self.solver.remedy}")

    def _check_shape(self, iterate: Iterate) -> None:
        if iterate.x.shape != self.b.shape:
            raise ValueError(
                f"the solver yielded x of shape {tuple(iterate.x.shape)}; the right-hand sides have shape "
                f"{tuple(self.b.shape)}"
            )


def _all_converged(iterate: Iterate) -> bool:
    return iterate.converged is not None and all(iterate.converged.tolist())


def _worst(values: Tensor | None) -> float | None:
    return None if values is None else _largest(values.tolist())


def _largest(values: list[float]) -> float:
    """The largest, or NaN where one is NaN. Plain numbers: a tensor operation on k of them costs more."""
    return math.nan if any(map(math.isnan, values)) else max(values)
