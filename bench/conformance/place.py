"""Where in a plug-in something went wrong."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import Path

from solvers import driver


def place_of(error: BaseException, file: Path) -> str:
    """ " (FILE, line 12)": the last line of `file` on the way to the error, else the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    return _place([(frame.filename, str(frame.lineno)) for frame in frames], file)


def place_in(text: str, file: Path) -> str:
    """The same of a traceback's text."""
    return _place(re.findall(r'File "(.+)", line (\d+)', text), file)


def _place(places: Sequence[tuple[str, str]], file: Path) -> str:
    own = [each for each in places if Path(each[0]).resolve() == file.resolve()]
    # What the driver itself objects to, its message places.
    if not own and places and places[-1][0] == driver.__file__:
        return ""
    last = (own or places)[-1:]
    return "".join(f" ({name}, line {line})" for name, line in last)
