"""Minimising many objectives at once, a column each: quasi-Newton with or without a solver, and Adam."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from problems.bregman import BregmanObjective
from problems.validation import check_counts

# Residuals (p, j), float64 ↦ about (H + λI)⁻¹ of them.
Solve = Callable[[Tensor], Tensor]
# The share of what the slope promises that a step must lower the objective by (Armijo).
ARMIJO = 1e-4
# Shorter than this share of its first length no step is tried; than the other, where a solver gives it.
SHORTEST, SOLVED_SHORTEST = 2.0**-30, 2.0**-10
# In the network's own dtype the gradient is shortened to half of what is wanted, or to this share of its
# first length.
QUICK = 3e-4
# So many steps without a shorter gradient are the last.
PATIENCE = 10
# What the first steps could not do, though their dtype allows it, is tried so far in slow float64.
LAST_SHORTEST, LAST_PATIENCE = 2.0**-3, 2
# Adam's means of gradients and of their squares.
BETAS = (0.9, 0.999)
TINY = 1e-12


class Iterate(NamedTuple):
    """Displacements δ (p, j), Φ (j,) and ‖∇Φ‖ (j,) there, and which columns found no step, boolean (j,).

    What is not `certain` is of less precision than float64, or of some of the data.
    """

    displacements: Tensor
    values: Tensor
    gradient_norms: Tensor
    stuck: Tensor
    certain: bool = True


@dataclass(frozen=True)
class Goal:
    """Φ_ε of `examples` (j,) with `epsilons` (j,), to be minimised until ‖∇Φ‖ ≤ `wanted` (j,).

    `losses` (j,) and `gradients` (p, j) are L_m and ∇L_m at θˢ.
    """

    objective: BregmanObjective
    examples: Tensor
    epsilons: Tensor
    losses: Tensor
    gradients: Tensor
    wanted: Tensor

    @property
    def origin(self) -> Tensor:
        """Φ at δ = 0, (j,)."""
        return self.epsilons * self.losses

    @cached_property
    def scale(self) -> Tensor:
        """‖∇Φ‖ at δ = 0, (j,)."""
        return self.epsilons.abs() * self.gradients.norm(dim=0)

    @cached_property
    def rounding(self) -> Tensor:
        """What values of Φ may be off by, (j,)."""
        return self.objective.rounding(self.epsilons, self.losses)

    def quick(self) -> Goal | None:
        """As much of it as the network's own dtype allows; None where that is float64."""
        objective, wanted = self.objective.quick, (self.wanted / 2).maximum(QUICK * self.scale)
        return None if objective is None else replace(self, objective=objective, wanted=wanted)

    def evaluate(
        self, displacements: Tensor, columns: Tensor, among: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Φ (c,) and ∇Φ (p, c) of the `columns` (c,) at displacements (p, c)."""
        return self.objective.evaluate(displacements, self.examples[columns], self.epsilons[columns], among)

    def begin(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Φ (j,) and ∇Φ (p, j) at a start (p, j), whose columns become 0 where they are worse than that."""
        value, gradient = self.origin.clone(), self.epsilons * self.gradients
        moved = point.any(dim=0).nonzero()[:, 0]
        if moved.numel():
            values, gradients = self.evaluate(point[:, moved], moved)
            good = (values <= (self.origin + self.rounding)[moved]) & gradients.isfinite().all(dim=0)
            value[moved[good]], gradient[:, moved[good]] = values[good], gradients[:, good]
            point[:, moved[~good]] = 0
        return value, gradient


class Optimiser(ABC):
    """Iterates from a start (p, j); the last one's values and gradients are of all data."""

    @abstractmethod
    def iterates(self, goal: Goal, start: Tensor) -> Iterator[Iterate]:
        """Until every column has what is wanted, or can go no further."""

    @property
    @abstractmethod
    def vectors(self) -> int:
        """How many vectors (p,) it holds for each column."""


@dataclass(frozen=True)
class QuasiNewton(Optimiser):
    """L-BFGS (Liu & Nocedal 1989) whose first matrix is `solve`; a column each with a step length of its own.

    `solve` gives P r ≈ (H + λI)⁻¹r for all columns together, as roughly as one likes: without `memory` the
    step θ ← θ − P∇Φ is Newton's with the matrix at θˢ, which shrinks the gradient by what P and the change of
    the matrix leave of it; `memory` pairs of steps mend both. Without `solve` P is a multiple of the
    identity: L-BFGS alone, for when no solver is to be trusted. The step is halved until Φ falls enough. A
    step costs a gradient equivalent for each column, and for each halving one more, beside `solve`.

    The first steps are made in the network's own dtype, as far as that goes: on a CPU convolutions in float64
    take six times as long as in float32. A column ends where its gradient has long not become shorter: of
    networks with kinks (ReLU) it may jump at the minimum, on ResNets by a thousandth to a hundredth of its
    first length.
    """

    solve: Solve | None = field(default=None, repr=False)
    memory: int = 8
    max_steps: int = 200

    def __post_init__(self) -> None:
        check_counts(max_steps=self.max_steps)
        if self.memory < 0 or (self.solve is None and self.memory == 0):
            raise ValueError(
                f"memory is {self.memory}; it must be at least 0, and without `solve` at least 1: steepest "
                "descent alone would take too long"
            )

    @property
    def vectors(self) -> int:
        return 2 * self.memory + 8

    def iterates(self, goal: Goal, start: Tensor) -> Iterator[Iterate]:
        pairs = _Pairs(self.memory)
        shortest, patience = SHORTEST if self.solve is None else SOLVED_SHORTEST, PATIENCE
        quick = goal.quick()
        if quick is not None:
            for iterate in self._descend(quick, start, pairs, shortest, patience):
                start = iterate.displacements
                yield iterate._replace(certain=False)
            if bool((goal.wanted > QUICK * goal.scale).all()):
                shortest, patience = LAST_SHORTEST, LAST_PATIENCE
        yield from self._descend(goal, start, pairs, shortest, patience)

    def _descend(
        self, goal: Goal, start: Tensor, pairs: _Pairs, shortest: float, patience: int
    ) -> Iterator[Iterate]:
        point = start.clone()
        value, gradient = goal.begin(point)
        stuck = torch.zeros_like(value, dtype=torch.bool)
        least, waited = torch.full_like(value, math.inf), torch.zeros_like(value)
        for step in range(self.max_steps + 1):
            norms = gradient.norm(dim=0)
            waited = torch.where(norms < least, 0, waited + 1)
            least = norms.minimum(least)
            stuck = stuck | (waited >= patience)
            yield Iterate(point, value, norms, stuck)
            trying = ((norms > goal.wanted) & ~stuck).nonzero()[:, 0]
            if not trying.numel() or step == self.max_steps:
                return
            before, former = point.clone(), gradient.clone()
            scaling = pairs.scaling(trying, 1 / goal.objective.damping)
            direction = -pairs.apply(gradient[:, trying], trying, self.solve or scaling)
            slope = (direction * gradient[:, trying]).sum(dim=0)
            if not (slope < 0).all():
                # What does not lead down, or is no number, is done without the solver.
                direction = direction.where(slope < 0, -pairs.apply(gradient[:, trying], trying, scaling))
                slope = (direction * gradient[:, trying]).sum(dim=0)
            length = 1.0
            while trying.numel() and length >= shortest:
                values, gradients = goal.evaluate(before[:, trying] + length * direction, trying)
                after = (direction * gradients).sum(dim=0)
                good = _lower(values, after, value[trying], length, slope, goal.rounding[trying])
                taken = trying[good]
                point[:, taken] = before[:, taken] + length * direction[:, good]
                value[taken], gradient[:, taken] = values[good], gradients[:, good]
                trying, direction, slope = trying[~good], direction[:, ~good], slope[~good]
                length /= 2
            stuck = stuck.clone()
            stuck[trying] = True
            pairs.add(point - before, gradient - former)


class _Pairs:
    """The last steps s (p, j) with what they changed of the gradients, y (p, j)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, steps: Tensor, changes: Tensor) -> None:
        """Remember them; a column whose curvature sᵀy is not positive is left out."""
        if not self._most:
            return
        curvature = (steps * changes).sum(dim=0)
        least = torch.finfo(steps.dtype).eps * steps.norm(dim=0) * changes.norm(dim=0)
        inverse = torch.where(curvature > least, 1 / curvature, 0)
        self._pairs = [*self._pairs, (steps, changes, inverse)][-self._most :]

    def scaling(self, columns: Tensor, otherwise: float) -> Solve:
        """The identity times sᵀy/yᵀy of the last step of each of the `columns` (c,), or times `otherwise`."""
        found = torch.full((len(columns),), otherwise, dtype=torch.float64, device=columns.device)
        for steps, changes, inverse in self._pairs:
            s, y = steps[:, columns], changes[:, columns]
            found = torch.where(inverse[columns] > 0, (s * y).sum(dim=0) / y.square().sum(dim=0), found)
        return lambda vectors: found * vectors

    def apply(self, vectors: Tensor, columns: Tensor, first: Solve) -> Tensor:
        """The inverse Hessian's estimate applied to vectors (p, c) of the `columns` (c,): the two loops."""
        vectors = vectors.clone()
        shares = []
        for steps, changes, inverse in reversed(self._pairs):
            share = inverse[columns] * (steps[:, columns] * vectors).sum(dim=0)
            vectors -= share * changes[:, columns]
            shares.append(share)
        found = first(vectors).to(vectors)
        for (steps, changes, inverse), share in zip(self._pairs, reversed(shares), strict=True):
            back = inverse[columns] * (changes[:, columns] * found).sum(dim=0)
            found = found + (share - back) * steps[:, columns]
        return found


def _lower(
    values: Tensor, after: Tensor, before: Tensor, length: float, slope: Tensor, rounding: Tensor
) -> Tensor:
    """Which steps have lowered Φ enough (Armijo), by values or, within their rounding, by slopes.

    `slope` and `after` are those along the direction before the step and after. For quadratic functions both
    conditions are the same (Hager & Zhang 2005).
    """
    by_value = values <= before + ARMIJO * length * slope
    by_slope = (values <= before + rounding) & (after <= (2 * ARMIJO - 1) * slope)
    return (by_value | by_slope) & after.isfinite()


@dataclass(frozen=True)
class Adam(Optimiser):
    """Adam (Kingma & Ba 2015) on mini-batches of `batch_size` training examples, for very large models.

    The rate falls from `rate` to 0 by a cosine over `steps` steps, in units of |ε| rms(∇L_m)/λ, the size of a
    displacement's entries where H is small. Mini-batches leave noise in the gradient: a few hundredths of
    it are what to expect, and one gradient over all data at the end says how much it is. `seed` draws the
    mini-batches, the same for all columns.
    """

    steps: int = 2000
    batch_size: int = 32
    rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, batch_size=self.batch_size)
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate is {self.rate}; it must be a finite number > 0")

    @property
    def vectors(self) -> int:
        return 8

    def iterates(self, goal: Goal, start: Tensor) -> Iterator[Iterate]:
        generator = torch.Generator().manual_seed(self.seed)
        point = start.clone()
        everything = torch.arange(point.shape[1], device=point.device)
        size = goal.scale / math.sqrt(len(point)) / goal.objective.damping
        mean, square = torch.zeros_like(point), torch.zeros_like(point)
        stuck = torch.zeros_like(everything, dtype=torch.bool)
        count = len(goal.objective.training)
        for step in range(1, self.steps + 1):
            among = torch.randint(count, (min(self.batch_size, count),), generator=generator)
            values, gradients = goal.evaluate(point, everything, among)
            mean.lerp_(gradients, 1 - BETAS[0])
            square.lerp_(gradients.square(), 1 - BETAS[1])
            rate = self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2
            corrected = mean / (1 - BETAS[0] ** step)
            spread = (square / (1 - BETAS[1] ** step)).sqrt()
            point = point - rate * size * corrected / (spread + TINY * goal.scale)
            if step < self.steps:
                yield Iterate(point, values, gradients.norm(dim=0), stuck, certain=False)
        values, gradients = goal.evaluate(point, everything)
        yield Iterate(point, values, gradients.norm(dim=0), stuck)
