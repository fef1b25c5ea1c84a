"""IFAttributorEKFAC projects on the rows of the factors' eigenvectors, not on their columns.

Documented: IFAttributorEKFAC: "EK-FAC inverse FIM transformation", and in dattri.func.fisher
estimate_eigenvector: "Perform eigenvalue decomposition on covariance matrices".
"""

import torch
from dattri.algorithm.influence_function import IFAttributorEKFAC
from dattri.task import AttributionTask
from torch import Tensor
from torch.func import functional_call

LIBRARY = "dattri"
damping = 0.1
generator = torch.Generator().manual_seed(0)
inputs = torch.randn(5, 3, generator=generator, dtype=torch.float64)
errors = torch.randn(4, 2, generator=generator, dtype=torch.float64)
# Every input with every error: the mean of gg' ⊗ aa' is that of gg' times that of aa', and EK-FAC is exact.
data = (inputs.repeat_interleave(4, dim=0), errors.repeat(5, 1))
model = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False)).double()


def loss(parameters: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    # Its gradients at the outputs are the errors.
    return (functional_call(model, parameters, (batch[0],)) * batch[1]).sum(dim=1).mean()


attributor = IFAttributorEKFAC(AttributionTask(loss, model, model.state_dict()), damping=damping)
attributor.cache([data])
v = torch.randn(1, 6, generator=generator, dtype=torch.float64)
x = attributor.transform_test_rep(0, v)

# torch.linalg.eigh has eigenvectors as columns: G = Q diag(d) Q', and the coordinates of a gradient W are
# Q_G' W Q_A; computed is Q_G W Q_A' (_update_lambda, transform_test_rep).
fisher = torch.kron(errors.T @ errors / 4, inputs.T @ inputs / 5)
exact = torch.linalg.solve(fisher + damping * torch.eye(6, dtype=torch.float64), v[0])
expected = 0.0
got = float((x[0] - exact).norm() / exact.norm())
differs = got > 1e-6
print(f"expected a relative error of {expected:.3g}, got {got:.3g}")
