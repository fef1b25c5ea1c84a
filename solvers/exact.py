"""The exact solve: by Cholesky, by eigenvectors, or through the dual."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import scipy.linalg
import torch
from torch import Tensor

from problems import Problem
from problems.operators.base import CurvatureOperator
from solvers.dual import add_gram, dual_inverse, symmetric
from solvers.exact_ways import GIB, Counts, Way, WayName, ways
from solvers.solver import Breakdown, Example, Iterate, Solver, check_positive

Method = Literal["auto", "cholesky", "eigen", "dual"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Factored:
    """(H + λI)⁻¹B by `solve`, in float64; it counts its own work."""

    solve: Callable[[Tensor], Tensor]
    diagnostics: Mapping[str, Any]


@dataclass(frozen=True)
class Exact(Solver):
    """(H + λI)⁻¹b by a factorisation in float64; exact to rounding times κ.

    `method`: "cholesky" of H + λI ≻ 0; "eigen", H's eigenvectors, for every H + λI that is not singular;
    "dual", for H = RᵀR with N = n·r rows of R, fewer than p: x = (b − Rᵀ(RRᵀ + λI)⁻¹R b)/λ (Woodbury 1950);
    "auto", of Cholesky and dual what is cheaper by count and fits.

    Set-up: H from p products, (1 + 4p)/3 gradient equivalents, or from the rows of R, (1 + 2r)/3 and Np²/2
    multiplications, whichever is cheaper by count; then p³/6 for Cholesky and 10p³ for eigenvectors. Dual:
    the rows, N²p/2 and N³/6. A column takes p², 2p², and 6Np + 2N² multiplications. Memory: 16p², 32p², and
    8Np + 16N² bytes, beside what the operator takes; where R does not fit in `memory_gib`, its rows are
    computed anew for every block of them and for every product.
    """

    method: Method = "auto"
    memory_gib: float = 4.0

    remedy: ClassVar[str] = "raise damping"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; it must be one of {', '.join(METHODS)}")
        check_positive(memory_gib=self.memory_gib)

    def skip(self, problem: Problem) -> str | None:
        found = self.ways(problem)
        if not found:
            return "the dual needs a root of H by examples, which the Gauss–Newton and the Fisher matrix have"
        if any(self._fits(way) for way in found):
            return None
        needed = ", ".join(f"{way.name} {way.bytes / GIB:.2g} GiB" for way in found)
        return (
            f"p = {problem.size} needs memory, {needed}, and memory_gib={self.memory_gib:g}: raise it, "
            "or use cg"
        )

    def ways(self, problem: Problem) -> list[Way]:
        """What `method` allows to choose from, with what each would cost."""
        # A bare matrix has a root too, but to know it takes an eigendecomposition for every example.
        bare = self.method == "dual" and problem.task is None
        rank = _in_float64(problem).root_rank if bare else None
        allowed = ("cholesky", "dual") if self.method == "auto" else (self.method,)
        return [way for way in ways(Counts.of(problem, rank), self.memory_gib) if way.name in allowed]

    def chosen(self, problem: Problem) -> Way | None:
        """The cheapest by count of those that fit, None where none does."""
        fitting = [way for way in self.ways(problem) if self._fits(way)]
        return min(fitting, key=lambda way: way.work, default=None)

    def _fits(self, way: Way) -> bool:
        return way.bytes <= self.memory_gib * GIB

    def prepare(self, problem: Problem, generator: torch.Generator) -> Factored:
        way = self.chosen(problem)
        assert way is not None
        return PREPARE[way.name](problem, way)

    def iterates(
        self, problem: Problem, state: Factored, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        yield Iterate(state.solve(b.to(torch.float64)).to(b.dtype), diagnostics=state.diagnostics)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        assert problem.condition_number is not None
        claimed = max(1e-10, 1e-13 * problem.condition_number)
        return [Example(cls(method), claimed) for method in METHODS]


def _cholesky(problem: Problem, way: Way) -> Factored:
    matrix, source = _matrix(problem)
    matrix.diagonal().add_(problem.damping)
    work = problem.operator.work
    work.count_algebra(problem.size**3 / 6)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info:
        lowest = float(torch.linalg.eigvalsh(matrix)[0])
        raise Breakdown(
            f"H + λI is not positive definite (lowest eigenvalue {lowest:.3g}): raise damping above "
            f"{problem.damping - lowest:.3g}, or set method=eigen, which solves it as it is"
        )

    def solve(b: Tensor) -> Tensor:
        work.count_algebra(problem.size**2 * b.shape[1])
        return torch.cholesky_solve(b, factor)

    return Factored(solve, {"method": way.name, "H from": source})


def _eigen(problem: Problem, way: Way) -> Factored:
    matrix, source = _matrix(problem)
    work = problem.operator.work
    work.count_algebra(10 * problem.size**3)
    values, vectors = eigh(matrix)
    shifted = values + problem.damping
    largest, smallest = float(shifted.abs().max()), float(shifted.abs().min())
    if smallest <= problem.size * torch.finfo(torch.float64).eps * largest:
        raise Breakdown(
            f"H + λI is singular to rounding, κ = {largest / max(smallest, 1e-300):.1e}, at damping "
            f"{problem.damping:g}: raise it"
        )

    def solve(b: Tensor) -> Tensor:
        work.count_algebra(2 * problem.size**2 * b.shape[1])
        return vectors @ ((vectors.T @ b) / shifted[:, None])

    told = {
        "method": way.name,
        "H from": source,
        "largest eigenvalue": float(values[-1]),
        "smallest eigenvalue": float(values[0]),
        "condition": largest / smallest,
    }
    return Factored(solve, told)


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (p,) ascending and eigenvectors (p, p) of a symmetric matrix, whose memory is used."""
    if matrix.device.type != "cpu":
        return torch.linalg.eigh(matrix)
    # The same routine of LAPACK's as torch calls, where torch's build of it may take a third longer.
    values, vectors = scipy.linalg.eigh(matrix.numpy(), driver="evd", overwrite_a=True)
    return torch.from_numpy(values), torch.from_numpy(vectors)


def _dual(problem: Problem, way: Way) -> Factored:
    operator = _in_float64(problem)
    inverse = dual_inverse(operator, problem.damping, way.examples_together)
    work, rows = operator.work, len(inverse.factor)

    def solve(b: Tensor) -> Tensor:
        work.count_algebra(2 * rows**2 * b.shape[1])
        return inverse.solve(b)

    return Factored(solve, {"method": way.name, "rows": rows, "examples together": way.examples_together})


PREPARE: dict[WayName, Callable[[Problem, Way], Factored]] = {
    "cholesky": _cholesky,
    "eigen": _eigen,
    "dual": _dual,
}


def _in_float64(problem: Problem) -> CurvatureOperator:
    """H in float64; the operator itself where it is, with what its earlier products left to speed up more."""
    operator = problem.operator
    return operator if operator.dtype == torch.float64 else operator.to(torch.float64)


def _matrix(problem: Problem) -> tuple[Tensor, str]:
    """H in float64, and what it was formed from."""
    operator = _in_float64(problem)
    if Counts.of(problem).rows_are_cheaper:
        return _from_rows(operator), "the rows of its root"
    return operator.dense(), "products"


def _from_rows(operator: CurvatureOperator) -> Tensor:
    """H = RᵀR."""
    size = operator.shape[0]
    matrix = torch.zeros(operator.shape, dtype=operator.dtype, device=operator.device)
    for block in operator.root_blocks():
        add_gram(matrix, block.flatten(0, 1).T)
    operator.work.count_algebra(operator.num_draws * operator.root_rank * size**2 / 2)
    return symmetric(matrix).div_(operator.num_draws)
