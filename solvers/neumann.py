"""The truncated Neumann series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from problems import Problem
from solvers.solver import Example, Iterate, Solver, State, check_positive


@dataclass(frozen=True)
class Neumann(Solver):
    """x = η Σ_j (I − η(H + λ))ʲ b, as in Lorraine, Vicol & Duvenaud (2020).

    Converges iff 0 < η < 2/(λ_max + λ), at rate max(|1 − ηλ|, |1 − η(λ_max + λ)|) per step; a step is one
    product over all data. Ends when every column's residual is within `tolerance` or after `num_steps`.
    """

    step_size: float
    num_steps: int = 1000
    tolerance: float = 1e-6

    remedy: ClassVar[str] = "lower step_size below 2/(λ_max + λ)"

    def __post_init__(self) -> None:
        check_positive(step_size=self.step_size, num_steps=self.num_steps, tolerance=self.tolerance)

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        x = torch.zeros_like(b)
        # The series' next term over η is the residual b − (H + λ)x itself.
        residual = b.clone()
        norms = b.norm(dim=0)
        norms = norms.where(norms > 0, 1)
        for _ in range(self.num_steps):
            x.add_(residual, alpha=self.step_size)
            residual -= self.step_size * (problem.operator @ residual + problem.damping * residual)
            relative = residual.norm(dim=0) / norms
            converged = relative <= self.tolerance
            yield Iterate(x, relative, converged)
            if converged.all():
                return

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        assert problem.condition_number is not None
        solver = cls(1 / (float(problem.eigenvalues.abs().max()) + problem.damping), num_steps=20_000)
        return [Example(solver, max(1e-8, 2 * problem.condition_number * solver.tolerance))]
