"""The Gauss–Newton matrix of a network (Schraudolph 2002)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.operators import retained
from problems.operators.curvature import (
    Batch,
    BlockProduct,
    Curvature,
    OutputCurvature,
    OutputRoot,
    Parameters,
    Retain,
)


@dataclass(frozen=True)
class GaussNewton(Curvature):
    """H = mean Jᵀ S J: J the Jacobian of a unit's outputs, S = ∇²ℓ at those outputs, in closed form.

    Exact: no sampled labels and no finite differences. Positive semi-definite for every supported loss.
    A product with k columns costs 1 + 4k forward passes.
    """

    def block_product(self, function: ModelFunction, loss: Loss) -> BlockProduct:
        return through_outputs(function, self.output_curvature(loss))

    def retain(self, function: ModelFunction, loss: Loss) -> Retain:
        return retained.through_outputs(function, self.output_curvature(loss))

    def output_curvature(self, loss: Loss) -> OutputCurvature:
        def curve(outputs: Tensor, batch: Batch, tangents: Tensor) -> Tensor:
            return loss.hessian_product(outputs, tangents, like_outputs(batch.weights, outputs))

        return curve

    def output_root(self, loss: Loss) -> OutputRoot:
        def root(outputs: Tensor, batch: Batch) -> Tensor:
            return loss.hessian_root(outputs) * like_outputs(batch.weights.sqrt(), outputs)

        return root


def through_outputs(function: ModelFunction, curve: OutputCurvature) -> BlockProduct:
    """(parameters, batch, V) ↦ Σ Jᵀ S J V in one forward pass, S by `curve`.

    Tangents go along with the values (forward mode) while the values' graph is recorded for the pullback:
    1 forward pass, and for each of the c vectors 2 for its tangents and 2 for its pullback.
    """

    def product(parameters: Parameters, batch: Batch, vectors: Tensor) -> Tensor:
        def values_and_tangents(parameters: Parameters) -> tuple[Tensor, Tensor]:
            def pushforward(tangent: Parameters) -> tuple[Tensor, Tensor]:
                return jvp(lambda p: function.outputs(p, batch.inputs), (parameters,), (tangent,))  # type: ignore[return-value]

            tangents = function.unflatten(vectors.T)
            if len(vectors) == 1:
                return pushforward({name: part[0] for name, part in tangents.items()})
            return vmap(pushforward, out_dims=(None, 0))(tangents)  # type: ignore[arg-type]

        outputs, pullback, output_tangents = vjp(values_and_tangents, parameters, has_aux=True)  # type: ignore[misc]
        curved = curve(outputs, batch, output_tangents)
        if len(vectors) == 1:
            gradients = {name: part[None] for name, part in pullback(curved)[0].items()}
        else:
            gradients = vmap(pullback)(curved)[0]
        return function.flatten(gradients).T

    return product


def example_forms(function: ModelFunction, curve: OutputCurvature) -> BlockProduct:
    """(parameters, batch, V) ↦ weighted vᵀ h v of every example, shape (c, m), in forward mode alone."""

    def forms(parameters: Parameters, batch: Batch, vectors: Tensor) -> Tensor:
        def form(tangent: Parameters) -> Tensor:
            outputs, tangents = jvp(lambda p: function.outputs(p, batch.inputs), (parameters,), (tangent,))  # type: ignore[misc]
            return (tangents * curve(outputs, batch, tangents)).flatten(1).sum(dim=1)

        parts = function.unflatten(vectors.T)
        return torch.stack(
            [form({name: part[i] for name, part in parts.items()}) for i in range(len(vectors))]
        )

    return forms


def like_outputs(weights: Tensor, outputs: Tensor) -> Tensor:
    """Weights of units with a dimension of size 1 for each dimension of a unit's outputs."""
    return weights.reshape(*weights.shape, *(1,) * (outputs.ndim - weights.ndim))
