"""IFAttributorEKFAC raises UnboundLocalError where a layer's inputs are sequences.

Documented: dattri.func.fisher.estimate_covariance: the mask is "a tensor of shape (batch_size, t) ... t is
the number of steps, or sequence length of the input data. If the input data are non-sequential, t should be
set to 1."
"""

import torch
from dattri.algorithm.influence_function import IFAttributorEKFAC
from dattri.task import AttributionTask
from torch import Tensor
from torch.func import functional_call

LIBRARY = "dattri"
sequences = torch.ones(2, 3, 4)
model = torch.nn.Sequential(torch.nn.Linear(4, 1))


def loss(parameters: dict[str, Tensor], batch: tuple[Tensor]) -> Tensor:
    return functional_call(model, parameters, batch).sum(dim=(1, 2)).mean()


attributor = IFAttributorEKFAC(AttributionTask(loss, model, model.state_dict()), damping=0.1)
expected = got = "factors"
try:
    attributor.cache([(sequences,)])
except UnboundLocalError as error:
    # In _update_covariance `a_prev` is assigned only where a_prev_raw.ndim == 2.
    got = f"UnboundLocalError: {error}"
differs = got != expected
print(f"expected {expected}, got {got}")
