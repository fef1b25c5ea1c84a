"""InverseHarmonicMeanInfluence divides influences by the number of queries.

Documented: docs/influence, "Inverse Harmonic Mean": the inverse Hessian is replaced by n⁻¹ Σ (∇ℓ ∇ℓᵀ + λI)⁻¹;
InverseHarmonicMeanInfluence: "The results are averaged over the batches provided by the data loader".
"""

import torch
from pydvl.influence.torch import InverseHarmonicMeanInfluence

LIBRARY = "pyDVL"

model = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1, bias=False, dtype=torch.float64)
torch.nn.init.zeros_(model.weight)
x = torch.tensor([[1.0]], dtype=torch.float64)
y = torch.tensor([[-0.5]], dtype=torch.float64)  # so that the loss (0 − y)² has the gradient −2y·x = 1
influence = InverseHarmonicMeanInfluence(model, torch.nn.MSELoss(), regularization=1.0).fit([(x, y)])

four_times_the_same = influence.influence_factors(x.repeat(4, 1), y.repeat(4, 1))

# (1 + λ)⁻¹ · 1 for each. PointAveraging divides by the length of a batch's result, which is the number of
# queries and not of the batch's examples.
expected = 0.5
got = float(four_times_the_same[0])
differs = abs(got - expected) > 1e-6
print(f"expected {expected:.3g} for one query among four, got {got:.3g}")
