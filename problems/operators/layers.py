"""Linear layers and convolutions: where their parameters lie, and what passes them as rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from problems.model_function import ModelFunction

# Their own names of a module's parameters.
WEIGHT, BIAS = "weight", "bias"
SHARED = "is shared with another module"


@dataclass(frozen=True)
class Layer:
    """A layer whose outputs are W a + β at each of an example's positions, W (outputs, inputs).

    `weight` and `bias` are their entries in a flat vector, None where a parameter is absent or no parameter
    of H. Together they are a matrix (outputs, columns): W's columns, and last the bias, whose input is 1.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    weight: slice | None
    bias: slice | None
    outputs: int
    columns: int

    @property
    def size(self) -> int:
        """The layer's parameters."""
        return self.outputs * self.columns

    def parameter_names(self) -> list[str]:
        """Those of them that are H's."""
        chosen = [own for own, place in ((WEIGHT, self.weight), (BIAS, self.bias)) if place is not None]
        return [_join(self.name, own) for own in chosen]

    def take(self, vectors: Tensor) -> Tensor:
        """The layer's part of vectors (k, p), as matrices (k, outputs, columns)."""
        parts = [
            vectors[:, place].reshape(len(vectors), self.outputs, -1)
            for place in (self.weight, self.bias)
            if place is not None
        ]
        return torch.cat(parts, dim=2) if len(parts) == 2 else parts[0]

    def put(self, matrices: Tensor, vectors: Tensor) -> None:
        """Write matrices (k, outputs, columns) to where they lie in vectors (k, p)."""
        last = self.columns
        if self.bias is not None:
            last -= 1
            vectors[:, self.bias] = matrices[:, :, last]
        if self.weight is not None:
            vectors[:, self.weight] = matrices[:, :, :last].flatten(1)

    def input_rows(self, inputs: Tensor, outputs: Tensor, examples: int) -> Tensor:
        """The inputs of every position of so many examples, from one call: (m, T, columns)."""
        positions = outputs.numel() // (examples * self.outputs)
        rows = inputs.new_ones(examples, positions, 1)
        if self.weight is not None:
            rows_of_weight = self._weight_rows(inputs).reshape(examples, positions, -1)
            rows = rows_of_weight if self.bias is None else torch.cat([rows_of_weight, rows], dim=2)
        return rows

    def output_rows(self, values: Tensor, examples: int) -> Tensor:
        """Values (r, shape of a call's outputs) of every position: (r, m, T, outputs)."""
        if isinstance(self.module, nn.Conv2d):
            values = values.movedim(-3, -1)
        return values.reshape(len(values), examples, -1, self.outputs)

    def _weight_rows(self, inputs: Tensor) -> Tensor:
        if isinstance(self.module, nn.Linear):
            return inputs
        module = self.module
        images = inputs if inputs.ndim == 4 else inputs[None]
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        padded = F.pad(images, _padding(module), mode=mode)
        patches = F.unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride)
        return patches.mT


@dataclass(frozen=True)
class FoundLayers:
    """The layers that can be factored, and of all other parameters of H, by name, why they cannot."""

    layers: tuple[Layer, ...]
    others: dict[str, str]

    def without(self, reasons: dict[str, str]) -> FoundLayers:
        """The same but for the layers named in `reasons`."""
        kept = tuple(layer for layer in self.layers if layer.name not in reasons)
        dropped = {
            name: reasons[layer.name]
            for layer in self.layers
            if layer.name in reasons
            for name in layer.parameter_names()
        }
        return FoundLayers(kept, self.others | dropped)


def find_layers(function: ModelFunction) -> FoundLayers:
    """What the model's modules say; whether a layer does what its kind says is seen when it is called."""
    places = parameter_places(function)
    owners: dict[int, int] = {}
    for module in function.model.modules():
        for value in module.parameters(recurse=False):
            owners[id(value)] = owners.get(id(value), 0) + 1
    values = dict(function.model.named_parameters())
    layers, others = (
        [],
        {
            name: SHARED if owners[id(values[name])] > 1 else "belongs to no linear layer or convolution"
            for name in function.names
        },
    )
    for name, module in function.model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        own = [each for each in (WEIGHT, BIAS) if _join(name, each) in places]
        shared = any(owners[id(value)] > 1 for value in module.parameters(recurse=False))
        reason = _why_not(module, shared)
        for each in own:
            if reason is None:
                del others[_join(name, each)]
            else:
                others[_join(name, each)] = reason
        if own and reason is None:
            layers.append(_layer(name, module, {each: places[_join(name, each)] for each in own}))
    return FoundLayers(tuple(layers), others)


def parameter_places(function: ModelFunction) -> dict[str, slice]:
    """Where each parameter lies in a flat vector."""
    places, first = {}, 0
    for name, size in zip(function.names, function.sizes, strict=True):
        places[name] = slice(first, first + size)
        first += size
    return places


def module_places(function: ModelFunction) -> dict[str, slice]:
    """Where the parameters lie that a module holds itself, by the module's name; together they are all."""
    found: dict[str, slice] = {}
    for name, place in parameter_places(function).items():
        module = name.rpartition(".")[0]
        # `named_parameters()` goes from module to module, so that one's own lie together.
        first = found[module].start if module in found else place.start
        found[module] = slice(first, place.stop)
    return found


def _layer(name: str, module: nn.Linear | nn.Conv2d, places: dict[str, slice]) -> Layer:
    weight, bias = places.get(WEIGHT), places.get(BIAS)
    outputs = len(module.weight)
    inputs = 0 if weight is None else (weight.stop - weight.start) // outputs
    return Layer(name, module, weight, bias, outputs, inputs + (bias is not None))


def _why_not(module: nn.Linear | nn.Conv2d, tied: bool) -> str | None:
    if tied:
        return SHARED
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return f"is of a convolution in {module.groups} groups"
    if type(module).forward not in (nn.Linear.forward, nn.Conv2d.forward):
        return f"is of a {type(module).__name__} with a forward pass of its own"
    return None


def _padding(module: nn.Conv2d) -> list[int]:
    """Left, right, top and bottom, as `F.pad` takes them."""
    return [side for dimension in (1, 0) for side in _sides(module, dimension)]


def _sides(module: nn.Conv2d, dimension: int) -> Iterator[int]:
    if module.padding == "same":
        total = module.dilation[dimension] * (module.kernel_size[dimension] - 1)
        # As torch has it: what is odd goes to the end.
        yield from (total // 2, total - total // 2)
    elif isinstance(module.padding, str):
        yield from (0, 0)
    else:
        yield from (module.padding[dimension], module.padding[dimension])


def _join(module: str, own: str) -> str:
    return f"{module}.{own}" if module else own
