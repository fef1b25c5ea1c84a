"""From pixels to what a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Pixels of some 100 MB in float64: larger sets are taken apart.
IMAGES_AT_ONCE = 4096


class Encoding(Protocol):
    """Images uint8 (m, c, h, w) as inputs (m, …)."""

    def __call__(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Flat:
    """Pixels in [0, 1] in a row, (m, c·h·w), float64."""

    white: int

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1).double() / self.white


@dataclass(frozen=True)
class Standardised:
    """Pixels less their channel's mean, over its standard deviation, (m, c, h, w), float32."""

    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        means, deviations = (
            torch.tensor(values, device=images.device)[:, None, None]
            for values in (self.means, self.deviations)
        )
        return (images.float() - means) / deviations


def standardised(images: Tensor) -> Standardised:
    """By the mean and standard deviation of all pixels of each channel of `images` (n, c, h, w), uint8."""
    values = torch.arange(256, dtype=torch.float64)
    means, deviations = [], []
    for channel in images.unbind(1):
        # By how often each value occurs: exact, and without a copy of the images.
        shares = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = float(shares @ values)
        means.append(mean)
        variance = float(shares @ (values - mean).square())
        # A channel of one value is left as it is.
        deviations.append(variance**0.5 or 1.0)
    return Standardised(tuple(means), tuple(deviations))


def encode_all(encoding: Encoding, images: Tensor, dtype: torch.dtype) -> Tensor:
    """All `images` as inputs in `dtype`, without more than a part of them in another one."""
    return torch.cat([encoding(part).to(dtype) for part in images.split(IMAGES_AT_ONCE)])
