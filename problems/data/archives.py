"""Files inside archives and folders, read by name and in memory: nothing is ever unpacked to disk."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TypeAlias

from problems.data.data_set import Found

Member: TypeAlias = tuple[str, Callable[[], bytes]]


def members(name: str, content: bytes) -> Iterator[Member]:
    """The files in the archive `name` (.tgz, .tar.gz, .whl, .zip, .deb), each with a function that reads it.

    Any other file is its own only member. A function is to be called before the next member is asked for.
    """
    if name.endswith(".deb"):
        yield from _in_tar(_data_of_deb(content))
    elif name.endswith((".tgz", ".tar.gz")):
        yield from _in_tar(content)
    elif name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield member, partial(archive.read, member)
    else:
        yield name, lambda: content


def files_in(folder: Path, patterns: Iterable[str]) -> Iterator[Member]:
    """The files in `folder`, or one folder deeper, that a pattern matches, plain or with `.gz`."""
    for pattern in patterns:
        for path in sorted(
            path
            for place in (pattern, f"*/{pattern}")
            for ending in ("", ".gz")
            for path in folder.glob(place + ending)
            if path.is_file()
        ):
            yield path.relative_to(folder).as_posix(), path.read_bytes


def select(found: Iterable[Member], patterns: tuple[str, ...]) -> Found:
    """What each pattern matches, decompressed; where a file is there plain and with `.gz`, the first of them.

    FileNotFoundError where no pattern matches anything, ValueError where only some do.
    """
    chosen: dict[str, dict[str, bytes]] = {pattern: {} for pattern in patterns}
    for name, read in found:
        plain = name.removesuffix(".gz")
        for pattern, taken in chosen.items():
            if plain not in taken and (fnmatchcase(plain, pattern) or fnmatchcase(plain, f"*/{pattern}")):
                taken[plain] = gzip.decompress(read()) if plain != name else read()
    missing = [pattern for pattern, taken in chosen.items() if not taken]
    if missing:
        absent = ", ".join(missing)
        if len(missing) == len(patterns):
            raise FileNotFoundError(f"there is no {absent}")
        raise ValueError(f"there is no {absent} beside the other files")
    return {pattern: tuple(taken[name] for name in sorted(taken)) for pattern, taken in chosen.items()}


def _in_tar(content: bytes) -> Iterator[Member]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name, file.read


def _data_of_deb(content: bytes) -> bytes:
    """The tar archive with a Debian package's files: a .deb is an `ar` archive that holds it."""
    if not content.startswith(b"!<arch>\n"):
        raise ValueError("is no Debian package")
    start = 8
    while start + 60 <= len(content):
        header = content[start : start + 60]
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return content[start + 60 : start + 60 + size]
        start += 60 + size + size % 2
    raise ValueError("is a Debian package without data.tar")
