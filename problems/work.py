"""Cost that does not depend on the machine: gradient equivalents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Work:
    """Counts gradient equivalents: one gradient over all n training examples is 1.

    An exact curvature product shares one forward pass (1) between k columns, each of which costs a
    tangent pass (2) and a backward pass (2); a gradient is a forward and a backward pass (3). So a
    product with k columns costs (1 + 4k)/3 of the gradient over the same examples.
    """

    total: float = 0.0

    def count_product(self, columns: int, share: float) -> None:
        """Add one product with `columns` columns over `share` = m/n of the examples."""
        self.total += (1 + 4 * columns) / 3 * share

    def count_gradients(self, share: float) -> None:
        """Add gradients over `share` = m/n of the examples, per-example or averaged."""
        self.total += share
