"""Cost that does not depend on the machine: gradient equivalents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Work:
    """Counts gradient equivalents: one gradient over all n = `num_examples` training examples is 1.

    An exact curvature product shares one forward pass (1) between k columns, each of which costs a tangent
    pass (2) and a backward pass (2); a gradient is a forward and a backward pass (3). So a product with k
    columns costs (1 + 4k)/3 of the gradient over the same examples.
    """

    num_examples: int
    # Forward passes of single examples: whole numbers, so that differences are exact.
    passes: int = 0

    def count_product(self, columns: int, examples: int) -> None:
        """Add one product with `columns` columns over `examples` examples."""
        self.passes += (1 + 4 * columns) * examples

    def count_gradients(self, examples: int) -> None:
        """Add gradients over `examples` examples, per-example or averaged."""
        self.passes += 3 * examples

    def equivalents(self, passes: int) -> float:
        """That many forward passes of single examples, in gradient equivalents."""
        return passes / (3 * self.num_examples)

    @property
    def total(self) -> float:
        """Gradient equivalents counted so far."""
        return self.equivalents(self.passes)
