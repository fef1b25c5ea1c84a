"""Targets drawn once from a model's own distribution, as the Monte-Carlo Fisher matrix needs them."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from problems.examples import Examples
from problems.losses import Loss
from problems.model_function import ModelFunction
from problems.precision import multiplying
from problems.work import Work

# Drawing takes a forward pass, which needs less than a product does.
PASS_SIZE = 32


class SampledTargets:
    """`num_samples` targets for every unit of `examples`, drawn with `seed` when they are first read."""

    def __init__(
        self, function: ModelFunction, loss: Loss, examples: Examples, work: Work, num_samples: int, seed: int
    ) -> None:
        self._function = function
        self._loss = loss
        self._examples = examples
        self._work = work
        self._num_samples = num_samples
        self._seed = seed

    def read(self, indices: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """The draws for the examples `indices`, each shaped like `targets`."""
        rows = [self._drawn[int(i)] for i in indices]
        if self._loss.unit == "example":
            stacked = torch.stack(rows, dim=1)
            return tuple(stacked.to(targets.device))
        # Where sequences are padded to the longest of their batch, places shift and ranks do not.
        placed = torch.zeros(self._num_samples, *targets.shape, dtype=torch.long)
        for row, (judging, values) in enumerate(zip(self._loss.judging(targets).cpu(), rows, strict=True)):
            placed[:, row, judging] = values
        return tuple(placed.to(targets.device))

    @cached_property
    def _drawn(self) -> list[Tensor]:
        """By example: (samples, ...) targets, or (samples, tokens that judge)."""
        generator = torch.Generator().manual_seed(self._seed)
        drawn: list[Tensor] = []
        self._work.count_forward(len(self._examples))
        with torch.no_grad(), multiplying(self._function.precision):
            for inputs, targets in self._examples.passes(torch.arange(len(self._examples)), PASS_SIZE):
                outputs = self._function.outputs(self._function.parameters, inputs)
                samples = [self._loss.sample(outputs, generator) for _ in range(self._num_samples)]
                by_example = torch.stack(samples, dim=1).cpu()
                if self._loss.unit == "token":
                    judging = self._loss.judging(targets).cpu()
                    drawn += [row[:, where] for row, where in zip(by_example, judging, strict=True)]
                else:
                    drawn += list(by_example)
        return drawn
