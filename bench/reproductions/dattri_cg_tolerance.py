"""ihvp_at_x_cg is NaN where its start is the solution.

Documented: dattri.func.hessian.ihvp_at_x_cg: "tol (float): A float default to 1e-7. Specifies the break
condition that decide if the algorithm has converged. If the torch.norm of residual is less than tol, then the
algorithm is truncated."
"""

import torch
from dattri.func.hessian import ihvp_at_x_cg
from torch import Tensor

LIBRARY = "dattri"


def half_square(parameters: Tensor) -> Tensor:
    return 0.5 * parameters.square().sum()


# H = I, so that the answer is v itself, from which it starts, with residual 0.
v = torch.tensor([1.0, 2.0], dtype=torch.float64)
x = ihvp_at_x_cg(half_square, torch.zeros_like(v), tol=1e-7)(v)[0]

# tol is an argument that the loop does not look at: after convergence a step divides 0 by 0.
expected = str(v.tolist())
got = str(x.tolist())
differs = bool(x.isnan().any())
print(f"expected {expected}, got {got}")
