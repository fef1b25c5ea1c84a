"""The identity: no curvature at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from problems import Problem
from solvers.solver import Example, Iterate, Solver, State


@dataclass(frozen=True)
class Identity(Solver):
    """x = b/λ: gradient similarity, the baseline that every solver must beat.

    Error at most λ_max/(λ_max + λ) relative to ‖b‖/λ; exact as λ → ∞. Costs no products.
    """

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield Iterate(b / problem.damping)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        # ‖x − x*‖ ≤ λ_max/(λ_max + λ) ‖b‖/λ and ‖x*‖ ≥ ‖b‖/(λ_max + λ), so relative to ‖x*‖ it is λ_max/λ.
        assert problem.eigenvalues is not None
        return [Example(cls(), float(problem.eigenvalues.abs().max()) / problem.damping)]
