"""A folder that appears whole or not at all."""

import shutil
import uuid
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(directory: Path, parts: Set[str]) -> Iterator[Path]:
    """A fresh folder beside `directory`, which takes its place when the block has ended well.

    An earlier one there is replaced, and stays as it was if anything goes wrong. Raises FileExistsError where
    `directory` holds anything but `parts`: that is not ours to replace.
    """
    directory = Path(directory).resolve()
    check_replaceable(directory, parts)
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.new")
    fresh.mkdir()
    try:
        yield fresh
        _swap(fresh, directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_replaceable(directory: Path, parts: Set[str]) -> None:
    """FileExistsError where `directory` holds anything but `parts`, or is a file."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise FileExistsError(f"{directory} is a file; name a directory for the report")
    strangers = sorted(entry.name for entry in directory.iterdir() if entry.name not in parts)
    if strangers:
        raise FileExistsError(
            f"{directory} holds {strangers[0]!r}, which is no part of a report; name a new directory"
        )


def _swap(fresh: Path, directory: Path) -> None:
    """Puts `fresh` in the place of `directory`; the older one goes last, or comes back if that fails."""
    if not directory.exists():
        fresh.rename(directory)
        return
    old = fresh.with_suffix(".old")
    directory.rename(old)
    try:
        fresh.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)
