"""The interface of a solver: prepare once, then yield iterates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from problems import Problem
from problems.discovery import label, plugin_name

State = Any


class Breakdown(Exception):
    """The method cannot go on, for a reason that lies in the problem; the message says what to change."""


class Divergence(Exception):
    """The iterates run away, and the method has found no settings with which they do not."""


@dataclass
class Iterate:
    """One step's answer. `x` (p, k) is valid until the next iterate is yielded, the last one's for good.

    `residual` (k,) is the relative residual as the method's own recurrence has it, `converged` (k,) the
    columns that reached the method's tolerance; None where a method keeps none. `reason` is what the
    method says of ending here.
    """

    x: Tensor
    residual: Tensor | None = None
    converged: Tensor | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Example:
    """A setting that ought to solve a problem, and the relative error it claims (None: claims nothing)."""

    solver: Solver
    relative_error: float | None


@dataclass(frozen=True)
class Solver(ABC):
    """A method for (H + λI) X = B; the fields of a subclass are its settings.

    A solver with a field `tolerance` promises ‖b − (H + λI)x‖ ≤ tolerance · ‖b‖ for every column, which
    `solve` verifies. `remedy` is what to change when it diverges.
    """

    remedy: ClassVar[str] = "raise damping or choose another solver"
    # Whether `prepare` returns an ApproximateInverse, with which other solvers can be preconditioned.
    preconditions: ClassVar[bool] = False

    def skip(self, problem: Problem) -> str | None:
        """Why this solver cannot run on `problem`, or None."""
        return None

    def prepare(self, problem: Problem, generator: torch.Generator) -> State:
        """What depends on H and λ alone: computed once, timed as set-up, read-only afterwards."""
        return None

    @abstractmethod
    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        """Better and better answers for the right-hand sides `b` (p, k); a direct solver yields one.

        `b` is a copy, its columns scaled by powers of two so that their squares neither under- nor overflow.
        All columns share each product; ends when every column has converged. Raises Breakdown where the
        method cannot go on, Divergence where it runs away.
        """

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        """Settings to try on the small `problem` in the conformance suite and the benchmarks.

        By default the solver's own defaults: 2κ·tolerance where a tolerance is promised, since a relative
        residual r means a relative error of at most κ·r; rounding where none is.
        """
        solver = cls()
        tolerance = solver.promised_tolerance
        condition = problem.condition_number
        assert condition is not None
        return [Example(solver, 1e-8 if tolerance is None else max(1e-8, 2 * condition * tolerance))]

    @property
    def promised_tolerance(self) -> float | None:
        """The relative residual that every column is promised to reach, or None."""
        return getattr(self, "tolerance", None)

    @property
    def columns_are_independent(self) -> bool:
        """Whether a column alone gets the answer it gets in a block: not where all share chosen settings."""
        return True

    @property
    def name(self) -> str:
        """The name by which `solvers.load` knows this solver."""
        return plugin_name(type(self))

    def __str__(self) -> str:
        return label(self.name, self)


def check_positive(**settings: float) -> None:
    """Raise ValueError for the first setting that is not a finite number > 0."""
    for name, value in settings.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be a finite number > 0")
