"""The diagonal of H: Jacobi's preconditioner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from problems import Problem
from solvers.preconditioner import ApproximateInverse, Preconditioner
from solvers.solver import Breakdown, Example, Iterate, Solver


@dataclass(frozen=True)
class DiagonalInverse(ApproximateInverse):
    """P = diag(`entries`), shape (p,), all > 0."""

    entries: Tensor

    @property
    def multiplications(self) -> float:
        return len(self.entries)

    def solve(self, vectors: Tensor) -> Tensor:
        return vectors / self.entries[:, None]

    def half_solve(self, vectors: Tensor) -> Tensor:
        return vectors / self.entries.sqrt()[:, None]


@dataclass(frozen=True)
class Diagonal(Solver):
    """x = (diag(H) + λ)⁻¹ b; exact where H is diagonal. As a preconditioner: Jacobi's.

    Set-up: the diagonal from one backward pass for each of r outputs, (1 + 2r)/3 gradient equivalents; from
    p products, (1 + 4p)/3, where H has no root (the Hessian). Memory: p numbers.
    """

    preconditions: ClassVar[bool] = True

    def prepare(self, problem: Problem, generator: torch.Generator) -> DiagonalInverse:
        entries = problem.operator.diagonal() + problem.damping
        if not bool((entries > 0).all()):
            raise Breakdown(
                f"an entry of the diagonal of H + λI is {float(entries.min()):.3g}, so it is not positive "
                f"definite: raise damping above {problem.damping - float(entries.min()):.3g}"
            )
        return DiagonalInverse(entries)

    def iterates(
        self, problem: Problem, state: DiagonalInverse, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield Iterate(Preconditioner.of(state, problem.operator.work).apply(b))

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        # P⁻¹b − x* = P⁻¹(H − diag H)x*.
        assert problem.eigenvalues is not None
        matrix = problem.operator.to(torch.float64).dense()
        beside = matrix - matrix.diagonal().diag()
        entries = matrix.diagonal() + problem.damping
        error = torch.linalg.matrix_norm(beside / entries[:, None], 2)
        return [Example(cls(), float(error) + 1e-9)]
