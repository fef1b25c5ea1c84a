"""The exact solve by Cholesky factorisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from problems import Problem
from solvers.solver import Breakdown, Iterate, Solver, State

GIB = 2**30


@dataclass(frozen=True)
class Exact(Solver):
    """Form H + λI in float64 and factor it (Cholesky); exact to rounding times κ.

    Needs H + λI ≻ 0. Set-up: p products with H, (1 + 4p)/3 gradient equivalents, p³/3 flops and 16 p² bytes;
    then 2p² flops per column. Skips problems whose matrices would not fit in `memory_gib`.
    """

    memory_gib: float = 4.0

    remedy: ClassVar[str] = "raise damping"

    def skip(self, problem: Problem) -> str | None:
        needed = 16 * problem.size**2 / GIB
        if needed > self.memory_gib:
            return (
                f"H and a factor take {needed:.1f} GiB (p = {problem.size}), memory_gib={self.memory_gib:g}"
            )
        return None

    def prepare(self, problem: Problem, generator: torch.Generator) -> State:
        matrix = problem.operator.to(torch.float64).dense()
        matrix.diagonal().add_(problem.damping)
        factor, info = torch.linalg.cholesky_ex(matrix)
        if info:
            lowest = float(torch.linalg.eigvalsh(matrix)[0])
            raise Breakdown(
                f"H + λI is not positive definite (lowest eigenvalue {lowest:.3g}): raise damping above "
                f"{problem.damping - lowest:.3g}"
            )
        return factor

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield Iterate(torch.cholesky_solve(b.to(torch.float64), state).to(b.dtype))
