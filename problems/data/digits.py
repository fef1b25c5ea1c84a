"""scikit-learn's digits: 1797 images of 8 × 8 pixels in 10 classes, shipped inside its wheel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor

TRAINING_SIZE = 1437


@dataclass(frozen=True)
class Split:
    """Inputs (n, features) float64 in [0, 1] and class numbers (n,), for training and for testing."""

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    def queries(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` test examples; ValueError where there are fewer."""
        if not 1 <= count <= len(self.test_targets):
            raise ValueError(f"num_queries is {count}; it must be from 1 to {len(self.test_targets)}")
        return self.test_inputs[:count], self.test_targets[:count]


def digits(training_size: int = TRAINING_SIZE) -> Split:
    """The digits, split once and for all by a fixed permutation; the first `training_size` are for training."""
    if not 1 <= training_size <= TRAINING_SIZE:
        raise ValueError(f"training_size is {training_size}; it must be from 1 to {TRAINING_SIZE}")
    pixels, classes = load_digits(return_X_y=True)
    inputs = torch.from_numpy(pixels) / 16
    targets = torch.from_numpy(classes).long()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    train, test = order[:training_size], order[TRAINING_SIZE:]
    return Split(inputs[train], targets[train], inputs[test], targets[test])


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The share of examples whose largest output is the target's."""
    return float((outputs.argmax(dim=1) == targets).double().mean())
