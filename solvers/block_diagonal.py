"""H's own blocks, one for every module of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from problems import NetworkOperator, Problem
from problems.operators.layers import module_places, parameter_places
from problems.work import BACKWARD_COST
from solvers.preconditioner import ApproximateInverse, Preconditioner
from solvers.solver import Breakdown, Example, Iterate, Solver, check_positive

GIB = 2**30
# Of a block: itself, its eigenvectors and LAPACK's workspace, in float64; of all, the eigenvectors stay.
STAYING_BYTES, EIGEN_BYTES = 8, 32


@dataclass(frozen=True)
class DenseBlock:
    """V diag(`values`) Vᵀ with V = `vectors` (m, m), of the entries at `place`; values > 0."""

    place: slice
    vectors: Tensor
    values: Tensor


@dataclass(frozen=True)
class BlockDiagonalInverse(ApproximateInverse):
    """P of dense blocks, which together are all parameters."""

    blocks: tuple[DenseBlock, ...]
    diagnostics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def multiplications(self) -> float:
        return sum(2 * block.vectors.numel() for block in self.blocks)

    def solve(self, vectors: Tensor) -> Tensor:
        return self._scaled(vectors, torch.reciprocal)

    def half_solve(self, vectors: Tensor) -> Tensor:
        return self._scaled(vectors, torch.rsqrt)

    def _scaled(self, vectors: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        found = torch.empty_like(vectors)
        for block in self.blocks:
            given = vectors[block.place].to(block.vectors.dtype)
            rotated = function(block.values)[:, None] * (block.vectors.T @ given)
            found[block.place] = (block.vectors @ rotated).to(vectors.dtype)
        return found


@dataclass(frozen=True)
class BlockDiagonal(Solver):
    """x = P⁻¹b, P the blocks of H + λ that belong to one module's own parameters, exact; 0 elsewhere.

    Exact for a network of one layer. P⁻¹b − x* = P⁻¹(H − blocks)x*. For H ⪰ 0 of L modules the condition
    number of P⁻¹(H + λ) is at most L times that of any other block-diagonal preconditioner (Demmel 2023).

    Set-up: the blocks from the rows of H's root, (1 + 2r)/3 gradient equivalents and nr·Σm²/2
    multiplications for blocks of sizes m, or from products with every block, Σ(1 + 4m)/3, whichever is
    cheaper by count; then 10m³ for eigenvectors, in float64, and 2m² for each column. Memory: 8Σm² bytes and
    32 of the largest m². Breakdown where a block is not positive definite, as the Hessian's may be.
    """

    memory_gib: float = 4.0

    preconditions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(memory_gib=self.memory_gib)

    def skip(self, problem: Problem) -> str | None:
        operator = problem.operator
        if not isinstance(operator, NetworkOperator):
            return "it needs a network's modules, which a bare matrix has not: use exact or diagonal"
        sizes = {name: place.stop - place.start for name, place in module_places(operator.function).items()}
        largest = max(sizes, key=lambda name: sizes[name])
        squares = [size**2 for size in sizes.values()]
        needed = STAYING_BYTES * sum(squares) + EIGEN_BYTES * max(squares)
        if needed > self.memory_gib * GIB:
            return (
                f"its blocks need {needed / GIB:.2g} GiB, the largest being {largest or 'the model'} with "
                f"{sizes[largest]} parameters, and memory_gib={self.memory_gib:g}: raise it, or use ekfac"
            )
        return None

    def prepare(self, problem: Problem, generator: torch.Generator) -> BlockDiagonalInverse:
        operator = problem.operator
        assert isinstance(operator, NetworkOperator)
        if operator.dtype != torch.float64:
            operator = operator.to(torch.float64)
        places = module_places(operator.function)
        by_rows = _rows_are_cheaper(operator, places) and self._rows_fit(operator)
        matrices = _from_rows(operator, places) if by_rows else _from_products(operator, places)
        blocks = []
        for name, place in places.items():
            matrix = matrices.pop(name)
            operator.work.count_algebra(10 * len(matrix) ** 3)
            values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
            lowest = float(values[0])
            # What rounding leaves of eigenvalues 0 lies within λ, or the block cannot be told from singular.
            if not lowest + problem.damping > 0:
                raise Breakdown(
                    f"the block of {name or 'the model'} is not positive definite (lowest eigenvalue "
                    f"{lowest:.3g}): raise damping above {-lowest:.3g}"
                )
            blocks.append(DenseBlock(place, vectors, values + problem.damping))
        told = {"blocks": len(blocks), "blocks from": "the rows of its root" if by_rows else "products"}
        return BlockDiagonalInverse(tuple(blocks), told)

    def iterates(
        self, problem: Problem, state: BlockDiagonalInverse, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        x = Preconditioner.of(state, problem.operator.work).apply(b)
        yield Iterate(x, diagnostics=state.diagnostics)

    @classmethod
    def examples(cls, problem: Problem) -> Sequence[Example]:
        operator = problem.operator
        if not isinstance(operator, NetworkOperator):
            return [Example(cls(), None)]
        # P⁻¹b − x* = P⁻¹(H − blocks)x*.
        matrix = operator.to(torch.float64).dense()
        within = torch.zeros_like(matrix)
        for place in module_places(operator.function).values():
            within[place, place] = matrix[place, place]
        damped = within + problem.damping * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        error = torch.linalg.matrix_norm(torch.linalg.solve(damped, matrix - within), 2)
        return [Example(cls(), float(error) + 1e-9)]

    def _rows_fit(self, operator: NetworkOperator) -> bool:
        return 8 * operator.root_rank * operator.shape[0] <= self.memory_gib * GIB


def _rows_are_cheaper(operator: NetworkOperator, places: dict[str, slice]) -> bool:
    """Whether the rows of H's root are a cheaper way to its blocks than products with each of them."""
    if not operator.root_rank:
        return False
    sizes = [place.stop - place.start for place in places.values()]
    rows, cost = operator.num_draws * operator.root_rank, operator.curvature.cost
    passes = (BACKWARD_COST.shared + BACKWARD_COST.per_column * operator.root_rank) * operator.num_draws
    passes += rows * sum(size**2 for size in sizes) / 2 / operator.work.forward_multiplications
    return passes < sum(cost.shared + cost.per_column * size for size in sizes) * operator.num_draws


def _from_rows(operator: NetworkOperator, places: dict[str, slice]) -> dict[str, Tensor]:
    found = {}
    for name, place in places.items():
        size = place.stop - place.start
        found[name] = torch.zeros(size, size, dtype=operator.dtype, device=operator.device)
        operator.work.count_algebra(operator.num_draws * operator.root_rank * size**2 / 2)
    for block in operator.root_blocks():
        rows = block.flatten(0, 1)
        for name, place in places.items():
            found[name].addmm_(rows[:, place].T, rows[:, place])
    return {name: matrix.div_(operator.num_draws) for name, matrix in found.items()}


def _from_products(operator: NetworkOperator, places: dict[str, slice]) -> dict[str, Tensor]:
    parameters = parameter_places(operator.function)
    found = {}
    for name, place in places.items():
        inside = [each for each, own in parameters.items() if place.start <= own.start < place.stop]
        found[name] = operator.restricted(inside).dense()
    return found
