"""Another library: whether it is there, and in a version that its adapter was written for."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Library:
    """`module` is what Python imports, `distribution` what pip installs, `supported` a range of versions."""

    module: str
    distribution: str
    supported: str
    # What installs it; the others of `make peers` are found in the package index.
    install: str = "`make peers` installs it beside this package"

    @property
    def version(self) -> str:
        """The installed version; "unversioned" of a copy that was put on the path."""
        return _version(self.distribution) or "unversioned"

    def missing(self) -> str | None:
        """Why the library cannot be used here, with what to do, or None."""
        return _missing(self)


# Both are asked for each cell of a run, and what is installed does not change within one.
@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _missing(library: Library) -> str | None:
    if importlib.util.find_spec(library.module) is None:
        return f"{library.distribution} is not installed: {library.install}"
    found = _version(library.distribution)
    if found is not None and not SpecifierSet(library.supported).contains(found, prereleases=True):
        return (
            f"{library.distribution} {found} is installed; supported is {library.supported}: "
            f"{library.install}"
        )
    return None
