"""EkfacInfluence takes the Fisher matrix for 0 where all classes are equally likely.

Documented: docs/influence, "Eigenvalue Corrected K-FAC": K-FAC "approximates the Fisher information matrix",
which is the Hessian for cross-entropy; EkfacInfluence: "Approximately solves the linear system Hx = b, where
H is the Hessian of a model with the empirical categorical cross entropy as loss function".
"""

import torch
from pydvl.influence.torch import EkfacInfluence

LIBRARY = "pyDVL"
DAMPING = 0.1

# In float32, the default: of a float64 network it multiplies factors of another dtype, and raises.
model = torch.nn.utils.skip_init(torch.nn.Linear, 1, 3)
torch.nn.init.zeros_(model.weight)
torch.nn.init.zeros_(model.bias)
x = torch.tensor([[1.0], [-1.0]])
y = torch.tensor([0, 1])

influence = EkfacInfluence(model, update_diagonal=True, hessian_regularization=DAMPING).fit([(x, y)])
found = influence.influence_factors(x[:1], y[:1])[0]

# p = (1, 1, 1)/3 for both examples, so that the Hessian is the Kronecker product of I/3 − 11ᵀ/9 and the mean
# of x̃x̃ᵀ, I. The gradient, weights first and then biases, is an eigenvector of it, of the eigenvalue 1/3.
gradient = torch.tensor([1 / 3 - 1, 1 / 3, 1 / 3]).repeat(2)

# empirical_cross_entropy_loss_fn passes back Σ_c √p_c ∇log p_c, all classes at once: 0 for these p, and not
# such that its square is Σ_c p_c ∇log p_c ∇log p_cᵀ for others.
expected = float((gradient / (1 / 3 + DAMPING)).norm())
got = float(found.norm())
differs = abs(got - expected) > 0.1
print(f"expected a solution of norm {expected:.3g}, got {got:.3g}")
