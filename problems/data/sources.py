"""A data set from the first of its sources that has it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from safetensors import SafetensorError

from problems.cache import ENVIRONMENT_VARIABLE
from problems.data.archives import files_in, members, select
from problems.data.data_set import (
    Address,
    Content,
    DataSet,
    DataUnavailable,
    DataWarning,
    Layout,
    WrongContent,
)
from problems.data.download import download, resolve
from problems.files import write_whole


@dataclass(frozen=True)
class Obtained:
    """The content, the source that gave it, and what the sources before it said."""

    content: Content
    source: str
    said: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    label: str
    get: Callable[[], Content]
    # Where it is not there: is that worth a word, though the next source may have it?
    expected: bool = False
    is_cache: bool = False


def obtain(data_set: DataSet, folder: Path | None = None, *, keep: bool = False) -> Obtained:
    """The data set from the first source that has it; kept in the cache.

    DataUnavailable where no source has it, and with `keep` where the cache cannot be written, which else is a
    DataWarning, except for weights. NotADirectoryError where `folder` is none.
    """
    if data_set.embedded is not None:
        if folder is not None:
            raise ValueError(f"{data_set.name} is inside an installed package and takes no folder")
        return Obtained(data_set.embedded(), "an installed package", ())
    if folder is not None and not folder.is_dir():
        told = f"{folder} is a file: name the folder that it lies in"
        raise NotADirectoryError(told if folder.exists() else f"there is no folder {folder}")
    said: list[str] = []
    for source in _sources(data_set, folder):
        try:
            content = source.get()
        except Exception as error:  # a damaged file can raise anything on its way to arrays and text
            told = f"{source.label}: {_explained(error)}"
            said.append(told)
            if source.expected or not isinstance(error, OSError):
                warnings.warn(f"{data_set.name}: {told}; trying the next source", DataWarning, stacklevel=3)
            continue
        if not source.is_cache:
            content = _kept(data_set, content, keep)
        return Obtained(content, source.label, tuple(said))
    raise DataUnavailable(_all_failed(data_set, said))


def _sources(data_set: DataSet, folder: Path | None) -> Iterator[_Source]:
    if folder is not None:
        yield _Source(f"the folder {folder}", partial(_from_folder, data_set, folder), expected=True)
    cached = data_set.cache_path
    yield _Source(f"the cache, {cached}", partial(_from_cache, data_set, cached), is_cache=True)
    for installed in data_set.folders:
        yield _Source(f"the folder {installed}", partial(_from_folder, data_set, installed))
    for address in data_set.addresses:
        label = f"{address.label}, {resolve(address.urls[0])}"
        yield _Source(label, partial(_from_address, data_set, address))


def _from_cache(data_set: DataSet, path: Path) -> Content:
    if not path.exists():
        raise FileNotFoundError("not there")
    try:
        return _checked(data_set, data_set.rules.read(path, data_set.name))
    except Exception as error:
        raise WrongContent(f"the file is damaged and will be replaced ({_explained(error)})") from error


def _from_folder(data_set: DataSet, folder: Path) -> Content:
    """The content by the cached file, the files of a layout or an archive in `folder`, whichever is right."""
    if not folder.is_dir():
        raise FileNotFoundError("not there")
    wrong: list[str] = []
    for label, get in _in_folder(data_set, folder):
        try:
            return _checked(data_set, get())
        except FileNotFoundError:
            continue
        except Exception as error:
            wrong.append(f"{label}: {_explained(error)}")
    if wrong:
        raise WrongContent("; ".join(wrong))
    raise FileNotFoundError(f"holds nothing of it; looked for {_what_a_folder_holds(data_set)}")


def _in_folder(data_set: DataSet, folder: Path) -> Iterator[tuple[str, Callable[[], Content]]]:
    cached = folder / data_set.cached_name
    if cached.is_file():
        yield cached.name, partial(data_set.rules.read, cached, data_set.name)
    for layout in data_set.layouts:
        yield "its files", partial(_from_files, layout, folder)
    for address in data_set.addresses:
        if len(address.urls) == 1:
            for path in sorted(folder.glob(f"*{_file_name(address.urls[0])}")):
                yield path.name, partial(_from_archive, address.layout, path)


def _from_files(layout: Layout, folder: Path) -> Content:
    return layout.decode(select(files_in(folder, layout.patterns), layout.patterns))


def _from_archive(layout: Layout, path: Path) -> Content:
    return layout.decode(select(members(path.name, path.read_bytes()), layout.patterns))


def _from_address(data_set: DataSet, address: Address) -> Content:
    files = (
        member
        for url in address.urls
        for member in members(_file_name(url), download(resolve(url), address.sha256))
    )
    return _checked(data_set, address.layout.decode(select(files, address.layout.patterns)))


def _file_name(url: str) -> str:
    return unquote(url.rpartition("/")[2])


def _checked(data_set: DataSet, content: Content) -> Content:
    found = data_set.rules.digest(content)
    if found != data_set.sha256:
        raise WrongContent(f"its content has the SHA-256 {found[:16]}…, not {data_set.sha256[:16]}…")
    return content


def _kept(data_set: DataSet, content: Content, must: bool) -> Content:
    """The content, written to the cache; of weights the path there. Where that fails, see `obtain`."""
    path = data_set.cache_path
    if content == path:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: data_set.rules.write(content, file))
    except (OSError, SafetensorError) as error:
        told = (
            f"{data_set.name} cannot be kept in {path.parent} ({error}). "
            f"Set {ENVIRONMENT_VARIABLE} to a folder that can be written and has the room"
        )
        # Weights are opened from their file by others: without it there is nothing to hand on.
        if must or isinstance(content, bytes):
            raise DataUnavailable(told) from error
        warnings.warn(f"{told}; it will be fetched again next time", DataWarning, stacklevel=4)
        return content
    return path if isinstance(content, bytes | Path) else content


def _explained(error: Exception) -> str:
    """What it says; with its type, where that is none of those raised to be read."""
    return str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"


def _what_a_folder_holds(data_set: DataSet) -> str:
    layouts = [", ".join(layout.patterns) for layout in data_set.layouts]
    archives = [_file_name(address.urls[0]) for address in data_set.addresses if len(address.urls) == 1]
    return "; or ".join(dict.fromkeys([*layouts, *archives, data_set.cached_name]))


def _all_failed(data_set: DataSet, said: list[str]) -> str:
    lines = "\n".join(f"  {told}" for told in said)
    return (
        f"{data_set.name} cannot be had. Tried:\n{lines}\n"
        f"Have a folder that holds {_what_a_folder_holds(data_set)}; then run "
        f"`ihvp-bench data fetch {data_set.name} --folder FOLDER`"
        f"{'' if data_set.kind == 'weights' else ', or name it to the problem, data_folder=FOLDER'}.\n"
        f"Or run `ihvp-bench data fetch {data_set.name}` on a machine with a network, and copy its file to "
        f"{data_set.cache_path} ({ENVIRONMENT_VARIABLE} sets the cache's folder)."
    )
