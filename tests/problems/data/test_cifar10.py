"""CIFAR-10's two formats hold the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from problems.data.cifar10 import (
    DATA_SET,
    TEST_BINARY,
    TEST_LABELS,
    TEST_PICTURE,
    TRAINING_BINARIES,
    TRAINING_LABELS,
    TRAINING_PICTURES,
    read_binary,
    read_picture,
)
from problems.data.images import Images, digest
from problems.data.sources import obtain
from tests.problems.data.conftest import Web
from tests.problems.data.made import png, same, small_images, tar

IMAGES = small_images(side=32, channels=3, name="cifar10")


def batches(images: Images) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Five of training, one of test."""
    training = zip(images.train_inputs.split(2), images.train_targets.split(2), strict=True)
    return [*training, (images.test_inputs, images.test_targets)]


def binaries(images: Images) -> dict[str, bytes]:
    """For each image its class, then all red, all green and all blue pixels, row by row."""
    return {
        f"cifar-10-batches-bin/{name}": b"".join(
            bytes([int(target), *image.flatten().tolist()])
            for image, target in zip(inputs, targets, strict=True)
        )
        for name, (inputs, targets) in zip([*TRAINING_BINARIES, TEST_BINARY], batches(images), strict=True)
    }


def pictures(images: Images) -> dict[str, bytes]:
    """A row for each image, in it 1024 pixels of red, green and blue."""
    files = {
        f"package/{name}": png(torch.stack([image.flatten(1).T for image in inputs]))
        for name, (inputs, _) in zip([*TRAINING_PICTURES, TEST_PICTURE], batches(images), strict=True)
    }
    labels = {TRAINING_LABELS: images.train_targets, TEST_LABELS: images.test_targets}
    return files | {f"package/{name}": json.dumps(found.tolist()).encode() for name, found in labels.items()}


def test_both_formats_give_the_same(web: Web, cache: Path) -> None:
    for place, files in enumerate([binaries(IMAGES), pictures(IMAGES)]):
        address = DATA_SET.addresses[place]
        local = replace(address, urls=(web.serve(f"{place}.tar.gz", tar(files)),), sha256=None)
        found = obtain(replace(DATA_SET, sha256=digest(IMAGES), addresses=(local,)))
        assert same(found.content, IMAGES)
        (cache / "cifar10.safetensors").unlink()


def test_files_that_are_none() -> None:
    with pytest.raises(ValueError, match="100 is no multiple of 3073 bytes"):
        read_binary(bytes(100))
    with pytest.raises(ValueError, match=r"is a picture of the shape \(4, 5, 3\)"):
        read_picture(png(torch.zeros(4, 5, 3, dtype=torch.uint8)))
    with pytest.raises(OSError, match="cannot identify"):
        read_picture(b"no picture")
