"""Small data sets in the formats of the real ones, written here by other code than that which reads them."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from dataclasses import replace

import torch
from PIL import Image

from problems.data.data_set import Address, DataSet
from problems.data.idx import FILES, idx_layout
from problems.data.images import Images, digest

# Nothing listens there.
NOWHERE = "http://127.0.0.1:9"
IDX = idx_layout("small")


def small_images(side: int = 4, channels: int = 1, name: str = "small") -> Images:
    """Ten training and three test images of seeded pixels."""
    generator = torch.Generator().manual_seed(0)

    def pixels(count: int) -> torch.Tensor:
        return torch.randint(256, (count, channels, side, side), generator=generator, dtype=torch.uint8)

    return Images(name, pixels(10), torch.arange(10) % 4, pixels(3), torch.arange(3), 255, 4)


def idx_files(images: Images) -> dict[str, bytes]:
    """MNIST's four files: a magic number, the sizes as big-endian integers, the bytes."""
    files = {}
    for key, file in FILES.items():
        values = getattr(images, key)
        values = values.squeeze(1) if values.ndim == 4 else values
        magic = bytes([0, 0, 8, values.ndim])
        sizes = b"".join(struct.pack(">I", size) for size in values.shape)
        files[file] = magic + sizes + bytes(values.flatten().tolist())
    return files


def gzipped(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content) for name, content in files.items()}


def tar(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def wheel(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def deb(files: dict[str, bytes]) -> bytes:
    """An `ar` archive as dpkg-deb writes it; the second member begins at an even place."""
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar(files, "w:xz")}
    content = b"!<arch>\n"
    for name, part in parts.items():
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(part):<10}`\n".encode() + part
        content += b"\n" * (len(part) % 2)
    return content


def png(rows: torch.Tensor) -> bytes:
    """A PNG of the pixels (height, width, 3)."""
    target = io.BytesIO()
    Image.fromarray(rows.numpy()).save(target, "PNG")
    return target.getvalue()


def data_set(*urls: str, **changed: object) -> DataSet:
    """The small images as a data set, with one address for each URL."""
    made = DataSet(
        name="small",
        kind="images",
        summary="made by the tests",
        licence="none",
        sha256=digest(small_images()),
        addresses=tuple(Address(f"address {place}", (url,), IDX) for place, url in enumerate(urls, 1)),
    )
    return replace(made, **changed)  # type: ignore[arg-type]


def same(found: object, expected: Images) -> bool:
    """Whether `found` are the expected images, array by array."""
    return isinstance(found, Images) and all(
        torch.equal(getattr(found, key), getattr(expected, key)) for key in FILES
    )
