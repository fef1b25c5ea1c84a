"""scikit-learn's digits: 1797 images of 8 × 8 pixels in 10 classes, shipped inside its wheel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from problems.data.data_set import DataSet
from problems.data.images import Images

TRAINING_SIZE = 1437
TEST_SIZE = 360


@dataclass(frozen=True)
class Split:
    """Inputs (n, features) float64 in [0, 1] and class numbers (n,), for training and for testing."""

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    def queries(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` test examples."""
        return self.test_inputs[:count], self.test_targets[:count]


def check_sizes(training_size: int, num_queries: int) -> None:
    """Raise ValueError where the digits are fewer than asked for."""
    if not 1 <= training_size <= TRAINING_SIZE:
        raise ValueError(f"training_size is {training_size}; it must be from 1 to {TRAINING_SIZE}")
    if not 1 <= num_queries <= TEST_SIZE:
        raise ValueError(f"num_queries is {num_queries}; it must be from 1 to {TEST_SIZE}")


def digits(training_size: int = TRAINING_SIZE) -> Split:
    """The digits, split once and for all by a fixed permutation, with `training_size` for training."""
    pixels, classes = load_digits(return_X_y=True)
    inputs = torch.from_numpy(pixels) / 16
    targets = torch.from_numpy(classes).long()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    train, test = order[:training_size], order[TRAINING_SIZE:]
    return Split(inputs[train], targets[train], inputs[test], targets[test])


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The share of examples whose largest output is the target's."""
    return float((outputs.argmax(dim=1) == targets).double().mean())


def _images() -> Images:
    """The digits as images of one channel, in `digits`' split."""
    split = digits()

    def pixels(inputs: Tensor) -> Tensor:
        return (inputs * 16).round().to(torch.uint8).view(-1, 1, 8, 8)

    return Images(
        "digits",
        pixels(split.train_inputs),
        split.train_targets,
        pixels(split.test_inputs),
        split.test_targets,
        white=16,
        num_classes=10,
    )


DATA_SET = DataSet(
    name="digits",
    kind="images",
    summary="1,437 + 360 handwritten digits of 8 × 8, inside scikit-learn",
    licence="CC BY 4.0",
    embedded=_images,
)
