"""Data sets of images in classes: what they are in memory, their hash and their file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

# The order in which a hash takes them.
ARRAYS = ("train_inputs", "train_targets", "test_inputs", "test_targets")


@dataclass(frozen=True, eq=False)
class Images:
    """Images uint8 (n, channels, height, width), 0 black and `white` white, and class numbers int64 (n,)."""

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    white: int
    num_classes: int

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            inputs, targets = getattr(self, f"{part}_inputs"), getattr(self, f"{part}_targets")
            if inputs.dtype != torch.uint8 or inputs.ndim != 4:
                raise ValueError(
                    f"{part} images are {inputs.dtype} {tuple(inputs.shape)}, not uint8 (n, c, h, w)"
                )
            if targets.dtype != torch.int64 or targets.shape != inputs.shape[:1]:
                raise ValueError(
                    f"{part} classes are {targets.dtype} {tuple(targets.shape)}, not int64 ({len(inputs)},)"
                )


def as_images(name: str, arrays: dict[str, Tensor], white: int = 255) -> Images:
    """Images of the four `arrays`, by their field; ValueError where one is missing or of a wrong shape."""
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    num_classes = int(arrays["train_targets"].max()) + 1
    return Images(name, **{key: arrays[key] for key in ARRAYS}, white=white, num_classes=num_classes)


def digest(images: Images) -> str:
    """SHA-256 of the arrays, each with its type and shape: the same whatever file they came in."""
    found = hashlib.sha256()
    for key in ARRAYS:
        array = getattr(images, key).contiguous().numpy()
        found.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.data)
    return found.hexdigest()


def write(images: Images, path: Path) -> None:
    """Write the arrays as safetensors."""
    save_file({key: getattr(images, key).contiguous() for key in ARRAYS}, path)


def read(path: Path, name: str) -> Images:
    """The images that `write` wrote; ValueError, OSError or SafetensorError where they are damaged."""
    return as_images(name, load_file(path))
