"""TensorFloat-32 on any device: factors in float32 rounded to 10 bits of mantissa, sums in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# float32 has 23 bits of mantissa after the leading one, TensorFloat-32 10.
DROPPED = 23 - 10
_ATEN = torch.ops.aten
# Operation: the positions of its factors. What is added to a product (a bias) is not rounded.
FACTORS: dict[Any, tuple[int, ...]] = {
    _ATEN.mm.default: (0, 1),
    _ATEN.bmm.default: (0, 1),
    _ATEN.addmm.default: (1, 2),
    _ATEN.baddbmm.default: (1, 2),
    _ATEN.convolution.default: (0, 1),
    _ATEN.convolution_backward.default: (0, 1, 2),
}


def rounded(values: Tensor) -> Tensor:
    """float32 values rounded to the nearest with 10 bits of mantissa, to even where two are as near."""
    bits = values.contiguous().view(torch.int32)
    last_kept = (bits >> DROPPED) & 1
    return ((bits + (1 << (DROPPED - 1)) - 1 + last_kept) & -(1 << DROPPED)).view(torch.float32)


class TensorFloat32(TorchDispatchMode):
    """Inside, matrix products and convolutions of float32 round their factors; `calls` counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        places = FACTORS.get(func, ())
        if places and args[places[0]].dtype == torch.float32:
            self.calls += 1
            args = tuple(rounded(arg) if place in places else arg for place, arg in enumerate(args))
        return func(*args, **(kwargs or {}))
