"""CgOperator returns 0 for right-hand sides beyond the number of parameters.

Documented: CgOperator "uses conjugate gradient to calculate the action of its inverse", an operator's;
its `apply` takes a matrix of any number of rows.
"""

import torch
from pydvl.influence.torch.operator import CgOperator, HessianOperator

LIBRARY = "pyDVL"

# Squared loss of one parameter, whose Hessian is 2.
model = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1, bias=False, dtype=torch.float64)
torch.nn.init.zeros_(model.weight)
data = [(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))]

x = CgOperator(HessianOperator(model, torch.nn.MSELoss(), data)).apply(torch.ones(2, 1, dtype=torch.float64))

# _apply_to_mat zips the right-hand sides with tolerances, of which it has one for each parameter.
expected = 0.5
got = float(x[1])
differs = abs(got - expected) > 1e-6
print(f"expected x = {expected:.3g} for the second right-hand side, got {got:.3g}")
