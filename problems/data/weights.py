"""Pretrained weights: a file that other libraries open, so that its path is what is handed on."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest(weights: bytes | Path) -> str:
    """SHA-256 of the file, or of what is to be written to it."""
    if isinstance(weights, bytes):
        return hashlib.sha256(weights).hexdigest()
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(weights: bytes | Path, path: Path) -> None:
    """Write the file."""
    path.write_bytes(weights if isinstance(weights, bytes) else weights.read_bytes())


def read(path: Path, name: str) -> Path:
    """The path itself; FileNotFoundError where there is no file."""
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no file {path}")
    return path
