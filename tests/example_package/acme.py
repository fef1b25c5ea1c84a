"""What another package may offer: the solver `acme_minimal_residual` and the problems `acme_path_graph`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from problems import DenseOperator, Problem, ProblemFamily
from solvers import Iterate, Solver, State


@dataclass(frozen=True)
class MinimalResidual(Solver):
    """x ← x + (rᵀAr/‖Ar‖²) r with A = H + λI and r = b − Ax, from 0 (Krasnosel'skii & Krein 1952).

    Converges for A ≻ 0; ‖r‖ falls by at least (κ − 1)/(κ + 1) in every step, which costs one product.
    """

    tolerance: float = 1e-6
    num_steps: int = 20_000

    variant: ClassVar[str] = "minimal_residual"

    def iterates(
        self, problem: Problem, state: State, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        x, r = torch.zeros_like(b), b
        norms = b.norm(dim=0).where(b.any(dim=0), 1)
        for _ in range(self.num_steps):
            product = problem.operator @ r + problem.damping * r
            square = product.square().sum(dim=0)
            step = torch.where(square > 0, (r * product).sum(dim=0) / square, 0)
            x, r = x + step * r, r - step * product
            residual = r.norm(dim=0) / norms
            yield Iterate(x, residual, residual <= self.tolerance)
            if (residual <= self.tolerance).all():
                return


@dataclass(frozen=True)
class PathGraph(ProblemFamily):
    """The Laplacian of a path: an example is an edge, and the eigenvalues are (4 − 4 cos(πj/p))/2(p − 1)."""

    nodes: int = 12
    damping: float = 0.01

    variant: ClassVar[str] = "path_graph"

    @classmethod
    def examples(cls) -> Sequence[PathGraph]:
        return (cls(nodes=5),)

    def build(self, *, device: torch.device, dtype: torch.dtype, seed: int) -> Problem:
        edges = torch.diff(torch.eye(self.nodes, dtype=dtype), dim=0)
        generator = torch.Generator().manual_seed(seed)
        rhs = torch.randn(self.nodes, 2, generator=generator, dtype=torch.float64)
        operator = DenseOperator((edges[:, :, None] * edges[:, None, :]).to(device))
        return Problem("path_graph", operator, self.damping, rhs.to(device, dtype))
