"""CgOperator leaves a right-hand side unsolved beside a longer one.

Documented: CgOperator, rtol: "Maximum relative tolerance of result".
"""

import torch
from pydvl.influence.torch.operator import CgOperator, HessianOperator

LIBRARY = "pyDVL"

# Squared loss, whose Hessian is the diagonal matrix of h.
h = torch.tensor([1.0, 0.1], dtype=torch.float64)
model = torch.nn.utils.skip_init(torch.nn.Linear, 2, 1, bias=False, dtype=torch.float64)
torch.nn.init.zeros_(model.weight)
data = [(h.sqrt().diag(), torch.zeros(2, 1, dtype=torch.float64))]
operator = CgOperator(HessianOperator(model, torch.nn.MSELoss(), data), rtol=1e-2, atol=0.0)

b = torch.tensor([[1.0, 1.0], [1e6, 1e6]], dtype=torch.float64)
x = operator.apply(b)

# _apply_to_mat takes norms with dim=0, over the right-hand sides: the first is solved to the length of all
# first entries, the second to that of all second ones.
expected = 1e-2
got = float((b[0] - h * x[0]).norm() / b[0].norm())
differs = got > 10 * expected
print(f"expected a relative residual of at most {expected:.3g}, got {got:.3g}")
