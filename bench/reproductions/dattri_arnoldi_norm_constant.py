"""ihvp_at_x_arnoldi is multiplied by the square of norm_constant, but for its first direction.

Documented: dattri.func.hessian.ihvp_at_x_arnoldi: "norm_constant (float): A float default to 1.0. Specifies a
constant value for the norm of each projection. ... it might be advisable to set norm_constant > 1 to avoid
dividing projection components by a large normalization factor."
"""

import torch
from dattri.func.hessian import ihvp_at_x_arnoldi
from torch import Tensor

LIBRARY = "dattri"
eigenvalues = torch.tensor([1.0, 2.0, 3.0])


def loss(parameters: Tensor) -> Tensor:
    return 0.5 * (eigenvalues * parameters.square()).sum()


v = torch.ones(3)
with torch.random.fork_rng():
    torch.manual_seed(0)
    x = ihvp_at_x_arnoldi(loss, torch.zeros(3), norm_constant=10.0)(v)[0]

# All three dimensions are there, so that the answer is exact with norm_constant=1. The projections have the
# norm 10 (the first one 1), and nothing divides by its square where v is multiplied by them twice.
expected = str([round(value, 3) for value in (v / eigenvalues).tolist()])
got = str([round(value, 3) for value in x.tolist()])
differs = float(x[0]) > 10
print(f"expected {expected}, got {got}")
