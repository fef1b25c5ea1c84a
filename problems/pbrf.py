"""Proximal Bregman responses: what a training example does to queries, without any linear system."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from problems import pbrf_cache
from problems.bregman import BregmanObjective
from problems.convexity import Convexity, Floor
from problems.descent import Goal, Iterate, Optimiser, QuasiNewton
from problems.determinism import check_deterministic
from problems.extrapolation import Limit, lagrange, limit
from problems.operators.micro_batches import default_max_bytes
from problems.operators.network import NetworkOperator
from problems.problem import Problem

# Is told what is done next and what share of all is done.
OnProgress = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Response:
    """θ(ε) = argmin Φ_ε of one training example m, by what it does to the queries.

    `influences` (q,), float64 on the CPU, are (L_q(θ(ε)) − L_q(θˢ))/ε, near −∇L_qᵀ(H + λ)⁻¹∇L_m for small ε;
    `displacement` is ‖θ(ε) − θˢ‖, `displacement_error` its relative error at most, if Φ is as convex on
    the way as at θˢ; `relative_gradient` is ‖∇Φ‖ over its value |ε|‖∇L_m‖ at θˢ, `decrease`
    Φ(θˢ) − Φ(θ(ε)). What has not `converged` is no truth: `reason` says why, and where Φ need not be convex.
    `floor` is where λ_min(∇²Φ) at θˢ lies at least, `steps` the optimiser's, `work` in gradient equivalents,
    and work and seconds its share of those of the examples it was optimised together with.
    """

    example: int
    epsilon: float
    influences: Tensor
    displacement: float
    displacement_error: float
    relative_gradient: float
    decrease: float
    converged: bool
    reason: str
    floor: float
    steps: int
    work: float
    seconds: float


class _End(NamedTuple):
    """Where the optimiser left one column."""

    displacement: Tensor
    gradient_norm: float
    relative_gradient: float
    decrease: float
    lowered: bool
    small: bool
    stuck: bool
    steps: int


class _Block:
    """Training examples that are optimised together, with what is known of them at θˢ."""

    def __init__(self, objective: BregmanObjective, examples: Sequence[int]) -> None:
        self.examples = torch.tensor(examples)
        self.losses, self.gradients = objective.example_gradients(examples)
        # Displacements (p, j) at the ε so far, and the columns that had all of them converge.
        self._path: list[tuple[float, Tensor]] = []
        self._trusted = torch.ones_like(self.losses, dtype=torch.bool)

    def start(self, epsilon: float, columns: Tensor) -> Tensor:
        """δ by the polynomial in ε through δ(0) = 0 and what is known; 0 where that is not to be trusted."""
        nodes = torch.tensor([0.0, *(known for known, _ in self._path)], dtype=torch.float64)
        weights = lagrange(nodes, epsilon).tolist()[1:]
        total = torch.zeros_like(self.gradients[:, columns])
        for weight, (_, displacements) in zip(weights, self._path, strict=True):
            total = total + weight * displacements[:, columns]
        return total.where(self._trusted[columns], 0)

    def remember(self, epsilon: float, columns: Tensor, displacements: Tensor, converged: Tensor) -> None:
        """What was found at ε; of the other columns nothing was."""
        whole = torch.zeros_like(self.gradients)
        whole[:, columns] = displacements
        self._path.append((epsilon, whole))
        trusted = torch.zeros_like(self._trusted)
        trusted[columns] = converged
        self._trusted &= trusted


def responses(
    problem: Problem,
    examples: Sequence[int] | Tensor,
    epsilons: Sequence[float] = (0.01, -0.01, 0.005, -0.005),
    *,
    optimiser: Optimiser | None = None,
    tolerance: float = 1e-6,
    max_bytes: int | None = None,
    keeps: bool = True,
    on_progress: OnProgress | None = None,
) -> list[Response]:
    """Responses of the training `examples` at each of `epsilons`, by example and then ε.

    In float64. Converged is ‖∇Φ‖ ≤ `tolerance` |ε| ‖∇L_m(θˢ)‖, and Φ no higher than at θˢ. Examples are
    optimised together, as many as `max_bytes` hold (by default a quarter of the memory, on a CPU 4 GiB at
    most), from what the ε before let expect: the order of `epsilons` counts for speed alone. `optimiser` is
    by default L-BFGS without a solver. With `keeps` what has converged is kept in the cache, by a hash of all
    it depends on but the optimiser, and read from there the next time.

    Where a network has kinks, as ReLUs are, the gradient may jump at the minimum by a thousandth to a
    hundredth of its first length: no `tolerance` below that can be had.

    Raises ValueError for a bare matrix, ε = 0 or twice the same, examples there are none of, and a model that
    is not in evaluation mode; ArithmeticError for an example whose gradient is not finite.
    """
    objective = _objective(problem, examples, epsilons, tolerance)
    optimiser = optimiser or QuasiNewton()
    wanted = [int(example) for example in examples]
    folder = pbrf_cache.folder_of(objective, tolerance) if keeps else None
    found = _kept(folder, wanted, epsilons)
    missing = [m for m in dict.fromkeys(wanted) if any((m, epsilon) not in found for epsilon in epsilons)]
    room = max_bytes or default_max_bytes(objective.function.device)
    size = max(1, room // (8 * objective.size * (optimiser.vectors + len(epsilons) + 2)))
    responder = _Responder(problem, objective, optimiser, tolerance, on_progress) if missing else None
    for first in range(0, len(missing), size):
        block = _Block(objective, missing[first : first + size])
        for place, epsilon in enumerate(epsilons):
            assert responder is not None
            responder.done = (first + len(block.examples) * place / len(epsilons)) / len(missing)
            open_ = [column for column, m in enumerate(block.examples.tolist()) if (m, epsilon) not in found]
            for response in responder.respond(block, torch.tensor(open_, dtype=torch.long), epsilon):
                found[response.example, epsilon] = response
                if folder and response.converged:
                    pbrf_cache.keep(folder, response.example, epsilon, _plain(response))
    return [found[example, epsilon] for example in wanted for epsilon in epsilons]


class _Responder:
    """Minimises Φ_ε for the columns of a block and says what came of it."""

    def __init__(
        self,
        problem: Problem,
        objective: BregmanObjective,
        optimiser: Optimiser,
        tolerance: float,
        on_progress: OnProgress | None,
    ) -> None:
        assert isinstance(problem.operator, NetworkOperator)
        self.objective = objective
        self.optimiser = optimiser
        self.tolerance = tolerance
        self.convexity = Convexity(problem.operator)
        self.at_start = objective.query_losses()
        self.done = 0.0
        self._on_progress = on_progress

    def respond(self, block: _Block, columns: Tensor, epsilon: float) -> list[Response]:
        """Responses of the `columns` (c,) of the block, in order."""
        began, passes = time.perf_counter(), self.objective.task.work.passes
        examples = block.examples[columns].tolist()
        floors = [self.convexity.floor(m, epsilon, self.objective.damping) for m in examples]
        convex = torch.tensor([self._is_convex(floor) is not False for floor in floors], dtype=torch.bool)
        found: dict[int, Response] = {
            m: self._not_convex(m, epsilon, floor)
            for m, floor in zip(examples, floors, strict=True)
            if self._is_convex(floor) is False
        }
        ends = self._minimise(block, columns[convex], epsilon)
        for m, floor in zip(examples, floors, strict=True):
            if m in ends:
                warning = "" if self._is_convex(floor) else f"; {self._doubt(floor)}"
                response = self._judge(m, epsilon, floor.least + self.objective.damping, ends[m])
                found[m] = replace(response, reason=response.reason + warning)
        seconds = (time.perf_counter() - began) / max(1, len(examples))
        work = self.objective.task.work.equivalents(self.objective.task.work.passes - passes)
        return [replace(found[m], seconds=seconds, work=work / len(examples)) for m in examples]

    def _minimise(self, block: _Block, columns: Tensor, epsilon: float) -> dict[int, _End]:
        """Where the optimiser ended, by example."""
        start = block.start(epsilon, columns)
        if not len(columns):
            block.remember(epsilon, columns, start, torch.zeros_like(start[0], dtype=torch.bool))
            return {}
        losses, gradients = block.losses[columns], block.gradients[:, columns]
        goal = Goal(
            self.objective,
            block.examples[columns].to(losses.device),
            torch.full_like(losses, epsilon),
            losses,
            gradients,
            self.tolerance * abs(epsilon) * gradients.norm(dim=0),
        )
        steps = torch.zeros(len(columns), dtype=torch.long, device=losses.device)
        for step, iterate in enumerate(self.optimiser.iterates(goal, start)):
            steps[(iterate.gradient_norms > goal.wanted) | (not iterate.certain)] = step + 1
            self._show(step, epsilon, iterate, goal)
        lowered = iterate.values <= goal.origin + goal.rounding
        small = (iterate.gradient_norms <= goal.wanted) & iterate.certain
        block.remember(epsilon, columns, iterate.displacements, small & lowered)
        relative = torch.where(goal.scale > 0, iterate.gradient_norms / goal.scale, 0)
        return {
            int(m): _End(
                iterate.displacements[:, column],
                float(iterate.gradient_norms[column]),
                float(relative[column]),
                float(goal.origin[column] - iterate.values[column]),
                bool(lowered[column]),
                bool(small[column]),
                bool(iterate.stuck[column]),
                int(steps[column]),
            )
            for column, m in enumerate(goal.examples)
        }

    def _judge(self, example: int, epsilon: float, floor: float, end: _End) -> Response:
        losses = self.objective.query_losses(end.displacement)
        influences = (losses - self.at_start) / epsilon
        converged = end.small and end.lowered and bool(influences.isfinite().all())
        if converged:
            reason = f"gradient {end.relative_gradient:.1e} ≤ tolerance {self.tolerance:g}"
        elif not end.lowered:
            reason = (
                f"the objective rose by {-end.decrease:.2e} above its value at θˢ; no shorter step mends it: "
                "use another optimiser, a smaller |ε| or a larger damping"
            )
        elif end.stuck:
            reason = (
                f"no step shortened the gradient below {end.relative_gradient:.1e}, above the tolerance "
                f"{self.tolerance:g}: raise tolerance, to about 0.01 if the network has kinks, as ReLUs are"
            )
        else:
            reason = (
                f"{end.steps} steps ended at gradient {end.relative_gradient:.1e}, above the tolerance "
                f"{self.tolerance:g}: take more steps, an optimiser nearer to Newton's or a larger damping"
            )
        return Response(
            example=example,
            epsilon=epsilon,
            influences=influences.cpu(),
            displacement=(length := float(end.displacement.norm())),
            displacement_error=_quotient(end.gradient_norm, floor * length),
            relative_gradient=end.relative_gradient,
            decrease=end.decrease,
            converged=converged,
            reason=reason,
            floor=floor,
            steps=end.steps,
            work=0.0,
            seconds=0.0,
        )

    def _not_convex(self, example: int, epsilon: float, floor: Floor) -> Response:
        damping = self.objective.damping
        reason = (
            "the objective is not convex near θˢ: its Hessian has an eigenvalue of at most "
            f"{floor.most + damping:.3g} at λ = {damping:g}, ε = {epsilon:g}; take a smaller |ε|, or "
            f"a larger λ: more than {-floor.least:.3g} is never needed"
        )
        nothing = torch.full_like(self.at_start, math.nan).cpu()
        nan = math.nan
        return Response(
            example, epsilon, nothing, nan, nan, nan, nan, False, reason, floor.least + damping, 0, 0.0, 0.0
        )

    def _is_convex(self, floor: Floor) -> bool | None:
        """None where Lanczos does not say."""
        if floor.most + self.objective.damping <= 0:
            return False
        return True if floor.least + self.objective.damping > 0 else None

    def _doubt(self, floor: Floor) -> str:
        return (
            "the objective may not be convex near θˢ: an eigenvalue of its Hessian lies between "
            f"{floor.least + self.objective.damping:.3g} and {floor.most + self.objective.damping:.3g}"
        )

    def _show(self, step: int, epsilon: float, iterate: Iterate, goal: Goal) -> None:
        if self._on_progress is None:
            return
        worst = float(torch.where(goal.scale > 0, iterate.gradient_norms / goal.scale, 0).max())
        told = f"gradient {'' if iterate.certain else 'about '}{worst:.1e}"
        self._on_progress(f"response at ε = {epsilon:g}, step {step}, {told}", self.done)


def extrapolated(found: Sequence[Response]) -> Limit:
    """Influences (q,) for ε → 0 from one example's responses, with how far they may be off.

    By those that have converged; ValueError where none has, or they are of several examples.
    """
    examples = sorted({response.example for response in found})
    if len(examples) != 1:
        raise ValueError(f"the responses are of the examples {examples}; one is needed")
    usable = [response for response in found if response.converged]
    if not usable:
        raise ValueError(f"no response of example {examples[0]} has converged: {found[0].reason}")
    epsilons = torch.tensor([response.epsilon for response in usable], dtype=torch.float64)
    return limit(epsilons, torch.stack([response.influences for response in usable]))


def _objective(
    problem: Problem, examples: Sequence[int] | Tensor, epsilons: Sequence[float], tolerance: float
) -> BregmanObjective:
    if problem.task is None:
        raise ValueError(f"{problem.name} is a bare matrix without training examples: choose a model")
    check_epsilons(epsilons)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; it must lie between 0 and 1")
    available = len(problem.task.training)
    for example in examples:
        if not 0 <= int(example) < available:
            raise ValueError(
                f"there is no training example {int(example)}; {problem.name} has 0 to {available - 1}"
            )
    task = problem.task
    check_deterministic(task.function, task.loss, task.training, task.queries)
    return BregmanObjective(task, problem.damping)


def _quotient(value: float, over: float) -> float:
    """value/over; 0 of 0, and ∞ where there is nothing to divide by."""
    if value == 0:
        return 0.0
    return value / over if over > 0 else math.inf


def check_epsilons(epsilons: Sequence[float]) -> None:
    """Raise ValueError where there is none, one is 0 or not finite, or comes twice."""
    if not epsilons:
        raise ValueError("epsilons is empty; name at least one, as 0.01")
    for epsilon in epsilons:
        if epsilon == 0 or not math.isfinite(epsilon):
            raise ValueError(
                f"epsilons has {epsilon}; θ(0) is θˢ itself, so that ε must be a finite number other than 0: "
                "extrapolate from small ones"
            )
    if len(set(epsilons)) < len(epsilons):
        raise ValueError(f"epsilons is {list(epsilons)}; each must be there once")


def _kept(
    folder: Path | None, examples: Sequence[int], epsilons: Sequence[float]
) -> dict[tuple[int, float], Response]:
    found = {}
    for example in dict.fromkeys(examples) if folder else ():
        for epsilon in epsilons:
            assert folder is not None
            known = pbrf_cache.read(folder, example, epsilon)
            if known is not None:
                influences = torch.tensor(known.pop("influences"), dtype=torch.float64)
                found[example, epsilon] = Response(**known, influences=influences)
    return found


def _plain(response: Response) -> dict[str, Any]:
    return asdict(replace(response, influences=None)) | {"influences": response.influences.tolist()}  # type: ignore[arg-type]
