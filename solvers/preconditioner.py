"""Matrices near H + λI whose inverse is cheap: solvers by themselves, and preconditioners of others."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import solvers
from problems import Problem
from problems.discovery import construct
from problems.specification import parse
from problems.validation import unknown
from problems.work import Work
from solvers.solver import Breakdown, Solver

Apply = Callable[[Tensor], Tensor]
# What a setting `preconditioner` may be: a solver by name, as in "nystrom" or "nystrom(rank=50)", or itself;
# or a function V (p, k) ↦ P⁻¹V of the user's own, symmetric and positive definite.
Preconditioning = str | Solver | Apply
NONE = "none"
# What the field calls it, and the solver that it is.
ALIASES = {"jacobi": "diagonal"}


class ApproximateInverse(ABC):
    """A symmetric P ≻ 0 near H + λI by its inverse."""

    @property
    @abstractmethod
    def multiplications(self) -> float:
        """What `solve`, and `half_solve`, take for one vector."""

    @abstractmethod
    def solve(self, vectors: Tensor) -> Tensor:
        """P⁻¹V for V (p, k), in its dtype."""

    @abstractmethod
    def half_solve(self, vectors: Tensor) -> Tensor:
        """P^-½V for V (p, k), the symmetric root, in its dtype."""


@dataclass(frozen=True)
class Preconditioner:
    """P⁻¹ as a solver applies it, counted as work; `half` is P^-½, None where only a function is given.

    `multiplications` is what a vector takes, 0 where that is not known.
    """

    apply: Apply
    half: Apply | None
    multiplications: float = 0.0

    @classmethod
    def of(cls, inverse: ApproximateInverse, work: Work) -> Preconditioner:
        """The products with `inverse`, each counted."""

        def counted(product: Apply) -> Apply:
            def apply(vectors: Tensor) -> Tensor:
                work.count_algebra(inverse.multiplications * vectors.shape[1])
                return product(vectors)

            return apply

        return cls(counted(inverse.solve), counted(inverse.half_solve), inverse.multiplications)


def as_preconditioner(setting: Preconditioning) -> Solver | Apply | None:
    """The solver, or the function, that `setting` names; None for "none".

    ValueError for a name that is unknown, or that of a solver which is no matrix near H + λI.
    """
    if setting == NONE:
        return None
    if isinstance(setting, str):
        asked = parse(setting)
        name = ALIASES.get(asked.name, asked.name)
        if name.endswith(".py"):
            setting = solvers.load(name, **asked.settings)
        else:
            known = {key: cls for key, cls in solvers.available().items() if cls.preconditions}
            if name not in known:
                raise ValueError(unknown("preconditioner", asked.name, [NONE, *ALIASES, *sorted(known)]))
            setting = construct(known[name], asked.settings, f"solver {name}")
    if isinstance(setting, Solver):
        if not type(setting).preconditions:
            raise ValueError(f"the solver {setting.name} gives no matrix to precondition with")
        return setting
    if inspect.isclass(setting) or not callable(setting):
        raise ValueError(
            f"preconditioner is {setting!r}; it must be a name, a solver or a function (not a class)"
        )
    return setting


def skip_reason(setting: Preconditioning, problem: Problem) -> str | None:
    """Why `problem` does not allow this preconditioner, or None."""
    found = as_preconditioner(setting)
    reason = found.skip(problem) if isinstance(found, Solver) else None
    return f"its preconditioner: {reason}" if reason else None


def prepare(setting: Preconditioning, problem: Problem, generator: torch.Generator) -> Preconditioner | None:
    """The preconditioner of `problem` that `setting` asks for; None for "none"."""
    found = as_preconditioner(setting)
    if found is None:
        return None
    if not isinstance(found, Solver):
        return Preconditioner(_checked(found), None)
    try:
        return Preconditioner.of(found.prepare(problem, generator), problem.operator.work)
    except Breakdown as reason:
        raise Breakdown(f"its preconditioner, {found}: {reason}; or use none") from None


def _checked(function: Apply) -> Apply:
    """`function`, of which every answer is seen to be one; ValueError otherwise."""

    def apply(vectors: Tensor) -> Tensor:
        version = vectors._version
        found = function(vectors)
        wanted = f"{tuple(vectors.shape)}, {vectors.dtype}, on {vectors.device}"
        if not isinstance(found, Tensor):
            wrong = f"returns {type(found).__name__}; {wanted} is needed"
        elif (found.shape, found.dtype, found.device) != (vectors.shape, vectors.dtype, vectors.device):
            wrong = f"returns {tuple(found.shape)}, {found.dtype}, on {found.device}; {wanted} is needed"
        elif vectors._version != version:
            wrong = "writes to the vectors it is given: return new ones"
        elif not torch.isfinite(found).all():
            wrong = "returns NaN or inf"
        else:
            return found
        raise ValueError(f"the function given as preconditioner {wrong}")

    return apply
