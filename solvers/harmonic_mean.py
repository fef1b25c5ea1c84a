"""The mean of the examples' inverses, in place of the inverse of their mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from problems import Problem
from solvers.solver import Example, Iterate, Solver, check_positive

GIB = 2**30
# One example's rows, in the operator's dtype and in float64, and RRᵀ with its factor.
ROW_BYTES, GRAM_BYTES = 16, 16


@dataclass(frozen=True)
class HarmonicMean(Solver):
    """x = mean over examples of (hᵢ + λ)⁻¹b, hᵢ = RᵢᵀRᵢ, on all parameters together.

    DataInf's step (Kwon et al. 2023) alone, with the examples' own curvature and nothing dropped. By
    Woodbury's formula it is (b − mean Rᵢᵀ(λ + RᵢRᵢᵀ)⁻¹Rᵢb)/λ. Exact where all hᵢ are equal. The inverse is
    operator convex, so (H + λ)⁻¹ ⪯ P⁻¹ ⪯ 1/λ and ‖x − x*‖ ≤ λ_max/(λ_max + λ) · ‖b‖/λ, the bound of b/λ.
    It comes near that where the hᵢ have little in common: a direction in which one of n examples curves is
    divided by λ in all others.

    Per call: the rows of the root, (1 + 2r)/3 gradient equivalents, and n(r²p/2 + r³/6 + 2rpk)
    multiplications for k columns. Memory: 16rp + 16r² bytes for an example, r being a sequence's tokens
    times their outputs.
    """

    memory_gib: float = 4.0

    def __post_init__(self) -> None:
        check_positive(memory_gib=self.memory_gib)

    def skip(self, problem: Problem) -> str | None:
        rank = problem.operator.root_rank
        if not rank:
            return "it needs a root of every hᵢ, which the Gauss–Newton and the Fisher matrices have"
        needed = ROW_BYTES * rank * problem.size + GRAM_BYTES * rank**2
        if needed > self.memory_gib * GIB:
            return (
                f"{rank} rows of p = {problem.size} for one example take {needed / GIB:.2g} GiB, and "
                f"memory_gib={self.memory_gib:g}: raise it, or use datainf"
            )
        return None

    def iterates(
        self, problem: Problem, state: None, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        operator, damping = problem.operator, problem.damping
        wide = b.to(torch.float64)
        removed = torch.zeros_like(wide)
        for block in operator.root_blocks():
            # One by one, so that what is held in float64 is one example's.
            for rows in block:
                exact = rows.to(torch.float64)
                gram = exact @ exact.T
                gram.diagonal().add_(damping)
                removed += exact.T @ torch.cholesky_solve(exact @ wide, torch.linalg.cholesky(gram))
        rank, size = operator.root_rank, problem.size
        each = rank**2 * size / 2 + rank**3 / 6 + 2 * rank * b.numel()
        operator.work.count_algebra(operator.num_draws * each)
        yield Iterate(((wide - removed / operator.num_draws) / damping).to(b.dtype))

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        operator = problem.operator
        if not operator.root_rank:
            return [Example(cls(), None)]
        # x − x* = (P⁻¹(H + λ) − I)x*, P⁻¹ by inverting every example's matrix.
        identity = torch.eye(problem.size, dtype=torch.float64, device=operator.device)
        matrix, inverse = torch.zeros_like(identity), torch.zeros_like(identity)
        for block in operator.root_blocks():
            for rows in block.to(torch.float64):
                own = rows.T @ rows / operator.num_draws
                matrix += own
                inverse += torch.linalg.inv(operator.num_draws * own + problem.damping * identity)
        remainder = inverse / operator.num_draws @ (matrix + problem.damping * identity) - identity
        return [Example(cls(), float(torch.linalg.matrix_norm(remainder, 2)) + 1e-9)]
