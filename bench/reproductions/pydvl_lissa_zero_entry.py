"""LissaOperator never stops early where an entry of the answer is 0.

Documented: LissaOperator, rtol: "tolerance to use for early stopping".
"""

import torch
from pydvl.influence.torch.batch_operation import HessianBatchOperation
from pydvl.influence.torch.operator import LissaOperator
from torch.utils.data import DataLoader, TensorDataset

LIBRARY = "pyDVL"
STEPS = 200
steps = 0


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    global steps
    steps += 1
    return torch.nn.functional.mse_loss(outputs, targets)


# Squared loss with the Hessian diag(2, 0): the second input is always 0, as a pixel at an image's border is.
model = torch.nn.utils.skip_init(torch.nn.Linear, 2, 1, bias=False, dtype=torch.float64)
torch.nn.init.zeros_(model.weight)
inputs = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
data = DataLoader(TensorDataset(inputs, torch.zeros(1, 1, dtype=torch.float64)))
operator = LissaOperator(HessianBatchOperation(model, loss), data, maxiter=STEPS, scale=10.0, rtol=1e-4)

with torch.random.fork_rng():
    operator.apply(torch.tensor([1.0, 0.0], dtype=torch.float64))

# h ← 1 + h − 2h/10 from 1 is within 1e-4 of itself after so many steps.
expected = 0
h, change = 1.0, 1.0
while change >= 1e-4:
    step = 1 - 0.2 * h
    h += step
    change = abs(step / h)
    expected += 1
# The largest of |change / h| over all entries holds 0/0 = NaN, which is not below rtol.
got = steps
differs = got == STEPS > expected
print(f"expected {expected} steps, got {got}")
