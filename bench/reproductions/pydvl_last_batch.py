"""CgInfluence weights a smaller last batch as much as a full one.

Documented: CgInfluence "finds x such that Hx = b, with H being the model hessian", as does DirectInfluence,
which weights batches by their size. HessianOperator takes ∇²L(b), L the mean over a batch b, "and average the
results over the batches provided by the data loader".
"""

import torch
from pydvl.influence.torch import CgInfluence

LIBRARY = "pyDVL"

model = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1, bias=False, dtype=torch.float64)
torch.nn.init.zeros_(model.weight)
x = torch.tensor([[1.0], [1.0], [3.0]], dtype=torch.float64)
y = torch.tensor([[-0.5], [0.0], [0.0]], dtype=torch.float64)
batches = list(zip(x.split(2), y.split(2), strict=True))

factor = CgInfluence(model, torch.nn.MSELoss()).fit(batches).influence_factors(x[:1], y[:1])

# The loss (wx − y)² has the Hessian 2 · mean x² = 22/3, and the first example's gradient is 1. ChunkAveraging
# takes the mean of the batches' means, (2 + 18)/2 = 10.
expected = 3 / 22
got = float(factor)
differs = abs(got - expected) > 1e-3
print(f"expected {expected:.3g}, got {got:.3g}")
