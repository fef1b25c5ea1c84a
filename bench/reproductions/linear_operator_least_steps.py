"""linear_cg makes 11 steps where the residual is within the tolerance after one.

Documented: linear_operator.utils.linear_cg.linear_cg: "tolerance - stop the solve when the (average) norm of
the residual(s) is less than this".
"""

import torch
from linear_operator.utils.linear_cg import linear_cg
from torch import Tensor

LIBRARY = "linear_operator"
products: list[Tensor] = []


def product(vectors: Tensor) -> Tensor:
    products.append(vectors)
    return 2 * vectors


linear_cg(product, torch.ones(3, 1, dtype=torch.float64), tolerance=0.01, max_iter=100)

# One product for the residual at the start, and one for the step that gives b/2 itself. The loop is left at
# k >= min(10, max_iter - 1) at the earliest.
expected = 2
got = len(products)
differs = got != expected
print(f"expected {expected} products, got {got}")
