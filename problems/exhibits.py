"""What a person sees of a problem's examples."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Exhibit:
    """An example as people see it: its class or other label, and its text or its picture, a PNG file."""

    label: str = ""
    text: str = ""
    picture: bytes = b""


@dataclass(frozen=True)
class Exhibits:
    """The training examples and the queries of a problem by index, as far as one can look at them."""

    training: Callable[[int], Exhibit]
    query: Callable[[int], Exhibit]


def png(image: Tensor, white: int) -> bytes:
    """An image uint8 (channels, height, width), 0 black and `white` white, as a PNG file."""
    scaled = (image.to(torch.float32) * (255 / white)).round().to(torch.uint8)
    array = scaled[0] if len(scaled) == 1 else scaled.permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(array.contiguous().numpy()).save(file, "PNG", optimize=True)
    return file.getvalue()
