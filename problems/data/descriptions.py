"""The descriptions of scikit-learn's data sets: 43 kB of English prose that ship inside its wheel."""

from __future__ import annotations

from importlib.resources import files

from problems.data.data_set import DataSet
from problems.data.text import Text

TEST_SIZE = 2


def _text() -> Text:
    """One document for each description, by file name; the last ones are held out."""
    found = [file for file in files("sklearn.datasets.descr").iterdir() if file.name.endswith(".rst")]
    documents = tuple(file.read_text(encoding="utf-8") for file in sorted(found, key=lambda file: file.name))
    return Text("descriptions", documents[:-TEST_SIZE], documents[-TEST_SIZE:])


DATA_SET = DataSet(
    name="descriptions",
    kind="text",
    summary="12 + 2 descriptions of data sets, 43 kB of English, inside scikit-learn",
    licence="BSD-3-Clause",
    embedded=_text,
)
