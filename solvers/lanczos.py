"""Low rank by Lanczos: the eigenvectors of H that a Krylov space shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from problems import Problem
from problems.spectrum.lanczos import Tridiagonal
from problems.validation import check_counts
from solvers.low_rank import GIB, LowRankInverse, orthonormal_rest, random_columns
from solvers.preconditioner import Preconditioner
from solvers.solver import Breakdown, Example, Iterate, Solver, check_positive

# Bytes per parameter and step: the Krylov basis and U, in float64.
BYTES = 16
# c: how much the pairs kept by default may be coupled to the rest, in the geometry of P.
LARGEST_COUPLING = 0.5


@dataclass(frozen=True)
class Lanczos(Solver):
    """x = (Ĥ + λ)⁻¹b, Ĥ the Ritz pairs of H of largest |θ| in a random vector's Krylov space, λ beside them.

    Arnoldi's low rank (Schioppa et al. 2022), which for a symmetric H is Lanczos with full
    reorthogonalisation; theirs drops the complement, without which the answer is useless under damping. Where
    the space is invariant it goes on from a fresh vector beside it, until nothing of H is left.

    Of `num_steps` steps the `rank` largest pairs are kept. A pair that has not converged, Hu = θu + ρq with ρ
    not small, is coupled to what is left out, and P takes both for separate: c² = Σ ρ²/((θ + λ)λ) of those
    kept is what counts. By default it is ≤ 1/4: then, for H ⪰ 0, P^-½(H + λ)P^-½ has its eigenvalues between
    1 − c and 1 + c + s/λ, s = ‖(I − UUᵀ)H(I − UUᵀ)‖. Error: ‖x − x*‖ ≤ ‖H − Ĥ‖/(λ + min(θ, 0)) · ‖x*‖; with
    converged pairs of an H ⪰ 0, s the next eigenvalue, also ≤ s/(s + λ) · ‖b‖/λ. H may be indefinite while
    θ + λ > 0 for all Ritz values: Breakdown where it is not.

    Set-up: m = `num_steps` products of one column one after the other, 5m/3 gradient equivalents, and
    2pm² + pmr multiplications; then 2pr for every column. Memory: 16pm bytes, of which pr numbers stay.
    """

    num_steps: int = 50
    rank: int | None = None
    memory_gib: float = 4.0

    preconditions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts(num_steps=self.num_steps)
        if self.rank is not None:
            check_counts(rank=self.rank)
        check_positive(memory_gib=self.memory_gib)

    def skip(self, problem: Problem) -> str | None:
        needed = BYTES * problem.size * min(self.num_steps, problem.size) / GIB
        if needed > self.memory_gib:
            return (
                f"{self.num_steps} vectors take {needed:.2g} GiB (p = {problem.size}), "
                f"memory_gib={self.memory_gib:g}: lower num_steps or raise memory_gib"
            )
        return None

    def prepare(self, problem: Problem, generator: torch.Generator) -> LowRankInverse:
        basis, reduced = krylov_space(problem, min(self.num_steps, problem.size), generator)
        values, coordinates = reduced.eigen
        if problem.operator.is_psd:
            values = values.clamp_min(0)  # below 0 by rounding alone
        lowest = float(values[0])
        if not lowest + problem.damping > 0:
            raise Breakdown(
                f"H has a Ritz value of {lowest:.3g}, so H + λI is not positive definite: raise damping "
                f"above {-lowest:.3g} at least, or use minres"
            )
        order = values.abs().argsort(descending=True)
        couplings = (reduced.residuals.square() / (problem.damping * (values + problem.damping)))[order]
        couplings = couplings.cumsum(0).sqrt()
        rank = int((couplings <= LARGEST_COUPLING).sum()) if self.rank is None else self.rank
        kept, left = order[:rank], order[rank:]
        told: dict[str, Any] = {
            "rank": len(kept),
            "steps": len(values),
            "smallest kept": float(values[kept[-1]]) if len(kept) else None,
            "largest left out": float(values[left[0]]) if len(left) else None,
            "coupling": float(couplings[len(kept) - 1]) if len(kept) else 0.0,
        }
        device = basis.device
        problem.operator.work.count_algebra(basis.numel() * len(kept) + 10 * len(values) ** 3)
        vectors = basis @ coordinates[:, kept].to(device)
        return LowRankInverse(
            vectors.to(problem.operator.dtype), values[kept].to(device), problem.damping, told
        )

    def iterates(
        self, problem: Problem, state: LowRankInverse, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        x = Preconditioner.of(state, problem.operator.work).apply(b)
        yield Iterate(x, diagnostics=state.diagnostics)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        assert problem.condition_number is not None
        smallest, largest = min(float(problem.eigenvalues[0]), 0.0), float(problem.eigenvalues[-1])
        # Whatever the space is: of a compression Ĥ = QQᵀHQQᵀ, ‖H − Ĥ‖ is at most the spectrum's range.
        certain = (max(largest, 0.0) - smallest) / (problem.damping + smallest)
        return [
            Example(cls(num_steps=problem.size + 1), max(1e-8, 1e-12 * problem.condition_number)),
            Example(cls(num_steps=max(1, problem.size // 2), rank=max(1, problem.size // 4)), certain),
        ]


def krylov_space(problem: Problem, max_steps: int, generator: torch.Generator) -> tuple[Tensor, Tridiagonal]:
    """Orthonormal Q (p, m), float64, and QᵀHQ, m ≤ `max_steps`, from random starts (Lanczos 1950).

    Every direction is orthogonalised against all before it. A new start follows where the space is
    invariant; m < `max_steps` where H is 0, to rounding, on all that is beside it.
    """
    operator = problem.operator
    # A vector in one piece each.
    basis = torch.empty(max_steps, problem.size, dtype=torch.float64, device=operator.device)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    largest, fresh = 0.0, True
    direction = random_columns(problem, 1, generator)[:, 0]
    for step in range(max_steps):
        if fresh:
            direction = orthonormal_rest(basis[:step].T, direction[:, None])[:, 0]
        product = (operator @ direction.to(operator.dtype)).to(torch.float64)
        quotient = float(direction @ product)
        basis[step] = direction
        known = basis[: step + 1]
        operator.work.count_algebra(4 * known.numel())
        # Twice is enough (Kahan; Parlett 1998).
        for _ in range(2):
            product = torch.addmv(product, known.T, known @ product, alpha=-1)
        length = float(torch.linalg.vector_norm(product))
        largest = max(largest, abs(quotient), length)
        rounding = 10 * torch.finfo(operator.dtype).eps * largest
        if fresh and step and max(length, abs(quotient)) <= rounding:
            # A random vector beside the space that H takes to 0: there is nothing more.
            basis = basis[:step]
            break
        fresh = length <= rounding or step + 1 == problem.size
        diagonal.append(quotient)
        off_diagonal.append(0.0 if fresh else length)
        direction = random_columns(problem, 1, generator)[:, 0] if fresh else product / length
    return basis.T, Tridiagonal(
        torch.tensor(diagonal, dtype=torch.float64), torch.tensor(off_diagonal, dtype=torch.float64), 1.0
    )
