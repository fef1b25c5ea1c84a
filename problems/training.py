"""Training the networks whose curvature is measured; each recipe is run once and kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from problems.losses import Loss


@dataclass(frozen=True)
class Recipe:
    """Adam (Kingma & Ba 2015) with a cosine schedule to zero, on reshuffled mini-batches."""

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4


def train(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, recipe: Recipe, generator: torch.Generator
) -> None:
    """Train `model` in place; the same for the same generator state."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * -(-len(targets) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(recipe.epochs):
        for indices in torch.randperm(len(targets), generator=generator).split(recipe.batch_size):
            optimizer.zero_grad()
            loss.per_example(model(inputs[indices]), targets[indices]).mean().backward()
            optimizer.step()
            schedule.step()
