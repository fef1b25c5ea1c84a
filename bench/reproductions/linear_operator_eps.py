"""linear_cg stays above its tolerance where the matrix is small.

Documented: linear_operator.utils.linear_cg.linear_cg: "tolerance - stop the solve when the (average) norm of
the residual(s) is less than this", and "eps - noise to add to prevent division by zero".
"""

import warnings

import torch
from linear_operator.utils.linear_cg import linear_cg

LIBRARY = "linear_operator"
warnings.simplefilter("ignore")  # it says itself that the tolerance was not reached

generator = torch.Generator().manual_seed(0)
basis = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))[0]
# Condition number 100; in exact arithmetic conjugate gradients end after 30 steps. With eps=1e-30 they are
# within the tolerance after 34.
matrix = (basis * torch.logspace(-6, -4, 30, dtype=torch.float64)) @ basis.T
b = torch.randn(30, 1, generator=generator, dtype=torch.float64)

x = linear_cg(matrix.matmul, b, tolerance=1e-6, max_iter=100)

# eps is not added: where pᵀAp is below it, b being scaled to norm 1, the step is set to 0, and where rᵀr is,
# the next direction has nothing of the last (torch.lt(alpha, eps) and torch.lt(beta, eps) there).
expected = 1e-6
got = float((b - matrix @ x).norm() / b.norm())
differs = got > 10 * expected
print(f"expected a relative residual of at most {expected:.3g}, got {got:.3g}")
