"""CgOperator ends at the square of rtol.

Documented: CgOperator, rtol: "Maximum relative tolerance of result".
"""

import torch
from pydvl.influence.torch.operator import CgOperator, HessianOperator

LIBRARY = "pyDVL"
SIZE = 100

# Squared loss, whose Hessian is the diagonal matrix of h.
h = torch.logspace(0, -2, SIZE, dtype=torch.float64)
model = torch.nn.utils.skip_init(torch.nn.Linear, SIZE, 1, bias=False, dtype=torch.float64)
torch.nn.init.zeros_(model.weight)
data = [((SIZE * h / 2).sqrt().diag(), torch.zeros(SIZE, 1, dtype=torch.float64))]
products = 0


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    global products
    products += 1
    return torch.nn.functional.mse_loss(outputs, targets)


def steps_to(tolerance: float) -> int:
    """Textbook conjugate gradients from the same start, b: products until ‖r‖ ≤ tolerance · ‖b‖."""
    x, count = b.clone(), 1
    r = p = b - h * x
    while r.norm() > tolerance * b.norm():
        alpha = (r @ r) / (p @ (h * p))
        x, before, r, count = x + alpha * p, r, r - alpha * h * p, count + 1
        p = r + (r @ r) / (before @ before) * p
    return count


b = torch.ones(SIZE, dtype=torch.float64)
settings = {"rtol": 1e-2, "atol": 0.0, "maxiter": 1000, "use_block_cg": True}
x = CgOperator(HessianOperator(model, loss, data), **settings).apply(b[None])[0]

# _solve_pbcg compares ‖r‖, and not its square, with rtol**2 times the norm of b, or with atol**2. So does
# _solve_pcg, with one entry of b for its norm.
expected = steps_to(1e-2)
got = products
differs = got > expected + 1
print(
    f"expected {expected} products to a residual of 0.01, got {got}, to {(b - h * x).norm() / b.norm():.1e}"
)
