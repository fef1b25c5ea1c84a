"""A network as a function of its selected parameters: flat vectors in, outputs out."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from problems.examples import Inputs
from problems.parameters import ParameterFilter, select
from problems.precision import Float64Throughout, NormaliseInFloat32, Precision, check_precision
from problems.validation import check_finite


class ModelFunction:
    """`model` as a function of its `names` parameters; all others and the buffers are constants.

    Flat vectors follow `named_parameters()` order, each parameter row-major. Parameters are shared with
    the model, not copied. Attention is computed by torch's own operations, which have a forward mode, not
    by the fused kernels, which have none. Raises ValueError for a filter that selects nothing, for
    parameters that are not finite or not of one dtype and device, and for a precision that cannot be had.
    """

    def __init__(
        self, model: nn.Module, parameter_filter: ParameterFilter = None, precision: Precision = "full"
    ) -> None:
        self.model = model
        self.names = select(model, parameter_filter)
        tensors = {name: value.detach() for name, value in model.named_parameters()}
        self.parameters = {name: tensors[name] for name in self.names}
        self.constants = {name: value for name, value in tensors.items() if name not in self.parameters}
        self.constants |= {name: value.detach() for name, value in model.named_buffers()}
        self.shapes = [value.shape for value in self.parameters.values()]
        self.sizes = [value.numel() for value in self.parameters.values()]
        _check(tensors, self.parameters)
        first = next(iter(self.parameters.values()))
        self.dtype, self.device = first.dtype, first.device
        check_precision(precision, self.dtype, self.device)
        self.precision: Precision = precision
        # A cache of keys and values serves generation alone.
        self._keywords = {"use_cache": False} if _takes(model, "use_cache") else {}

    @property
    def num_parameters(self) -> int:
        """p, the length of a flat vector."""
        return sum(self.sizes)

    def outputs(self, parameters: dict[str, Tensor], inputs: Inputs) -> Tensor:
        """The network's outputs for `inputs` with `parameters` in place of its own, in their dtype.

        A tensor is the model's one argument, a tuple its arguments in order, a dictionary its keyword
        arguments. Of a Hugging Face model's outputs the logits are taken.
        """
        arguments: tuple[Tensor, ...] = ()
        keywords: dict[str, Any] = dict(self._keywords)
        if isinstance(inputs, dict):
            keywords |= inputs
        else:
            arguments = inputs if isinstance(inputs, tuple) else (inputs,)
        with _computing(self.device, self.dtype, self.precision):
            outputs = functional_call(self.model, {**self.constants, **parameters}, arguments, keywords)
        if isinstance(outputs, Mapping) and "logits" in outputs:
            outputs = outputs["logits"]
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"the model returns a {type(outputs).__name__}; it must return a tensor of outputs, or have "
                "them as 'logits'"
            )
        return outputs.to(self.dtype)

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
        """The same function computed in another dtype, in full precision; the model is left as it is."""
        function = ModelFunction.__new__(ModelFunction)
        function.__dict__.update(self.__dict__)
        function.parameters = {name: value.to(dtype) for name, value in self.parameters.items()}
        function.constants = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in self.constants.items()
        }
        function.dtype = dtype
        function.precision = "full"
        return function

    def first_layer_not_finite(self, inputs: Inputs) -> str | None:
        """The first module, in the order they finish, whose output for `inputs` holds NaN or inf."""
        found: list[str] = []

        def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, _: Any, output: Any) -> None:
                finite = not isinstance(output, Tensor) or bool(torch.isfinite(output).all())
                if not finite and not found:
                    found.append(f"{name or 'the model'} ({type(module).__name__})")

            return hook

        handles = [module.register_forward_hook(watch(name)) for name, module in self.model.named_modules()]
        try:
            with torch.no_grad():
                self.outputs(self.parameters, inputs)
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else None


@contextlib.contextmanager
def _computing(device: torch.device, dtype: torch.dtype, precision: Precision) -> Iterator[None]:
    """Inside, a network computes in this precision, and what can be differentiated in forward mode."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if dtype == torch.float64:
                stack.enter_context(Float64Throughout())
            if precision == "bf16":
                # Without its cache, which would keep tensors of one derivative for the next.
                stack.enter_context(torch.autocast(device.type, torch.bfloat16, cache_enabled=False))
                stack.enter_context(NormaliseInFloat32())
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _takes(model: nn.Module, keyword: str) -> bool:
    return keyword in inspect.signature(model.forward).parameters


def _check(tensors: dict[str, Tensor], selected: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        check_finite(f"the model's parameter {name}", value)
    for kind in ("dtype", "device"):
        found = {str(getattr(value, kind)) for value in selected.values()}
        if len(found) > 1:
            raise ValueError(
                f"the selected parameters have the {kind}s {', '.join(sorted(found))}: one is needed"
            )
