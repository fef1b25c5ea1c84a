"""IFAttributorEKFAC takes a layer's weights and biases for rows as they lie in memory.

Documented: IFAttributorEKFAC: "EK-FAC inverse FIM transformation"; its hook has the bias's input, 1, as the
last entry of a layer's input.
"""

import torch
from dattri.algorithm.influence_function import IFAttributorEKFAC
from dattri.task import AttributionTask
from torch import Tensor
from torch.func import functional_call

LIBRARY = "dattri"
damping = 0.01
# Both factors are diagonal and ascending, so that their eigenvectors are the axes, whichever way round:
# A = diag(0.25, 1) with the bias's input, G = diag(0.01, 1).
inputs = torch.tensor([0.5, -0.5, 0.5, -0.5], dtype=torch.float64)[:, None]
errors = torch.tensor([[0.1, 1.0], [0.1, 1.0], [0.1, -1.0], [0.1, -1.0]], dtype=torch.float64)
model = torch.nn.Sequential(torch.nn.Linear(1, 2)).double()


def loss(parameters: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    # Its gradients at the outputs are the errors.
    return (functional_call(model, parameters, (batch[0],)) * batch[1]).sum(dim=1).mean()


attributor = IFAttributorEKFAC(AttributionTask(loss, model, model.state_dict()), damping=damping)
attributor.cache([(inputs, errors)])
x = attributor.transform_test_rep(0, torch.ones(1, 4, dtype=torch.float64))[0]

# Weights first, then biases: eigenvalues g·a of (weight of output 1, of 2, bias of 1, of 2). It reshapes
# [w1, w2, b1, b2] to rows [w1, w2], [b1, b2], where [w1, b1], [w2, b2] are meant (transform_test_rep).
eigenvalues = torch.tensor([0.01 * 0.25, 1 * 0.25, 0.01, 1], dtype=torch.float64)
exact = 1 / (eigenvalues + damping)
expected = str([round(value, 2) for value in exact.tolist()])
got = str([round(value, 2) for value in x.tolist()])
differs = float((x - exact).norm() / exact.norm()) > 0.01
print(f"expected {expected}, got {got}")
