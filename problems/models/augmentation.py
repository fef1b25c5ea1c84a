"""What is done to training images at random, anew at every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """A crop of the image's own size out of the image in a black `border` of so many pixels; a mirror image.

    As He et al. (2016) train on CIFAR-10, with border 4 and `mirror`, which takes one image in two.
    """

    border: int = 0
    mirror: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (m, c, h, w) of their own shape and dtype; `generator` is one of the CPU's."""
        count, _, height, width = images.shape
        if self.border:
            tops, lefts = torch.randint(2 * self.border + 1, (2, count), generator=generator)
            images = F.pad(images, [self.border] * 4)
        else:
            tops = lefts = torch.zeros(count, dtype=torch.long)
        columns = lefts[:, None] + torch.arange(width)
        if self.mirror:
            mirrored = torch.rand(count, generator=generator) < 0.5
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        rows = tops[:, None] + torch.arange(height)
        return _select(images, rows.to(images.device), columns.to(images.device))


def _select(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Of each image its own rows (m, h) and columns (m, w)."""
    each = torch.arange(len(images), device=images.device)[:, None, None]
    # Pixels first, then channels: what is gathered is then in the layout that convolutions are fastest in.
    return images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
