"""The root R of H = RᵀR: a row is Jᵀl, with l a vector of a unit's output curvature S = Σ l lᵀ."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from problems.model_function import ModelFunction
from problems.operators.curvature import Batch, OutputRoot, Parameters


def example_roots(function: ModelFunction, root: OutputRoot, batch: Batch) -> Tensor:
    """R_i = (√weight · lᵀJ) of every example of `batch`, shape (m, r, p); of a sequence all its tokens'."""

    def one(*values: Tensor) -> Tensor:
        example = batch.filled([value[None] for value in values])
        outputs, pullback = vjp(lambda p: function.outputs(p, example.inputs), function.parameters)  # type: ignore[misc]
        vectors = root(outputs, example)
        return function.flatten(vmap(pullback)(_unit_by_unit(vectors, example))[0]).T

    values = batch.tensors()
    if len(batch.targets) == 1:
        return one(*(value[0] for value in values))[None]
    return vmap(one)(*values)


def push_forward(function: ModelFunction, root: OutputRoot, batch: Batch, vectors: Tensor) -> Tensor:
    """R V over `batch` for the vectors V (k, p), rows by example, then by l, then by token: (rows, k)."""

    def outputs_of(parameters: Parameters) -> Tensor:
        return function.outputs(parameters, batch.inputs)

    columns = []
    for index in range(len(vectors)):
        tangent = {name: part[0] for name, part in function.unflatten(vectors[index : index + 1].T).items()}
        outputs, pushed = jvp(outputs_of, (function.parameters,), (tangent,))  # type: ignore[misc]
        # (r, m, ..., C): the sum is over a unit's outputs.
        products = (root(outputs, batch) * pushed).flatten(1 + batch.weights.ndim).sum(dim=-1)
        columns.append(products.movedim(0, 1).flatten())
    return torch.stack(columns, dim=1)


def pull_back(function: ModelFunction, root: OutputRoot, batch: Batch, weights: Tensor) -> Tensor:
    """Rᵀ W over `batch` for the weights W (rows, k) of its rows, shape (k, p)."""
    outputs, pullback = vjp(lambda p: function.outputs(p, batch.inputs), function.parameters)  # type: ignore[misc]
    along = root(outputs, batch)
    count, rank, columns = len(outputs), len(along), weights.shape[1]
    shaped = weights.reshape(count, rank, *batch.weights.shape[1:], columns).movedim(-1, 0).movedim(1, 2)
    shaped = shaped.reshape(columns, rank, *batch.weights.shape, *(1,) * (outputs.ndim - batch.weights.ndim))
    pulled = [pullback((along * part).sum(dim=0))[0] for part in shaped]
    return torch.cat(
        [function.flatten({name: value[None] for name, value in each.items()}).T for each in pulled]
    )


def _unit_by_unit(vectors: Tensor, example: Batch) -> Tensor:
    """(r, 1, T, C) as (r·T, 1, T, C), each with one token's vector alone; unchanged without tokens."""
    if example.weights.ndim == 1:
        return vectors
    length = example.weights.shape[1]
    alone = torch.eye(length, dtype=vectors.dtype, device=vectors.device)
    alone = alone.reshape(length, 1, length, *(1,) * (vectors.ndim - 3))
    return (vectors[:, None] * alone).flatten(0, 1)
