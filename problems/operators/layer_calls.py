"""One forward pass of a network, with what its layers take in and what comes back at their outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from problems.examples import Inputs
from problems.model_function import ModelFunction
from problems.operators.layers import Layer
from problems.operators.micro_batches import is_out_of_memory


@dataclass
class Calls:
    """What one forward pass gave each layer: inputs and outputs of its calls, in order."""

    examples: int
    outputs: Tensor
    layers: tuple[Layer, ...]
    taken: list[list[Tensor]]
    given: list[list[Tensor]]

    def inputs(self, index: int, dtype: torch.dtype) -> Tensor:
        """a of layer `index`, (m, T, columns), the positions of all its calls."""
        layer = self.layers[index]
        # A layer that only some examples reach may not be called at all.
        rows = [
            self.outputs.new_zeros(self.examples, 0, layer.columns),
            *(
                layer.input_rows(taken.detach(), given, self.examples)
                for taken, given in zip(self.taken[index], self.given[index], strict=True)
            ),
        ]
        return torch.cat(rows, dim=1).to(dtype)

    def gradients(self, vectors: Tensor) -> list[list[Tensor]]:
        """Of vector · outputs for each of `vectors` (r, shape of the outputs), at every call's outputs."""
        given = [value for values in self.given for value in values]
        found: list[Tensor | None] = [None] * len(given)
        if self.outputs.requires_grad:
            found = _pull_back(self.outputs, given, vectors)
        filled = iter(
            value.new_zeros(len(vectors), *value.shape) if gradient is None else gradient
            for value, gradient in zip(given, found, strict=True)
        )
        return [[next(filled) for _ in values] for values in self.given]

    def rows(self, index: int, gradients: list[Tensor], count: int, dtype: torch.dtype) -> Tensor:
        """g of layer `index`, (r, m, T, outputs) of r = `count` rows, the positions of all its calls."""
        layer = self.layers[index]
        rows = [
            self.outputs.new_zeros(count, self.examples, 0, layer.outputs),
            *(layer.output_rows(each, self.examples) for each in gradients),
        ]
        return torch.cat(rows, dim=2).to(dtype)


def forward(function: ModelFunction, layers: tuple[Layer, ...], inputs: Inputs, examples: int) -> Calls:
    """The network's outputs with a graph that begins at its layers' outputs."""
    taken: list[list[Tensor]] = [[] for _ in layers]
    given: list[list[Tensor]] = [[] for _ in layers]

    def keep(index: int) -> Callable[..., Tensor]:
        def hook(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> Tensor:
            taken[index].append(arguments[0] if arguments else keywords["input"])
            if not output.requires_grad:
                output.requires_grad_()
            given[index].append(output)
            # A copy, so that what follows may write over it.
            return output.clone()

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for index, layer in enumerate(layers):
            handle = layer.module.register_forward_hook(keep(index), with_kwargs=True)
            stack.callback(handle.remove)
        outputs = function.outputs(function.parameters, inputs)
    return Calls(examples, outputs, layers, taken, given)


def _pull_back(outputs: Tensor, given: list[Tensor], vectors: Tensor) -> list[Tensor | None]:
    """Gradients at `given` for each of `vectors`, None where the outputs do not depend on one."""
    try:
        return list(
            torch.autograd.grad(
                outputs, given, vectors, retain_graph=True, is_grads_batched=True, allow_unused=True
            )
        )
    except RuntimeError as error:
        if is_out_of_memory(error) or len(vectors) == 0:
            raise
    # An operation that has no batched derivative.
    each = [
        torch.autograd.grad(outputs, given, vector, retain_graph=True, allow_unused=True)
        for vector in vectors
    ]
    return [
        None if found[0] is None else torch.stack([part for part in found if part is not None])
        for found in zip(*each, strict=True)
    ]
