"""The Hessian of the training loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.func import grad, jvp, vmap

from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.operators import retained
from problems.operators.curvature import Batch, BlockProduct, Curvature, Parameters, Retain
from problems.work import ProductCost


@dataclass(frozen=True)
class Hessian(Curvature):
    """H = ∇² of the mean loss; indefinite away from a minimum (Pearlmutter 1994).

    Tangents of the gradient (forward over reverse mode). A product with k columns costs 3 + 6k forward
    passes: a gradient, shared, and for each column the tangents of its forward pass (2) and of its
    backward pass (4).
    """

    is_psd = False
    cost = ProductCost(3, 6)

    def block_product(self, function: ModelFunction, loss: Loss) -> BlockProduct:
        total_loss = _total_loss(function, loss)

        def product(parameters: Parameters, batch: Batch, vectors: Tensor) -> Tensor:
            gradient = grad(lambda parameters: total_loss(parameters, batch))

            def pushforward(tangent: Parameters) -> Parameters:
                return jvp(gradient, (parameters,), (tangent,))[1]

            tangents = function.unflatten(vectors.T)
            if len(vectors) == 1:
                gradient_tangent = pushforward({name: part[0] for name, part in tangents.items()})
                gradients = {name: part[None] for name, part in gradient_tangent.items()}
            else:
                gradients = vmap(pushforward)(tangents)
            return function.flatten(gradients).T

        return product

    def retain(self, function: ModelFunction, loss: Loss) -> Retain:
        return retained.through_gradient(function, _total_loss(function, loss))


def _total_loss(function: ModelFunction, loss: Loss) -> Callable[[Parameters, Batch], Tensor]:
    def total_loss(parameters: Parameters, batch: Batch) -> Tensor:
        outputs = function.outputs(parameters, batch.inputs)
        return (loss.per_unit(outputs, batch.targets) * batch.weights).sum()

    return total_loss
