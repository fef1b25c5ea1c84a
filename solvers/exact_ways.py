"""The ways to an exact solution, and what each costs, by count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from problems import Problem
from problems.operators.network import NetworkOperator
from problems.work import BACKWARD_COST, JACOBIAN_COST, ProductCost

GIB = 2**30

WayName = Literal["cholesky", "eigen", "dual"]


@dataclass(frozen=True)
class Counts:
    """What the cost of an exact solution depends on.

    p = `size`, n = `num_examples` (sequences where the unit is the token), r = `root_rank` rows of H's root
    for each, 0 where none is known, k = `columns`; `forward_multiplications` are those of one example's
    forward pass, `product` the forward passes that a product with H costs.
    """

    size: int
    num_examples: int
    root_rank: int
    columns: int
    forward_multiplications: int
    product: ProductCost = JACOBIAN_COST

    @classmethod
    def of(cls, problem: Problem, root_rank: int | None = None) -> Counts:
        """Those of `problem`, with its root's rank unless another is given."""
        operator = problem.operator
        if root_rank is None:
            # Of a bare matrix a root costs an eigendecomposition for every example.
            root_rank = operator.root_rank if problem.task is not None else 0
        return cls(
            problem.size,
            operator.num_draws,
            root_rank,
            problem.num_columns,
            operator.work.forward_multiplications,
            operator.curvature.cost if isinstance(operator, NetworkOperator) else JACOBIAN_COST,
        )

    @property
    def rows(self) -> int:
        """N = n·r, the rows of R in H = RᵀR."""
        return self.num_examples * self.root_rank

    def algebra(self, multiplications: float) -> float:
        """Multiplications in gradient equivalents."""
        return multiplications / (3 * self.num_examples * self.forward_multiplications)

    @property
    def by_products(self) -> float:
        """Gradient equivalents of H from products with the unit vectors."""
        return (self.product.shared + self.product.per_column * self.size) / 3

    @property
    def all_rows(self) -> float:
        """Gradient equivalents of all rows of R."""
        return (BACKWARD_COST.shared + BACKWARD_COST.per_column * self.root_rank) / 3

    @property
    def by_rows(self) -> float:
        """Gradient equivalents of H = RᵀR from the rows of R."""
        return self.all_rows + self.algebra(self.rows * self.size**2 / 2)

    @property
    def rows_are_cheaper(self) -> bool:
        """Whether to form H from the rows of R rather than by products."""
        return self.root_rank > 0 and self.by_rows < self.by_products


@dataclass(frozen=True)
class Way:
    """A way to the exact solution: its work in gradient equivalents, and its memory at the peak.

    `solve_work` is that of all right-hand sides; `examples_together` those whose rows the dual way holds.
    """

    name: WayName
    setup_work: float
    solve_work: float
    bytes: float
    examples_together: int = 0

    @property
    def work(self) -> float:
        """Set-up and solve."""
        return self.setup_work + self.solve_work


def ways(counts: Counts, memory_gib: float) -> list[Way]:
    """All ways there are, whether they fit or not; the dual one holds of R what `memory_gib` allows."""
    size, k = counts.size, counts.columns
    forming = counts.by_rows if counts.rows_are_cheaper else counts.by_products
    block = 8 * counts.root_rank * size if counts.rows_are_cheaper else 0
    found = [
        Way(
            "cholesky",
            forming + counts.algebra(size**3 / 6),
            counts.algebra(size**2 * k),
            16 * size**2 + block,
        ),
        # Matrix, eigenvectors and LAPACK's workspace.
        Way(
            "eigen",
            forming + counts.algebra(10 * size**3),
            counts.algebra(2 * size**2 * k),
            32 * size**2 + block,
        ),
    ]
    return [*found, dual(counts, memory_gib)] if counts.root_rank else found


def dual(counts: Counts, memory_gib: float) -> Way:
    """Through the N × N matrix RRᵀ. Rows that do not fit together are computed anew for each block."""
    size, n, rows, k = counts.size, counts.num_examples, counts.rows, counts.columns
    example = 8 * counts.root_rank * size
    gram = 16 * rows**2
    together = min(n, max(1, int((memory_gib * GIB - gram) // example)))
    # Each block needs its own rows and those of all examples after it.
    passes = sum(n - first for first in range(0, n, together)) / n
    setup = passes * counts.all_rows + counts.algebra(rows**2 * size / 2 + rows**3 / 6)
    # R and Rᵀ for the answer, for its residual and for the correction; the factor twice.
    products = counts.algebra(6 * rows * size * k) if together == n else 3 * (k + (1 + 2 * k) / 3)
    solve = products + counts.algebra(2 * rows**2 * k)
    return Way("dual", setup, solve, gram + together * example, together)
