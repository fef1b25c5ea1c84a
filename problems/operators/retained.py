"""Products with a batch whose forward pass autograd keeps: nothing is recorded, and none is run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from problems.model_function import ModelFunction
from problems.operators.curvature import Batch, OutputCurvature, Parameters, Retain

Product = Callable[[Tensor], Tensor]


class NotRetained(Exception):
    """The network has operations of the user's own, whose second derivative may not be what it should be."""


@dataclass(frozen=True)
class Retained:
    """V ↦ product for one batch; `bytes` is the memory that its graphs hold."""

    product: Product
    bytes: int

    def __call__(self, vectors: Tensor) -> Tensor:
        return self.product(vectors)


def retained(retain: Retain, parameters: Parameters, batch: Batch) -> Retained:
    """Run the forward pass for `batch` and keep it; NotRetained, or RuntimeError, where that cannot be."""
    storages: dict[int, int] = {}

    def seen(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        product = retain(parameters, batch)
    for given in (*parameters.values(), *batch.tensors()):
        storages.pop(given.untyped_storage().data_ptr(), None)
    return Retained(product, sum(storages.values()))


def through_outputs(function: ModelFunction, curve: OutputCurvature) -> Retain:
    """Σ Jᵀ S J V: Jᵀu is linear in u, so that its derivative along v, by a second backward pass, is Jv.

    2 forward passes for each vector's Jv and 2 for its pullback, as in forward mode.
    """

    def retain(parameters: Parameters, batch: Batch) -> Product:
        leaves = _leaves(parameters)
        outputs = function.outputs(leaves, batch.inputs)
        _check(outputs)
        cotangent = torch.zeros_like(outputs, requires_grad=True)
        pulled = _gradients(outputs, list(leaves.values()), cotangent)
        values = outputs.detach()

        def product(vectors: Tensor) -> Tensor:
            tangents = list(function.unflatten(vectors.T).values())
            (pushed,) = _derivatives(pulled, [cotangent], tangents)
            curved = curve(values, batch, pushed)
            found = _derivatives([outputs], list(leaves.values()), [curved])
            return function.flatten(dict(zip(leaves, found, strict=True))).T

        return product

    return retain


def through_gradient(function: ModelFunction, total_loss: Callable[[Parameters, Batch], Tensor]) -> Retain:
    """∇² V: the gradient's own backward pass (Pearlmutter 1994)."""

    def retain(parameters: Parameters, batch: Batch) -> Product:
        leaves = _leaves(parameters)
        total = total_loss(leaves, batch)
        _check(total)
        gradient = _gradients(total, list(leaves.values()), None)

        def product(vectors: Tensor) -> Tensor:
            tangents = list(function.unflatten(vectors.T).values())
            found = _derivatives(gradient, list(leaves.values()), tangents)
            return function.flatten(dict(zip(leaves, found, strict=True))).T

        return product

    return retain


def _check(outputs: Tensor) -> None:
    """NotRetained where the graph of `outputs` has a function that is not torch's own."""
    seen, left = set(), [outputs.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, BackwardCFunction):
            raise NotRetained
        seen.add(node)
        left += [source for source, _ in node.next_functions]


def _leaves(parameters: Parameters) -> Parameters:
    return {name: value.detach().requires_grad_() for name, value in parameters.items()}


def _gradients(outputs: Tensor, inputs: Sequence[Tensor], weights: Tensor | None) -> list[Tensor]:
    """With a graph of their own; zeros for what the outputs do not depend on."""
    return list(torch.autograd.grad(outputs, inputs, weights, create_graph=True, materialize_grads=True))


def _derivatives(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor]:
    """Of Σ outputs · w for each w of `weights` (c, ...), by `inputs`, each (c, ...)."""
    count = len(weights[0])
    pairs = [(each, weight) for each, weight in zip(outputs, weights, strict=True) if each.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if pairs:
        together = count > 1
        found = torch.autograd.grad(
            [each for each, _ in pairs],
            inputs,
            [weight if together else weight[0] for _, weight in pairs],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=together,
        )
        if not together:
            found = [None if each is None else each[None] for each in found]
    return [
        value.new_zeros(count, *value.shape) if each is None else each
        for value, each in zip(inputs, found, strict=True)
    ]
