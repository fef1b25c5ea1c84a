"""Data sets: each is a module of this package with a `DATA_SET`; nothing is registered.

`load` takes the first source that has a data set, checks its content against the SHA-256 and keeps it in the
user's cache; from then on no network is touched.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from problems.data.data_set import DataSet, DataUnavailable, DataWarning
from problems.data.images import Images
from problems.data.sources import Obtained, obtain
from problems.data.text import Text
from problems.validation import unknown

__all__ = [
    "DataSet",
    "DataUnavailable",
    "DataWarning",
    "Images",
    "Text",
    "available",
    "fetch",
    "find",
    "is_cached",
    "load",
]


def available() -> dict[str, DataSet]:
    """Every data set there is, by name."""
    found: dict[str, DataSet] = {}
    for module in pkgutil.iter_modules(__path__):
        data_set = getattr(importlib.import_module(f"{__name__}.{module.name}"), "DATA_SET", None)
        if isinstance(data_set, DataSet):
            if data_set.name in found:
                raise ValueError(f"two modules of {__name__} claim the name {data_set.name!r}: rename one")
            found[data_set.name] = data_set
    return found


def find(name: str) -> DataSet:
    """The data set `name`; ValueError suggests the nearest."""
    known = available()
    if name not in known:
        raise ValueError(unknown("data set", name, known))
    return known[name]


def load(name: str, folder: str | Path | None = None) -> Images | Text | Path:
    """The data set `name`, from `folder` if it holds it, the cache, or else the network; of weights the path.

    DataUnavailable, an OSError, names every source that was tried and what it said; ValueError where there is
    no such data set.
    """
    content = obtain(find(name), None if folder is None else Path(folder).expanduser()).content
    assert not isinstance(content, bytes)
    return content


def fetch(name: str, folder: str | Path | None = None) -> Obtained:
    """As `load`, with the source and what those before it said; DataUnavailable where it cannot be kept."""
    return obtain(find(name), None if folder is None else Path(folder).expanduser(), keep=True)


def is_cached(name: str) -> bool:
    """Whether `load` needs no network: it is in the cache, or inside an installed package."""
    data_set = find(name)
    return data_set.embedded is not None or data_set.cache_path.is_file()
