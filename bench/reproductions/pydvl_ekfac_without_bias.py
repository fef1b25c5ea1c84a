"""EkfacInfluence mixes up the weights of a linear layer that has no bias.

Documented: EkfacInfluence "employs the EK-FAC method", and docs/influence: "The current implementation of the
K-FAC method is only available for linear layers"; it makes factors of layers without a bias as well.
"""

import torch
from pydvl.influence.torch import EkfacInfluence

LIBRARY = "pyDVL"
DAMPING = 0.1

model = torch.nn.utils.skip_init(torch.nn.Linear, 3, 2, bias=False)
model.weight.data = torch.tensor([[1.0, 0.0, -1.0], [2.0, 1.0, 0.0]])
x = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0], [1.0, -1.0, 0.0]])
y = torch.tensor([0, 1, 0])

influence = EkfacInfluence(model, hessian_regularization=DAMPING).fit([(x, y)])
found = influence.influence_factors(x[:1], y[:1])[0]

# What its own factors make of the same gradient: weights are row-major, output by output.
((_, (_, vectors_a, vectors_g, values)),) = influence.ekfac_representation
basis = torch.kron(vectors_g, vectors_a)
residual = model(x[:1]).detach().softmax(dim=1) - torch.tensor([[1.0, 0.0]])
gradient = (residual.T @ x[:1]).flatten()
exact = basis @ ((basis.T @ gradient) / (values.flatten() + DAMPING))

# _solve_hvp_by_layer always takes the last entries of a layer, as many as it has outputs, for the bias.
expected = 0.0
got = float((found - exact).norm() / exact.norm())
differs = got > 0.01
print(f"expected a relative difference of {expected:.3g} from its own factors, got {got:.3g}")
