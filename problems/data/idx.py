"""IDX, the files that MNIST and those after it come as: http://yann.lecun.com/exdb/mnist."""

from __future__ import annotations

import struct

import numpy as np
import torch
from torch import Tensor

from problems.data.data_set import Found, Layout
from problems.data.images import Images, as_images

UNSIGNED_BYTE = 8
FILES = {
    "train_inputs": "train-images-idx3-ubyte",
    "train_targets": "train-labels-idx1-ubyte",
    "test_inputs": "t10k-images-idx3-ubyte",
    "test_targets": "t10k-labels-idx1-ubyte",
}


def read_idx(content: bytes) -> Tensor:
    """The array in an IDX file of unsigned bytes; ValueError where it is none or cut off."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise ValueError("is no IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError("is an IDX file that ends in its head")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"is an IDX file of {values.size} numbers, and says it has the shape {shape}")
    return torch.from_numpy(values.reshape(shape).copy())


def idx_layout(name: str) -> Layout:
    """MNIST's four files, as the data set `name`."""

    def decode(found: Found) -> Images:
        arrays = {}
        for key, file in FILES.items():
            try:
                values = read_idx(found[file][0])
            except ValueError as error:
                raise ValueError(f"{file} {error}") from error
            arrays[key] = values.unsqueeze(1) if key.endswith("inputs") else values.long()
        return as_images(name, arrays)

    return Layout(tuple(FILES.values()), decode)
