"""In float64 the damping λ of AutogradInfluenceModule is rounded to float32.

Documented: torch_influence.AutogradInfluenceModule: damp is "the damping strength λ", and "a damped risk
Hessian H + λI is used instead".
"""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch_influence import AutogradInfluenceModule, BaseObjective

LIBRARY = "torch-influence"


class Objective(BaseObjective):
    def train_outputs(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        return model(batch[0])

    def train_loss_on_outputs(self, outputs: Tensor, batch: list[Tensor]) -> Tensor:
        return (outputs - batch[1]).square().mean()

    def train_regularization(self, params: Tensor) -> Tensor:
        return 0 * params.square().sum()

    def test_loss(self, model: nn.Module, params: Tensor, batch: list[Tensor]) -> Tensor:
        return self.train_loss_on_outputs(model(batch[0]), batch)


# All inputs are 0, and so is H: (H + λI)⁻¹ 1 is 1/λ.
zeros = torch.zeros(4, 1, dtype=torch.float64)
loader = DataLoader(TensorDataset(zeros, zeros), batch_size=4)
model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
module = AutogradInfluenceModule(
    model=model, objective=Objective(), train_loader=loader, test_loader=loader,
    device=torch.device("cpu"), damp=0.1,
)  # fmt: skip

# The identity that λ multiplies is torch.eye(d), of torch's default dtype, and not of H's.
inverse = float(module.inverse_hvp(torch.ones(1, dtype=torch.float64)))
expected = "10.000000000"
got = f"{inverse:.9f}"
differs = abs(inverse - 10) > 1e-9
print(f"expected {expected}, got {got}")
