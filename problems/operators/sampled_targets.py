"""Targets drawn once from a model's own distribution, as the Monte-Carlo Fisher matrix needs them."""

from __future__ import annotations

import torch
from torch import Tensor

from problems.examples import Examples
from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.precision import multiplying

# Examples of one forward pass; sequences, whose outputs are large, go one by one.
PASS_SIZE = 32


class SampledTargets:
    """`num_samples` targets for every unit of `examples`, drawn with `seed`; costs a forward pass."""

    def __init__(
        self, function: ModelFunction, loss: Loss, examples: Examples, num_samples: int, seed: int
    ) -> None:
        self._loss = loss
        self._num_samples = num_samples
        # By example: (samples, ...) targets, or (samples, targets that judge a token).
        self._drawn: list[Tensor] = []
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad(), multiplying(function.precision):
            size = 1 if loss.unit == "token" else PASS_SIZE
            for inputs, targets in examples.passes(torch.arange(len(examples)), size):
                outputs = function.outputs(function.parameters, inputs)
                samples = [loss.sample(outputs, generator) for _ in range(num_samples)]
                by_example = torch.stack(samples, dim=1).cpu()
                if loss.unit == "token":
                    judging = loss.judging(targets).cpu()
                    self._drawn += [row[:, where] for row, where in zip(by_example, judging, strict=True)]
                else:
                    self._drawn += list(by_example)

    def read(self, indices: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """The draws for the examples `indices`, each shaped like `targets`."""
        rows = [self._drawn[int(i)] for i in indices]
        if self._loss.unit == "example":
            return tuple(torch.stack(rows, dim=1).to(targets.device))
        # Where sequences are padded to the longest of their batch, places shift and ranks do not.
        placed = torch.zeros(self._num_samples, *targets.shape, dtype=torch.long)
        for row, (judging, values) in enumerate(zip(self._loss.judging(targets).cpu(), rows, strict=True)):
            placed[:, row, judging] = values
        return tuple(placed.to(targets.device))
