"""ifvp_at_x_explicit takes for the Fisher matrix one whose entries are all the gradient's squared norm.

Documented: dattri.func.fisher.ifvp_at_x_explicit: "this method first calculates the FIM explicitly and then
wraps the FIM in a function that uses `torch.linalg.solve` to calculate the IFVP for any given vector."
"""

import warnings

import torch
from dattri.func.fisher import ifvp_at_x_explicit
from torch import Tensor

LIBRARY = "dattri"
warnings.simplefilter("ignore")  # torch warns of .T of a vector
gradient = torch.tensor([1.0, 2.0, 3.0])


def loss(parameters: Tensor) -> Tensor:
    return (gradient * parameters).sum()


v = torch.tensor([1.0, 0.0, 0.0])
x = ifvp_at_x_explicit(loss, torch.zeros(3), regularization=0.5)(v)

# One example, whose Fisher matrix is gg'. For a vector `grad_tensor @ grad_tensor.T` is the number g'g, which
# is then added to every entry of 0.5 I.
exact = torch.linalg.solve(torch.outer(gradient, gradient) + 0.5 * torch.eye(3), v)
expected = str([round(value, 3) for value in exact.tolist()])
got = str([round(value, 3) for value in x.tolist()])
differs = float((x - exact).norm() / exact.norm()) > 0.01
print(f"expected {expected}, got {got}")
