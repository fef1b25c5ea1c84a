"""In what precision a network is computed; vectors keep the dtype of its parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from problems.validation import unknown

# full   the dtype of the parameters, multiplications included: also on GPUs, where torch by itself lets
#        convolutions of float32 round their factors to TensorFloat-32
# tf32   float32 with factors rounded to TensorFloat-32's 10 bits of mantissa; CUDA from Ampere on
# bf16   what torch.autocast takes in bfloat16, matrix products and convolutions above all; parameters,
#        normalisations, losses and all vectors stay in float32
Precision = Literal["full", "tf32", "bf16"]
PRECISIONS = ("full", "tf32", "bf16")


# Where torch keeps what is said of factors in float32; the last three are the CPU's.
_BACKENDS: Any = torch.backends
_PLACES = (
    _BACKENDS.cuda.matmul,
    _BACKENDS.cudnn.conv,
    _BACKENDS.cudnn.rnn,
    _BACKENDS.mkldnn.matmul,
    _BACKENDS.mkldnn.conv,
    _BACKENDS.mkldnn.rnn,
)


def check_precision(precision: str, dtype: torch.dtype, device: torch.device) -> None:
    """Raise ValueError where `precision` is unknown or cannot be had with this dtype on this device."""
    if precision not in PRECISIONS:
        raise ValueError(unknown("precision", precision, PRECISIONS))
    if precision != "full" and dtype != torch.float32:
        raise ValueError(
            f"precision={precision!r} needs parameters in float32, these are {dtype}: use 'full'"
        )
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(
            f"precision='tf32' needs a CUDA device, the model is on {device}: use 'full' or 'bf16'"
        )


@contextlib.contextmanager
def multiplying(precision: Precision) -> Iterator[None]:
    """Inside, float32 factors are rounded to TensorFloat-32 if `precision` says so, and otherwise not at all.

    Whatever torch.set_float32_matmul_precision and the like say outside.
    """
    before = [place.fp32_precision for place in _PLACES]
    wanted = ["tf32" if precision == "tf32" else "ieee"] * 3 + ["ieee"] * 3
    try:
        _set(wanted)
        yield
    finally:
        _set(before)


def _set(precisions: list[str]) -> None:
    for place, value in zip(_PLACES, precisions, strict=True):
        place.fp32_precision = value


class NormaliseInFloat32(TorchFunctionMode):
    """Give normalisations float32, as their weights are.

    With inputs in bfloat16 their values are in bfloat16 and their tangents in float32, and no convolution
    or linear layer after them takes two dtypes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _NORMALISATIONS and args and args[0].dtype == torch.bfloat16:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


_NORMALISATIONS = {
    F.batch_norm, F.instance_norm, F.layer_norm, F.group_norm, F.rms_norm,
    torch.batch_norm, torch.instance_norm, torch.layer_norm, torch.group_norm, torch.rms_norm,
}  # fmt: skip


class Float64Throughout(TorchFunctionMode):
    """Take float64 wherever a network asks for float32.

    Hugging Face's models compute some softmaxes and norms in float32 whatever their own dtype, which would
    leave a float64 reference with float32's digits.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        keywords = {name: _in_float64(value) for name, value in (kwargs or {}).items()}
        return func(*map(_in_float64, args), **keywords)


def _in_float64(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument
