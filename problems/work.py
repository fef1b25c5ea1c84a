"""Cost that does not depend on the machine: gradient equivalents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class ProductCost(NamedTuple):
    """Forward passes that a product with k columns costs: `shared` + k · `per_column`."""

    shared: int
    per_column: int


# One forward pass for all columns; for each a tangent pass (2) and a backward pass (2).
JACOBIAN_COST = ProductCost(1, 4)
# For each column a forward pass with its tangents.
FORWARD_COST = ProductCost(0, 3)
# One forward pass for all columns; for each a backward pass: rows of a Jacobian.
BACKWARD_COST = ProductCost(1, 2)


@dataclass
class Work:
    """Counts gradient equivalents: one gradient over all n = `num_examples` training examples is 1.

    A gradient is a forward and a backward pass, 3 times a forward pass. An exact Gauss–Newton product with
    k columns costs (1 + 4k)/3 of the gradient over the same examples. The examples of a language model are
    its sequences: one of which some tokens are left out runs through the network as a whole.

    Matrices that a solver makes and applies itself count by their multiplications, of which a forward pass
    of one example takes `forward_multiplications`.
    """

    num_examples: int
    forward_multiplications: int = 1
    # Forward passes of single examples: whole numbers, so that differences are exact.
    passes: int = 0

    def count_product(self, columns: int, examples: int, cost: ProductCost = JACOBIAN_COST) -> None:
        """Add one product with `columns` columns over `examples` examples."""
        self.passes += (cost.shared + cost.per_column * columns) * examples

    def count_gradients(self, examples: int) -> None:
        """Add gradients over `examples` examples, per-example or averaged."""
        self.passes += 3 * examples

    def count_forward(self, examples: int) -> None:
        """Add a forward pass over `examples` examples."""
        self.passes += examples

    def count_algebra(self, multiplications: float) -> None:
        """Add matrix algebra: products with dense factors, factorisations, at their leading order."""
        self.passes += math.ceil(multiplications / self.forward_multiplications)

    def equivalents(self, passes: int) -> float:
        """That many forward passes of single examples, in gradient equivalents."""
        return passes / (3 * self.num_examples)

    @property
    def total(self) -> float:
        """Gradient equivalents counted so far."""
        return self.equivalents(self.passes)
