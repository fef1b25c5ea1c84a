"""Randomised Nyström approximation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from problems import Problem
from problems.validation import check_counts
from solvers.low_rank import GIB, LowRankInverse, bound_for, orthonormal_rest, random_columns
from solvers.preconditioner import Preconditioner
from solvers.solver import Example, Iterate, Solver, check_positive

# The adaptive sketch starts with so many columns, and doubles them.
FIRST_RANK = 16
# Steps of power iteration for ‖H − Ĥ‖.
POWER_STEPS = 10
# Bytes per parameter and rank: test matrix, its product, an orthonormal basis of that and U, in float64.
BYTES = 32


@dataclass(frozen=True)
class Nystrom(Solver):
    """Ĥ = HΩ(ΩᵀHΩ)⁻¹ΩᵀH from H on r random vectors Ω; x = (Ĥ + λ)⁻¹b (Frangella, Tropp & Udell 2023).

    Algorithm 2.1, and E.2 for `rank` "auto": the rank doubles until power iteration finds s = ‖H − Ĥ‖ at most
    `remainder` · λ, or it is `max_rank`, or p. Needs H ⪰ 0. Up to the rounding of products 0 ⪯ Ĥ ⪯ H, so that
    ‖x − x*‖ ≤ s/(s + λ) · ‖b‖/λ, and κ ≤ 1 + s/λ as a preconditioner: below 28 in expectation from rank
    `theory.nystrom_rank(d(λ))` on. So a `remainder` of 10 preconditions, and one of 0.05 solves to 5 % of
    ‖b‖/λ; power iteration finds s from below. A rank beyond p is p, where Ĥ = H.

    Set-up: a product with r columns, (1 + 4r)/3 gradient equivalents, ten of one column for every estimate of
    s, and 6pr² multiplications, 10pr² where it doubles; then 2pr for every column. Memory: 32pr bytes, of
    which pr numbers stay.
    """

    rank: int | Literal["auto"] = "auto"
    remainder: float = 10.0
    max_rank: int = 256
    memory_gib: float = 4.0

    preconditions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.rank, str):
            if self.rank != "auto":
                raise ValueError(f"rank is {self.rank!r}; it must be a number ≥ 1, or auto")
        else:
            check_counts(rank=self.rank)
        check_counts(max_rank=self.max_rank)
        check_positive(remainder=self.remainder, memory_gib=self.memory_gib)

    def skip(self, problem: Problem) -> str | None:
        if not problem.operator.is_psd:
            return (
                "Nyström's approximation needs H ⪰ 0, and this H may be indefinite: choose the curvature ggn "
                "or the solver lanczos"
            )
        fits = self._rank_that_fits(problem)
        rank = min(FIRST_RANK if self.rank == "auto" else self.rank, problem.size)
        if rank > fits:
            needed = BYTES * problem.size * rank / GIB
            return (
                f"rank {rank} takes {needed:.2g} GiB (p = {problem.size}), memory_gib={self.memory_gib:g}: "
                "lower rank or raise memory_gib"
            )
        return None

    def prepare(self, problem: Problem, generator: torch.Generator) -> LowRankInverse:
        sketch = Sketch(problem, generator)
        if self.rank != "auto":
            sketch.grow(min(self.rank, problem.size))
            return sketch.inverse(sketch.noise if sketch.rank == problem.size else None)
        most = min(self.max_rank, problem.size, self._rank_that_fits(problem))
        allowed = self.remainder * problem.damping
        sketch.grow(min(FIRST_RANK, most))
        while True:
            last = sketch.rank == most
            # The estimate costs products: not before Ĥ has met what is allowed to remain.
            if last or sketch.smallest <= allowed:
                estimate = sketch.estimate_remainder()
                if last or estimate <= allowed:
                    return sketch.inverse(estimate)
            sketch.grow(min(2 * sketch.rank, most))

    def iterates(
        self, problem: Problem, state: LowRankInverse, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        x = Preconditioner.of(state, problem.operator.work).apply(b)
        yield Iterate(x, diagnostics=state.diagnostics)

    def _rank_that_fits(self, problem: Problem) -> int:
        return int(self.memory_gib * GIB / (BYTES * problem.size))

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.eigenvalues is not None
        assert problem.condition_number is not None
        # ‖H − Ĥ‖ ≤ ‖H‖ whatever Ω is.
        certain = bound_for(problem, float(problem.eigenvalues[-1]))
        return [
            Example(cls(rank=problem.size + 1), max(1e-8, 1e-12 * problem.condition_number)),
            Example(cls(rank=max(1, problem.size // 2)), certain),
            Example(cls(remainder=0.1), certain),
        ]


class Sketch:
    """H on a growing number of orthonormal random vectors, and what it tells of H's eigenvalues."""

    def __init__(self, problem: Problem, generator: torch.Generator) -> None:
        self.problem = problem
        self.generator = generator
        self.operator = problem.operator
        self.test = random_columns(problem, 0, generator)
        self.image = self.test
        self.basis = self.test
        self.values = self.test[0]
        # What the products' rounding leaves of ‖H − Ĥ‖, at least.
        self.noise = 0.0
        self.products = 0  # columns that H was multiplied with

    @property
    def rank(self) -> int:
        """Of the sketch; Ĥ's is less where H's is."""
        return self.test.shape[1]

    @property
    def smallest(self) -> float:
        """σ̂_r, the smallest eigenvalue of Ĥ; 0 where its rank is less than the sketch's."""
        return float(self.values[-1]) if len(self.values) == self.rank else 0.0

    def grow(self, rank: int) -> None:
        """Sketch with `rank` columns in all; those already there are kept."""
        size, before, more = self.problem.size, self.rank, rank - self.rank
        columns = orthonormal_rest(self.test, random_columns(self.problem, more, self.generator))
        # What H is multiplied with is what the algebra must know of, so the columns are rounded first.
        rounded = columns.to(self.operator.dtype)
        image = (self.operator @ rounded).to(torch.float64)
        self.products += more
        self.test = torch.cat([self.test, rounded.to(torch.float64)], dim=1)
        self.image = torch.cat([self.image, image], dim=1)
        self.operator.work.count_algebra(4 * size * before * more + 2 * size * more**2)
        self._decompose()

    def _decompose(self) -> None:
        """U and σ̂ with Ĥ = U diag(σ̂) Uᵀ (Algorithm 2.1)."""
        rank = self.rank
        core = self.test.T @ self.image
        # What products with H are off by: at least rounding, and as much as the core is seen not to be
        # symmetric. In directions where H is below that Ĥ is 0. The paper adds a shift to H instead; past H's
        # rank that leaves an error p/r times its size.
        noise = torch.finfo(self.operator.dtype).eps * float(self.image.norm())
        noise = max(noise, float((core - core.T).norm()))
        energies, directions = torch.linalg.eigh((core + core.T) / 2)
        seen = energies > noise
        # Ĥ = B Bᵀ with B = HΩ · directions/√energies, of which only the triangular factor is decomposed.
        orthonormal, triangle = torch.linalg.qr(self.image)
        small = triangle @ (directions[:, seen] / energies[seen].sqrt())
        left, singular, _ = torch.linalg.svd(small, full_matrices=False)
        self.noise = noise
        self.basis = orthonormal @ left
        self.values = singular.square()
        self.operator.work.count_algebra(4 * self.problem.size * rank**2 + 20 * rank**3)

    def estimate_remainder(self) -> float:
        """‖H − Ĥ‖ from below, by power iteration (Algorithm E.1); rounding alone where Ĥ = H."""
        if self.rank == self.problem.size:
            return self.noise
        vector = random_columns(self.problem, 1, self.generator)
        length = 0.0
        for _ in range(POWER_STEPS):
            rounded = (vector / vector.norm()).to(self.operator.dtype)
            vector = (self.operator @ rounded).to(torch.float64)
            self.products += 1
            vector -= self.basis @ (self.values[:, None] * (self.basis.T @ rounded.to(torch.float64)))
            self.operator.work.count_algebra(2 * self.basis.numel())
            length = max(length, float(vector.norm()))
            if length == 0:
                break
        return max(length, self.noise)

    def inverse(self, estimate: float | None) -> LowRankInverse:
        """(Ĥ + λ)⁻¹, with what is known of H − Ĥ."""
        damping = self.problem.damping
        told: dict[str, float] = {
            "rank": len(self.values),
            "sketch": self.rank,
            "products": self.products,
            "smallest": self.smallest,
        }
        if estimate is not None:
            told |= {
                "remainder": estimate,
                "condition": 1 + estimate / damping,
                "error over ‖b‖/λ": estimate / (estimate + damping),
            }
        return LowRankInverse(self.basis.to(self.operator.dtype), self.values, damping, told)
