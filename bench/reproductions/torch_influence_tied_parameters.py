"""Of a parameter that two modules share, the second module's part of the Hessian is left out.

Documented: torch_influence.BaseInfluenceModule.inverse_hvp: "the Hessian is specifically that of the (mean)
empirical risk over the training dataset".
"""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch_influence import BaseObjective, CGInfluenceModule

LIBRARY = "torch-influence"


class Tied(nn.Module):
    """f(x) = wx + wx, by two layers of one weight w."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(1, 1, bias=False, dtype=torch.float64) for _ in range(2))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


class Objective(BaseObjective):
    def train_outputs(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        return model(batch[0])

    def train_loss_on_outputs(self, outputs: Tensor, batch: list[Tensor]) -> Tensor:
        return (outputs - batch[1]).square().mean()

    def train_regularization(self, params: Tensor) -> Tensor:
        return 0 * params.square().sum()

    def test_loss(self, model: nn.Module, params: Tensor, batch: list[Tensor]) -> Tensor:
        return self.train_loss_on_outputs(model(batch[0]), batch)


ones = torch.ones(4, 1, dtype=torch.float64)
loader = DataLoader(TensorDataset(ones, ones), batch_size=4)
module = CGInfluenceModule(
    model=Tied(), objective=Objective(), train_loader=loader, test_loader=loader,
    device=torch.device("cpu"), damp=1.0,
)  # fmt: skip

# The loss is (2w − 1)², H = 8, and (H + λ)⁻¹ = 1/9. named_parameters() gives the shared weight one name, and
# _model_make_functional takes parameters away by name: the other module keeps it, as a constant c, and H is
# that of (w + c − 1)².
expected = 1 / 9
got = float(module.inverse_hvp(torch.ones(1, dtype=torch.float64)))
differs = abs(got - expected) > 1e-6
print(f"expected {expected:.6g}, got {got:.6g}")
