"""ihvp_at_x_lissa takes batch_size for num_repeat, and num_repeat for batch_size.

Documented: dattri.func.hessian.ihvp_at_x_lissa: "batch_size (int): An integer default to 1. Specifies the
batch size used for LiSSA inner loop update. num_repeat (int): An integer default to 1. Specifies the number
of samples of the hvp approximation to average on."
"""

import torch
from dattri.func.hessian import ihvp_at_x_lissa
from torch import Tensor

LIBRARY = "dattri"
sizes = []


def loss(parameters: Tensor, inputs: Tensor) -> Tensor:
    sizes.append(len(inputs))
    return (inputs @ parameters).square().mean() / 2


inputs = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None]
v = torch.ones(1, dtype=torch.float64)
with torch.random.fork_rng():
    torch.manual_seed(0)
    # A batch of all four examples, for 200 steps: nothing is random, and h converges.
    inverse = ihvp_at_x_lissa(
        loss, v, inputs, in_dims=(None, 0), batch_size=4, num_repeat=1, recursion_depth=200, scaling=16.0
    )
    x = float(inverse(v))

# It calls ihvp_lissa(func, argnums, num_repeat, batch_size, ...), whose third argument is batch_size.
hessian = float(inputs.square().mean())
expected = f"batches of 4, x = {1 / hessian:.4f}"
got = f"batches of {sizes[0]}, x = {x:.4f}"
differs = sizes[0] != 4 and abs(x * hessian - 1) > 1e-3
print(f"expected {expected}; got {got}")
