"""What is the same for every solver: clock, budgets, records, guards and the final certificate."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from problems import Problem
from problems.scaling import powers_of_two
from solvers.solution import Record, Solution, Status, largest, worst
from solvers.solver import Breakdown, Divergence, Iterate, Solver

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
    compare: bool = True,
    on_record: Callable[[Record], None] | None = None,
) -> Solution:
    """Solve (H + λI) X = B with `solver`, and say how it went.

    `columns` chooses right-hand sides; budgets end the run after the step that reaches them; `on_record` is
    told of each recorded iterate. Steps that are recorded lie on a geometric grid, errors are evaluated
    with the clock stopped, and the residual is recomputed at the end. An exception in the solver gives a
    FAILED solution. `compare` judges every record by `problem.reference` where p allows one: the first time
    that takes a dense eigendecomposition, apart from every budget; without it `error` is None.
    """
    budget = Budget(max_steps, max_work, max_seconds)
    b = problem.columns(columns)
    # What the solver sees: no more right-hand sides than it is to solve.
    asked = problem if columns is None else replace(problem, rhs=b, certified=None)
    # The reference is computed before any clock runs.
    compare = compare and problem.reference is not None
    run = _Run(problem, asked, solver, b, columns, budget, compare, on_record)
    try:
        reason = solver.skip(asked)
        if reason:
            return Solution(None, Status.SKIPPED, str(reason))
        run.prepare(_generator(seed, stream=0))
        run.iterate(_generator(seed, stream=1))
    except Breakdown as breakdown:
        run.end(Status.BREAKDOWN, str(breakdown))
    except Divergence as divergence:
        run.diverged(str(divergence))
    except (Exception, SystemExit) as error:
        run.end(Status.FAILED, f"{type(error).__name__}: {error}")
        run.traceback = traceback.format_exc()
    return run.solution()


def _generator(seed: int, stream: int) -> torch.Generator:
    """Set-up and iteration draw from streams of their own, so that neither moves the other's numbers."""
    return torch.Generator().manual_seed(2 * seed + stream)


class _Meter:
    """Seconds and work spent inside `with` blocks; CUDA is synchronised at both ends.

    What products took to prepare later ones is kept apart from the seconds.
    """

    def __init__(self, problem: Problem) -> None:
        self._operator = problem.operator
        self._work = problem.operator.work
        self._device = problem.operator.device
        self.seconds = 0.0
        self.preparation_seconds = 0.0
        self._passes = 0

    @property
    def work(self) -> float:
        return self._work.equivalents(self._passes)

    def __enter__(self) -> None:
        self._synchronise()
        self._passes_before = self._work.passes
        self._prepared_before = self._operator.preparation_seconds
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._synchronise()
        prepared = self._operator.preparation_seconds - self._prepared_before
        self.preparation_seconds += prepared
        self.seconds += time.perf_counter() - self._began - prepared
        self._passes += self._work.passes - self._passes_before

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@dataclass
class _Run:
    """One solve under way."""

    problem: Problem
    asked: Problem
    solver: Solver
    b: Tensor
    columns: slice | None
    budget: Budget
    compare: bool
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
        # The solver gets columns scaled by powers of two, which is exact, so that no inner product under- or
        # overflows. All steps are judged in these units.
        self.scale = powers_of_two(self.b)
        # ‖b‖/λ, within which every solution lies.
        lengths = torch.linalg.vector_norm(self._scaled_rhs(), dim=0)
        self.limit = (lengths / self.problem.damping).tolist()

    def prepare(self, generator: torch.Generator) -> None:
        with self.setup:
            self.state = self.solver.prepare(self.asked, generator)

    def iterate(self, generator: torch.Generator) -> None:
        """Pull iterates until the solver ends, has converged, has spent its budget or runs away."""
        iterates = self.solver.iterates(self.asked, self.state, self._scaled_rhs(), generator)
        if not isinstance(iterates, Iterator):
            raise TypeError(
                f"`iterates` returned {_type_of(iterates)}; it must yield: write `yield Iterate(x)`"
            )
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
            try:
                self._check(iterate)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{error}{_line_of(iterates)}") from None
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
        residual = None if judged is None else self.problem.residual(judged, self._scaled_rhs())
        if self.status in (None, Status.BUDGET_SPENT):
            if judged is None or residual is None:
                self.diverged(f"x held NaN or inf at step {self.steps}")
            else:
                self._judge(judged, residual)
        assert self.status is not None
        return Solution(
            x=None if x is None else x * self.scale,
            status=self.status,
            reason=self.reason,
            history=tuple(self.history),
            steps=self.steps,
            setup_work=self.setup.work,
            work=self.meter.work,
            setup_seconds=self.setup.seconds
            + self.setup.preparation_seconds
            + self.meter.preparation_seconds,
            solve_seconds=self.meter.seconds,
            residual=residual,
            error=self._error(judged),
            energy_error=self._energy_error(judged),
            diagnostics=dict(self.last.diagnostics) if self.last else {},
            traceback=self.traceback,
        )

    def _judge(self, x: Tensor, residual: Tensor) -> None:
        tolerance = self.solver.promised_tolerance
        worst_residual = largest(residual.tolist())
        factor = self._times_limit(x)
        if self.problem.operator.is_psd and factor > WORSE_THAN_NOTHING:
            self.diverged(f"‖x‖ ended at {factor:.3g} times ‖b‖/λ, which no solution exceeds")
        elif not self.problem.operator.is_psd and worst_residual > RUNAWAY:
            self.diverged(f"the residual ended at {worst_residual:.3g} times ‖b‖ (H is indefinite)")
        elif tolerance is not None and worst_residual <= tolerance:
            self.end(Status.CONVERGED, f"residual {worst_residual:.1e} ≤ tolerance {tolerance:g}")
        elif self.status is Status.BUDGET_SPENT:
            if tolerance is not None:
                self.reason += f" at residual {worst_residual:.1e}, above the tolerance {tolerance:g}"
        elif tolerance is None:
            said = (self.last.reason if self.last else "") or "no tolerance promised"
            self.end(Status.FINISHED, f"{said}; residual {worst_residual:.1e}")
        elif self.last is not None and _all_converged(self.last):
            self.end(
                Status.BREAKDOWN,
                f"the solver's own residual is within the tolerance {tolerance:g}, the recomputed one is "
                f"{worst_residual:.1e}: raise tolerance or use float64",
            )
        else:
            self.end(
                Status.BUDGET_SPENT,
                f"it ended by itself after {self.steps} step{'' if self.steps == 1 else 's'}, at residual "
                f"{worst_residual:.1e}, above the tolerance {tolerance:g}",
            )

    def _record(self, iterate: Iterate) -> None:
        record = Record(
            step=self.steps,
            work=self.meter.work,
            seconds=self.meter.seconds,
            residual=worst(iterate.residual),
            error=worst(self._error(iterate.x)),
            energy_error=worst(self._energy_error(iterate.x)),
        )
        self.history.append(record)
        if self.on_record:
            self.on_record(record)
        factor = self._times_limit(iterate.x)
        if not math.isfinite(factor):
            self.diverged(f"x held NaN or inf at step {self.steps}")
        elif self.problem.operator.is_psd and factor > RUNAWAY:
            self.diverged(f"‖x‖ reached {factor:.3g} times ‖b‖/λ at step {self.steps}")

    def _times_limit(self, x: Tensor) -> float:
        """How many times ‖b‖/λ the longest column of x is; NaN or inf where x is not finite."""
        # A column b = 0 has no size to compare with; times zero, NaN and inf still show.
        pairs = zip(torch.linalg.vector_norm(x, dim=0).tolist(), self.limit, strict=True)
        return largest([length / limit if limit else length * 0 for length, limit in pairs])

    def _error(self, x: Tensor | None) -> Tensor | None:
        if not self.compare or x is None:
            return None
        return self.problem.error(self._in_units_of_b(x), self.columns)

    def _energy_error(self, x: Tensor | None) -> Tensor | None:
        if not self.compare or x is None:
            return None
        return self.problem.energy_error(self._in_units_of_b(x), self.columns)

    def _scaled_rhs(self) -> Tensor:
        """A new tensor each time, each column in one piece: the solver may do what it likes with its own."""
        return (self.b / self.scale).T.contiguous().T

    def _in_units_of_b(self, x: Tensor) -> Tensor:
        return x.to(torch.float64) * self.scale

    def diverged(self, what: str) -> None:
        self.end(Status.DIVERGED, f"{what}: {self.solver.remedy}")

    def _check(self, iterate: Iterate) -> None:
        """Raise TypeError or ValueError for what is not an iterate for these right-hand sides."""
        if not isinstance(iterate, Iterate):
            raise TypeError(f"the solver yielded {_type_of(iterate)}; it must yield Iterate(x), x a tensor")
        for name in ("x", "residual", "converged"):
            values = getattr(iterate, name)
            if not (isinstance(values, Tensor) or (values is None and name != "x")):
                raise TypeError(
                    f"the {name} that the solver yielded is {_type_of(values)}; needed is a tensor"
                )
        x, b = iterate.x, self.b
        if x.shape != b.shape or x.dtype != b.dtype or x.device != b.device:
            raise ValueError(
                f"the solver yielded x of shape {tuple(x.shape)}, {x.dtype}, on {x.device}; needed is "
                f"{tuple(b.shape)}, {b.dtype}, on {b.device}"
            )
        for name in ("residual", "converged"):
            values = getattr(iterate, name)
            if values is not None and values.shape != b.shape[1:]:
                raise ValueError(
                    f"the solver yielded a {name} of shape {tuple(values.shape)}; needed is one per column, "
                    f"{tuple(b.shape[1:])}"
                )


def _type_of(value: object) -> str:
    """As one writes it: `None`, `bool`, `numpy.ndarray`."""
    kind = type(value)
    if value is None:
        return "None"
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _line_of(iterates: Iterator[Iterate]) -> str:
    """Where in the solver the generator stands, " (FILE, line 12)"; nothing of another iterator."""
    frame = getattr(iterates, "gi_frame", None)
    return f" ({frame.f_code.co_filename}, line {frame.f_lineno})" if frame else ""


def _all_converged(iterate: Iterate) -> bool:
    return iterate.converged is not None and all(iterate.converged.tolist())
