"""Training on images, with the share of test images that are classified rightly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from problems.data.images import Images
from problems.losses import CrossEntropy
from problems.models.augmentation import Augmentation
from problems.models.image_inputs import Encoding
from problems.training import Lesson

TESTED_AT_ONCE = 500


def image_lesson(
    data: Images, count: int, encoding: Encoding, augmentation: Augmentation, device: torch.device
) -> Lesson:
    """The cross-entropy of the first `count` training images, on `device`; "test accuracy" is measured."""
    images, targets = data.train_inputs[:count].to(device), data.train_targets[:count].to(device)
    loss = CrossEntropy()

    def batch_loss(model: nn.Module, indices: Tensor, generator: torch.Generator) -> Tensor:
        chosen = indices.to(device)
        outputs = model(encoding(augmentation(images[chosen], generator)))
        return loss.per_example(outputs, targets[chosen]).mean()

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"test accuracy": measure_accuracy(model, data, encoding, device)}

    return Lesson(count, batch_loss, evaluate)


def measure_accuracy(model: nn.Module, data: Images, encoding: Encoding, device: torch.device) -> float:
    """The share of the test images whose largest output is their class's."""
    right = 0
    with torch.no_grad():
        for images, targets in zip(
            data.test_inputs.split(TESTED_AT_ONCE), data.test_targets.split(TESTED_AT_ONCE), strict=True
        ):
            outputs = model(encoding(images.to(device)))
            right += int((outputs.argmax(dim=1).cpu() == targets).sum())
    return right / len(data.test_targets)
