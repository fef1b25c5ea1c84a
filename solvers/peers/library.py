"""Another library: whether it is there, and in a version that its adapter was written for."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
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


def library_of(solver: type) -> Library | None:
    """The library that a solver is of, LIBRARY of its file; None where the method is its file's own."""
    found = getattr(sys.modules.get(solver.__module__), "LIBRARY", None)
    return found if isinstance(found, Library) else None


def unavailable(solver: type) -> str | None:
    """Why a solver runs on no problem here, with what to do: its library is missing; or None."""
    library = library_of(solver)
    return library.missing() if library else None


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
