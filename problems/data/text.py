"""Data sets of text: what they are in memory, their hash and their file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Text:
    """Documents to train on and documents held out, in a fixed order."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def _encoded(text: Text) -> bytes:
    return json.dumps({"train": text.train, "test": text.test}, ensure_ascii=False).encode()


def digest(text: Text) -> str:
    """SHA-256 of the documents as UTF-8 JSON: the same whatever file they came in."""
    return hashlib.sha256(_encoded(text)).hexdigest()


def write(text: Text, path: Path) -> None:
    """Write the documents as UTF-8 JSON."""
    path.write_bytes(_encoded(text))


def read(path: Path, name: str) -> Text:
    """The documents that `write` wrote; ValueError or OSError where they are damaged."""
    stored = json.loads(path.read_bytes())
    if not isinstance(stored, dict) or set(stored) != {"train", "test"}:
        raise ValueError(f"{path} holds no documents")
    return Text(name, tuple(stored["train"]), tuple(stored["test"]))
