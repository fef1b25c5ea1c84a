"""What the Krylov solvers share: products with H + λI, the rule of restarts, columns that leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

import solvers
from problems import Problem
from solvers.preconditioner import NONE
from solvers.solver import Breakdown, Example, Solver

Recurrence = TypeVar("Recurrence")


def damped_product(problem: Problem, vectors: Tensor) -> Tensor:
    """(H + λI) V for V (p, k)."""
    return torch.add(problem.operator @ vectors, vectors, alpha=problem.damping)


def advance(x: Tensor, active: Tensor, direction: Tensor, length: Tensor) -> None:
    """Add length · direction (p, j) to the columns `active` (j,) of x."""
    if active.numel() == x.shape[1]:
        x.addcmul_(direction, length)
    else:
        x[:, active] += direction * length


class Certificate:
    """Which columns have converged, by residuals that are recomputed, and which must start afresh.

    A column is looked at every `check_every` steps and where its recurrence claims the tolerance. It starts
    afresh from its iterate (residual replacement, van der Vorst & Ye 2000) only where the true residual is
    more than twice the recurrence's: a replaced residual is not orthogonal to the directions, which after
    smaller drifts costs ill-conditioned matrices a fifth more steps, and near rounding convergence itself.
    """

    def __init__(self, b: Tensor, tolerance: float, check_every: int) -> None:
        self.tolerance = tolerance
        self.check_every = check_every
        self.b = b
        self.norms = torch.linalg.vector_norm(b, dim=0)
        self.residual = (self.norms > 0).to(b.dtype)  # of x = 0, relative to ‖b‖
        self.converged = self.residual <= tolerance
        # Of the recurrence: where it claims the tolerance in vain it must reach half, by which the true
        # residual has, or is more than twice as large.
        self._goal = torch.full_like(self.residual, tolerance)
        self._at_last_start = torch.full_like(self.residual, float("inf"))
        self._steps = 0
        self._active = self._none = self.active()[:0]
        self._sizes = self.norms[:0]

    def active(self) -> Tensor:
        """The columns that have not converged."""
        return (~self.converged).nonzero().flatten()

    def to_check(self, active: Tensor, norms: Tensor) -> Tensor:
        """The places in `active` (j,), with `norms` (j,) of the recurrence's residuals, that need a look."""
        self._steps += 1
        if active is not self._active:
            self._active, self._sizes = active, self.norms[active]
        relative = norms / self._sizes
        if active.numel() == self.norms.numel():
            self.residual = relative
        else:
            self.residual[active] = relative
        if self._steps % self.check_every == 0:
            return torch.arange(len(active), device=active.device)
        if min(relative.tolist()) > self.tolerance:
            return self._none
        return (relative <= self._goal[active]).nonzero().flatten()

    def recompute(self, problem: Problem, x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """b − (H + λI)x of `columns` (j,), shape (p, j), and which of them must start afresh (j,)."""
        said = self.residual[columns]
        true = self.b[:, columns] - damped_product(problem, x[:, columns])
        found = torch.linalg.vector_norm(true, dim=0) / self.norms[columns]
        self.residual[columns] = found
        self.converged[columns] = within = found <= self.tolerance
        if within.all():
            return true, ~within
        self._goal[columns] = self._goal[columns].where(said > self._goal[columns], 0.5 * self.tolerance)
        return true, ~within & (found > 2 * said)

    def start_afresh(self, columns: Tensor) -> None:
        """Note the residuals of `columns` (j,); Breakdown where one is more than half of the last time's."""
        residual = self.residual[columns]
        stalled = residual > 0.5 * self._at_last_start[columns]
        if stalled.any():
            raise Breakdown(
                f"rounding stops the residual at {float(residual[stalled].max()):.1e}, above the tolerance "
                f"{self.tolerance:g}: raise tolerance, raise damping or use float64"
            )
        self._at_last_start[columns] = residual


def negative_curvature(lowest: float, problem: Problem) -> Breakdown:
    """The Breakdown for a direction in which the Rayleigh quotient of H + λI is `lowest`."""
    return Breakdown(
        f"negative curvature: {lowest:.3g} in one direction, so H + λI is not positive definite. "
        f"Raise damping above {problem.damping - lowest:.3g} at least, or use minres"
    )


def not_positive_definite(lowest: float) -> Breakdown:
    """The Breakdown for a residual r with r·P⁻¹r = `lowest` · ‖r‖²."""
    return Breakdown(
        f"the preconditioner is not positive definite: r·P⁻¹r is {lowest:.3g} ‖r‖² for a residual r. "
        "Choose another preconditioner, use float64 if this is rounding, or none"
    )


def preconditioned_examples(plain: Example) -> Sequence[Example]:
    """The setting `plain` without a preconditioner, and with each kind that there is."""
    offered = solvers.available()
    names = [
        name for name in ("diagonal", "nystrom", "ekfac") if name in offered and offered[name].preconditions
    ]
    settings: list[Solver] = []
    for name in [NONE, *names]:
        settings.append(dataclasses.replace(plain.solver, preconditioner=name))  # type: ignore[call-arg]
    return [Example(solver, plain.relative_error) for solver in settings]


def columns_at(values: Tensor, places: Tensor) -> Tensor:
    """Those `places` of the last dimension, (p, k) or (k,); each column in one piece."""
    return values.movedim(-1, 0)[places].movedim(0, -1)


def select(recurrence: Recurrence, keep: Tensor) -> Recurrence:
    """The columns `keep` (k,) of a dataclass of tensors whose last dimension counts columns."""
    chosen = {name: columns_at(value, keep) for name, value in _tensors(recurrence).items()}
    return dataclasses.replace(recurrence, **chosen)  # type: ignore[type-var]


def overwrite(recurrence: Recurrence, places: Tensor, fresh: Recurrence) -> None:
    """Put the columns of `fresh` in the `places` (j,) of `recurrence`."""
    values = _tensors(fresh)
    for name, value in _tensors(recurrence).items():
        value[..., places] = values[name]


def _tensors(recurrence: Any) -> dict[str, Tensor]:
    return {field.name: getattr(recurrence, field.name) for field in dataclasses.fields(recurrence)}
