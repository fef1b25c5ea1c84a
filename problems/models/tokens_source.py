"""Where text comes from: a data set by name, or a file of the user's."""

from __future__ import annotations

import re
from pathlib import Path

from problems import data
from problems.data import facts
from problems.data.text import Text
from problems.validation import unknown

# One paragraph in so many is held out.
HELD_OUT = 10


def check_source(name: str, folder: str | None) -> None:
    """Raise ValueError where `name` is neither a data set of text nor a file, or takes no folder."""
    path = _path(name)
    if path is None:
        known = [each.name for each in data.available().values() if each.kind == "text"]
        if name not in known:
            raise ValueError(f"{unknown('text', name, known)}; or give the path of a text file")
    elif folder is not None:
        raise ValueError(f"data_folder is where a data set lies; data is the file {path}: leave one out")


def read_text(name: str, folder: str | None = None) -> Text:
    """The data set `name`, or the text file of that path: its paragraphs, of which every tenth is held out.

    Paragraphs end at an empty line; where there is none each line is one. ValueError for a file that is no
    UTF-8 or has fewer than two paragraphs, DataUnavailable for a data set that no source gives.
    """
    path = _path(name)
    if path is None:
        loaded = data.load(name, folder)
        assert isinstance(loaded, Text)
        return loaded
    text = _read(path)
    found = paragraphs(text)
    if len(found) < 2:
        found = [each.strip() for each in text.splitlines() if each.strip()]
    if len(found) < 2:
        raise ValueError(
            f"the text file {path} has {len(found)} paragraphs; at least two are needed, one to be held out"
        )
    held_out = set(range(HELD_OUT - 1, len(found), HELD_OUT)) or {len(found) - 1}
    return Text(
        path.stem,
        tuple(each for place, each in enumerate(found) if place not in held_out),
        tuple(found[place] for place in sorted(held_out)),
    )


def paragraphs(document: str) -> list[str]:
    """The parts of a document between its empty lines."""
    return [each.strip() for each in re.split(r"\n\s*\n", document) if each.strip()]


def read_sentences(name: str) -> list[str]:
    """The lines of a UTF-8 file that are not empty, or the "facts"; ValueError where there are none."""
    if name == facts.NAME:
        return facts.sentences()
    path = Path(name).expanduser()
    found = [line.strip() for line in _read(path).splitlines() if line.strip()]
    if not found:
        raise ValueError(f"the file of queries {path} is empty; write one sentence per line")
    return found


def _path(name: str) -> Path | None:
    """The file that `name` means, if it means one; ValueError where that is not there."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if "/" in name or path.suffix:
        raise ValueError(f"data is {name!r}; there is no such file")
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the file {path} is not UTF-8 ({error.reason} at byte {error.start}); convert it, as with "
            "iconv -f LATIN1 -t UTF-8"
        ) from None
    except OSError as error:
        raise ValueError(f"the file {path} cannot be read: {error.strerror or error}") from None
