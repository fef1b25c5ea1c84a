"""IFAttributorExplicit's answer is multiplied by the number of batches that the data come in.

Documented: BaseInnerProductAttributor.cache: "Ideally, the batch size of the dataloader should be the same as
the number of training samples to get the best accuracy for some attributors. Smaller batch size may lead to a
less accurate result but lower memory consumption."
"""

import torch
from dattri.algorithm.influence_function import IFAttributorExplicit
from dattri.task import AttributionTask
from torch import Tensor
from torch.func import functional_call

LIBRARY = "dattri"
inputs = torch.tensor([[1.0], [3.0]])
targets = torch.zeros(2, 1)
model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False))


def loss(parameters: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    return 0.5 * (functional_call(model, parameters, (batch[0],)) - batch[1]).square().mean()


# The same two examples five times, as five batches: H of each is H of all, 5.
attributor = IFAttributorExplicit(AttributionTask(loss, model, model.state_dict()))
attributor.cache([(inputs, targets)] * 5)
x = attributor.transform_test_rep(0, torch.ones(1, 1))

# transform_test_rep adds up the batches' answers (vector_product += ...) and does not divide by their number.
expected = 1 / 5
got = float(x)
differs = abs(got - expected) > 1e-3
print(f"expected {expected:.3g}, got {got:.3g}")
