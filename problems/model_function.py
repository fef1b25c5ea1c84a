"""A network as a function of its selected parameters: flat vectors in, outputs out."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from problems.validation import check_finite

ParameterFilter = str | Callable[[str], bool] | None


class ModelFunction:
    """`model` as a function of its `names` parameters; all others and the buffers are constants.

    Flat vectors follow `named_parameters()` order, each parameter row-major. Parameters are shared with
    the model, not copied. Raises ValueError for a filter that selects nothing and for parameters that
    are not finite or not of one dtype and device.
    """

    def __init__(self, model: nn.Module, parameter_filter: ParameterFilter = None) -> None:
        self.model = model
        self.names = _select(model, parameter_filter)
        tensors = {name: value.detach() for name, value in model.named_parameters()}
        self.parameters = {name: tensors[name] for name in self.names}
        self.constants = {name: value for name, value in tensors.items() if name not in self.parameters}
        self.constants |= {name: value.detach() for name, value in model.named_buffers()}
        self.shapes = [value.shape for value in self.parameters.values()]
        self.sizes = [value.numel() for value in self.parameters.values()]
        _check(tensors, self.parameters)
        first = next(iter(self.parameters.values()))
        self.dtype, self.device = first.dtype, first.device

    @property
    def num_parameters(self) -> int:
        """p, the length of a flat vector."""
        return sum(self.sizes)

    def outputs(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """The network's outputs for `inputs` with `parameters` in place of its own."""
        outputs = functional_call(self.model, {**self.constants, **parameters}, (inputs,))
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"the model returns a {type(outputs).__name__}; it must return a tensor of outputs"
            )
        return outputs

    def flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """Parameter-shaped tensors with a leading dimension k, as columns (p, k)."""
        return torch.cat([tensors[name].reshape(len(tensors[name]), -1) for name in self.names], dim=1).T

    def unflatten(self, columns: Tensor) -> dict[str, Tensor]:
        """Columns (p, k) as parameter-shaped tensors with a leading dimension k."""
        parts = columns.T.split(self.sizes, dim=1)
        return {
            name: part.reshape(-1, *shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def to(self, dtype: torch.dtype) -> ModelFunction:
        """The same function computed in another dtype; the model itself is left as it is."""
        function = ModelFunction.__new__(ModelFunction)
        function.__dict__.update(self.__dict__)
        function.parameters = {name: value.to(dtype) for name, value in self.parameters.items()}
        function.constants = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in self.constants.items()
        }
        function.dtype = dtype
        return function


def _select(model: nn.Module, parameter_filter: ParameterFilter) -> list[str]:
    available = [name for name, value in model.named_parameters() if value.requires_grad]
    if parameter_filter is None:
        selected = available
    elif callable(parameter_filter):
        selected = [name for name in available if parameter_filter(name)]
    else:
        try:
            selected = [name for name in available if re.search(parameter_filter, name)]
        except re.error as error:
            raise ValueError(
                f"the parameter filter {parameter_filter!r} is no regular expression: {error}"
            ) from None
    if not selected:
        raise ValueError(
            f"the parameter filter {parameter_filter!r} selects nothing; the model's trainable parameters "
            f"are {', '.join(available) or 'none (requires_grad is False everywhere)'}"
        )
    return selected


def _check(tensors: dict[str, Tensor], selected: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        check_finite(f"the model's parameter {name}", value)
    for kind in ("dtype", "device"):
        found = {str(getattr(value, kind)) for value in selected.values()}
        if len(found) > 1:
            raise ValueError(
                f"the selected parameters have the {kind}s {', '.join(sorted(found))}: one is needed"
            )
