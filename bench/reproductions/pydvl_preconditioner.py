"""CgInfluence leaves its preconditioner out.

Documented: CgInfluence, preconditioner: "Optional preconditioner to improve convergence of conjugate gradient
method"; Preconditioner.fit: "Returns: self".
"""

import torch
from pydvl.influence.torch import CgInfluence, NystroemPreconditioner

LIBRARY = "pyDVL"
SIZE = 20
products = 0


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    global products
    products += 1
    return torch.nn.functional.mse_loss(outputs, targets)


# Squared loss, whose Hessian is the diagonal matrix of h.
h = torch.logspace(0, -2, SIZE, dtype=torch.float64)
model = torch.nn.utils.skip_init(torch.nn.Linear, SIZE, 1, bias=False, dtype=torch.float64)
torch.nn.init.zeros_(model.weight)
data = [((SIZE * h / 2).sqrt().diag(), torch.zeros(SIZE, 1, dtype=torch.float64))]
influence = CgInfluence(model, loss, regularization=0.01, preconditioner=NystroemPreconditioner(SIZE))

with torch.random.fork_rng():
    influence.fit(data)
products = 0
influence.block_mapper.composable_block_dict[""].op.apply(torch.ones(SIZE, dtype=torch.float64))

# Nyström's approximation of rank SIZE is the Hessian itself, so that one step solves; one product more is for
# the residual at the start. The `_fit` of preconditioners returns None, so that `fit` does, and CgInfluence
# takes what that returns for the fitted preconditioner.
expected = 2
got = products
differs = got > expected + 1
print(f"expected {expected} products, got {got}")
