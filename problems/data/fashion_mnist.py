"""Fashion-MNIST: pictures of clothes (Xiao, Rasul & Vollgraf 2017)."""

from __future__ import annotations

from pathlib import Path

from problems.data.data_set import Address, DataSet
from problems.data.idx import FILES, idx_layout

LAYOUT = idx_layout("fashion_mnist")
OFFICIAL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
DEBIAN = "https://deb.debian.org/debian/pool/main/d/dataset-fashion-mnist"

DATA_SET = DataSet(
    name="fashion_mnist",
    kind="images",
    summary="60,000 + 10,000 pictures of clothes of 28 × 28",
    licence="MIT",
    download_bytes=30_900_652,
    sha256="42e713b4a821e6e2e23ab3dda1717aa1011f6e845d0342ed2b5ecb0c590aa57c",
    folders=(Path("/usr/share/datasets/fashion-mnist"),),
    addresses=(
        Address("the official files", tuple(f"{OFFICIAL}/{file}.gz" for file in FILES.values()), LAYOUT),
        Address(
            "the Debian package dataset-fashion-mnist",
            (f"{DEBIAN}/dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",),
            LAYOUT,
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        ),
    ),
)
