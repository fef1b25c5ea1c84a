"""What lies behind a model's curvature matrix: network, loss, training data and queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from problems.examples import Examples
from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.work import Work


@dataclass(frozen=True)
class Task:
    """The learning task whose curvature is H; `work` is the counter of H's operator."""

    function: ModelFunction
    loss: Loss
    training: Examples
    queries: Examples
    work: Work

    def gradients(self, examples: Examples, indices: Tensor) -> Tensor:
        """Per-example loss gradients of `indices` (k,), as columns (p, k)."""
        inputs, targets = examples.batch(indices)
        self.work.count_gradients(len(indices))

        def example_loss(parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
            outputs = self.function.outputs(parameters, x[None])
            return self.loss.per_example(outputs, target[None])[0]

        gradients = vmap(grad(example_loss), in_dims=(None, 0, 0))(self.function.parameters, inputs, targets)
        return self.function.flatten(gradients)

    def query_gradients(self) -> Tensor:
        """Loss gradients of all queries, as columns (p, k): the right-hand sides of influence functions."""
        return self.gradients(self.queries, torch.arange(len(self.queries)))

    def training_gradient(self, pass_size: int = 512) -> Tensor:
        """The gradient of the mean training loss, shape (p, 1)."""
        count = len(self.training)
        self.work.count_gradients(count)
        total = torch.zeros(self.function.num_parameters, 1, dtype=self.function.dtype)
        total = total.to(self.function.device)
        for inputs, targets in self.training.passes(torch.arange(count), pass_size):

            def summed_loss(
                parameters: dict[str, Tensor], inputs: Tensor = inputs, targets: Tensor = targets
            ) -> Tensor:
                return self.loss.per_example(self.function.outputs(parameters, inputs), targets).sum()

            gradient = grad(summed_loss)(self.function.parameters)
            total += self.function.flatten({name: value[None] for name, value in gradient.items()})
        return total / count
