"""DirectInfluence divides the Gauss–Newton matrix by 0 where there is one batch.

Documented: docs/influence, "Gauss-Newton approximation": G = n⁻¹ Σ ∇L(z_i) ∇L(z_i)ᵀ, and DirectInfluence
"finds x such that Hx = b, with H being the model hessian or Gauss-Newton matrix".
"""

import torch
from pydvl.influence.torch import DirectInfluence
from pydvl.influence.torch.util import SecondOrderMode

LIBRARY = "pyDVL"

model = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1, bias=False, dtype=torch.float64)
torch.nn.init.zeros_(model.weight)
x = torch.tensor([[1.0]], dtype=torch.float64)
y = torch.tensor([[-0.5]], dtype=torch.float64)  # so that the loss (0 − y)² has the gradient −2y·x = 1
influence = DirectInfluence(
    model, torch.nn.MSELoss(), regularization=1.0, second_order_mode=SecondOrderMode.GAUSS_NEWTON
)

factor = influence.fit([(x, y)]).influence_factors(x, y)

# (1 + λ)⁻¹ · 1. gauss_newton() divides by n_points, which is the number of parameters times the number of
# batches less one.
expected = 0.5
got = float(factor)
differs = not abs(got - expected) < 1e-6
print(f"expected {expected:.3g}, got {got:.3g}")
