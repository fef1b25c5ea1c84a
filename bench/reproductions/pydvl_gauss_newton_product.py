"""GaussNewtonOperator divides by the length of the vector where there is one batch.

Documented: GaussNewtonOperator computes G·v, G = 1/|b| Σ ∇ℓ ∇ℓᵀ over a batch b, "and average the results over
the batches provided by the data loader".
"""

import torch
from pydvl.influence.torch.operator import GaussNewtonOperator

LIBRARY = "pyDVL"

model = torch.nn.utils.skip_init(torch.nn.Linear, 2, 1, bias=False, dtype=torch.float64)
torch.nn.init.zeros_(model.weight)
x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
y = torch.tensor([[-0.5]], dtype=torch.float64)  # so that the loss (0 − y)² has the gradient −2y·x = x
v = torch.tensor([1.0, 0.0], dtype=torch.float64)

product = GaussNewtonOperator(model, torch.nn.MSELoss(), [(x, y)]).apply(v)

# G = xxᵀ. PointAveraging takes the length of a batch's result for the number of its examples: here 2, the
# number of parameters; with several vectors their number. It multiplies all results by that but the first.
expected = 1.0
got = float(product[0])
differs = abs(got - expected) > 1e-6
print(f"expected (Gv)₁ = {expected:.3g}, got {got:.3g}")
