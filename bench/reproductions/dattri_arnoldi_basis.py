"""ihvp_at_x_arnoldi is longer than ‖v‖/λ, which no positive semi-definite matrix allows.

Documented: dattri.func.hessian.ihvp_at_x_arnoldi: "constructing the n-th order Krylov subspace and builds an
orthonormal basis for it", and "tol ... If the torch.norm of current basis vector is less than tol, then the
arnoldi_iter algorithm is truncated."
"""

import torch
from dattri.func.hessian import ihvp_at_x_arnoldi
from torch import Tensor

LIBRARY = "dattri"
# Eigenvalues between 0 and 1, and λ = 0.1: condition number 11. 20 of 40 are equal, so that the Krylov space
# ends after 21 dimensions.
damping = 0.1
eigenvalues = torch.cat(
    [torch.logspace(-2, 0, 20, dtype=torch.float64), torch.zeros(20, dtype=torch.float64)]
)


def loss(parameters: Tensor) -> Tensor:
    return 0.5 * (eigenvalues * parameters.square()).sum()


v = torch.ones(40, dtype=torch.float64)
before = torch.get_default_dtype()
with torch.random.fork_rng():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        x = ihvp_at_x_arnoldi(loss, torch.zeros_like(v), regularization=damping)(v)[0]
    finally:
        torch.set_default_dtype(before)

# For an orthonormal U the inverse U(U'(H + λI)U)^-1 U' is at most 1/λ. One pass of Gram-Schmidt loses the
# orthogonality before a vector's norm falls below tol; a vector that is of the space already has a Ritz value
# of rounding size, by which v is divided.
expected = float(v.norm()) / damping
got = float(x.norm())
differs = not got <= 10 * expected
print(f"expected at most {expected:.3g}, got {got:.3g}")
