"""ihvp_at_x_arnoldi raises a RuntimeError for a function of float64 parameters.

Documented: dattri.func.hessian.ihvp_at_x_arnoldi: "func (Callable): A Python function that takes one or more
arguments. Must return a single-element Tensor", and of v that it is "The vector to be produced on the inverse
hessian matrix".
"""

import torch
from dattri.func.hessian import ihvp_at_x_arnoldi
from torch import Tensor

LIBRARY = "dattri"
eigenvalues = torch.tensor([1.0, 2.0], dtype=torch.float64)


def loss(parameters: Tensor) -> Tensor:
    return 0.5 * (eigenvalues * parameters.square()).sum()


v = torch.ones(2, dtype=torch.float64)
got = ""
expected = str((v / eigenvalues).tolist())
with torch.random.fork_rng():
    torch.manual_seed(0)
    try:
        got = str(ihvp_at_x_arnoldi(loss, torch.zeros_like(v))(v)[0].tolist())
    except RuntimeError as error:
        # Its start, torch.rand(v.shape[1]), and its matrix have torch's default dtype, not v's.
        got = f"RuntimeError: {error}"
differs = got.startswith("RuntimeError")
print(f"expected {expected}, got {got}")
