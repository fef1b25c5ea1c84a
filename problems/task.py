"""What lies behind a model's curvature matrix: network, loss, training data and queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from problems.examples import Examples, Inputs, map_tensors
from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.operators.micro_batches import MicroBatches
from problems.precision import multiplying
from problems.work import Work


@dataclass(frozen=True)
class Task:
    """The learning task whose curvature is H; work and sizes are counted and shared with H's operator."""

    function: ModelFunction
    loss: Loss
    training: Examples
    queries: Examples
    work: Work
    micro_batches: MicroBatches

    def gradients(self, examples: Examples, indices: Tensor) -> Tensor:
        """Per-example loss gradients of `indices` (k,), as columns (p, k).

        A sequence's loss is the mean over its tokens.
        """
        self.work.count_gradients(len(indices))

        def example_loss(parameters: dict[str, Tensor], inputs: Inputs, target: Tensor) -> Tensor:
            outputs = self.function.outputs(parameters, map_tensors(lambda value: value[None], inputs))
            return self.loss.per_example(outputs, target[None])[0]

        def together(pass_size: int) -> Tensor:
            found = []
            for inputs, targets in examples.passes(indices, pass_size):
                per_example = vmap(grad(example_loss), in_dims=(None, 0, 0))
                found.append(self.function.flatten(per_example(self.function.parameters, inputs, targets)).T)
            # A copy of them all would take a fifth as long again.
            return found[0] if len(found) == 1 else torch.cat(found)

        def one_by_one() -> Tensor:
            found = []
            for inputs, targets in examples.passes(indices, 1):
                first = map_tensors(lambda value: value[0], inputs)
                gradient = grad(example_loss)(self.function.parameters, first, targets[0])
                found.append(self.function.flatten({name: part[None] for name, part in gradient.items()}).T)
            return torch.cat(found)

        with multiplying(self.function.precision):
            try:
                return self.micro_batches.run(len(indices), together).T
            except RuntimeError:
                # The network looks at its data to choose its way, say: Hugging Face's attention masks do.
                return one_by_one().T

    def query_gradients(self) -> Tensor:
        """Loss gradients of all queries, as columns (p, k): the right-hand sides of influence functions.

        ValueError as of `check_queries`.
        """
        self.check_queries()
        return self.gradients(self.queries, torch.arange(len(self.queries)))

    def check_queries(self) -> None:
        """ValueError for a sequence none of whose tokens counts: its gradient would be 0."""
        for index in torch.arange(len(self.queries)) if self.loss.unit == "token" else ():
            _, targets = self.queries.batch(index[None])
            if not self.loss.counted(targets).any():
                raise ValueError(f"query {index} has no token with a label that counts (all are −100)")

    def training_gradient(self) -> Tensor:
        """The gradient of the mean training loss, over all units that count, shape (p, 1)."""
        count = len(self.training)
        self.work.count_gradients(count)

        def mean_gradient(pass_size: int) -> Tensor:
            total = torch.zeros(self.function.num_parameters, 1).to(self.function.device, self.function.dtype)
            units = 0
            for inputs, targets in self.training.passes(torch.arange(count), pass_size):
                units += int(self.loss.counted(targets).sum())

                def summed_loss(
                    parameters: dict[str, Tensor], inputs: Inputs = inputs, targets: Tensor = targets
                ) -> Tensor:
                    return self.loss.per_unit(self.function.outputs(parameters, inputs), targets).sum()

                gradient = grad(summed_loss)(self.function.parameters)
                total += self.function.flatten({name: value[None] for name, value in gradient.items()})
            return total / units

        with multiplying(self.function.precision):
            return self.micro_batches.run(count, mean_gradient)
