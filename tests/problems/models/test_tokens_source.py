"""Text by name and from files of all sorts."""

from __future__ import annotations

from pathlib import Path

import pytest

from problems import data
from problems.models.tokens_source import check_source, paragraphs, read_sentences, read_text


def written(folder: Path, content: str | bytes) -> str:
    path = folder / "text.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_every_tenth_paragraph_is_held_out(tmp_path: Path) -> None:
    text = read_text(written(tmp_path, "\n\n".join(f"p{n}\nmore" for n in range(25))))
    assert text.name == "text"
    assert text.test == ("p9\nmore", "p19\nmore")
    assert text.train == tuple(f"p{n}\nmore" for n in range(25) if n not in (9, 19))


@pytest.mark.parametrize("content", ["a\nb\nc\n", "\ufeffa\r\n\r\nb\r\n \r\nc", "a\n\n\n\nb\n\nc\n\n"])
def test_of_few_paragraphs_or_lines_the_last_is_held_out(content: str, tmp_path: Path) -> None:
    text = read_text(written(tmp_path, content))
    assert (text.train, text.test) == (("a", "b"), ("c",))


def test_a_data_set_goes_by_its_name() -> None:
    check_source("descriptions", None)
    assert read_text("descriptions") == data.load("descriptions")


def test_paragraphs_end_at_empty_lines() -> None:
    assert paragraphs("a\nb\n \nc\n\n") == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has 0 paragraphs; at least two are needed"),
        (" \n\n ", "has 0 paragraphs"),
        ("one line", "has 1 paragraphs"),
        (b"caf\xe9", "is not UTF-8 .* at byte 3.; convert it"),
    ],
)
def test_a_file_that_is_no_text_is_told_why(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_text(written(tmp_path, content))


def test_sentences_are_the_lines_of_a_file(tmp_path: Path) -> None:
    assert read_sentences(written(tmp_path, "One.\n\n Two? \n")) == ["One.", "Two?"]
    with pytest.raises(ValueError, match="is empty; write one sentence per line"):
        read_sentences(written(tmp_path, "\n"))
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_sentences(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_sentences(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("sotuu", None, "no text 'sotuu'; did you mean 'sotu'"),
        ("mnist", None, "no text 'mnist'"),
        ("none.txt", None, "there is no such file"),
        ("no/file", None, "there is no such file"),
        (__file__, "folder", "data_folder is where a data set lies"),
    ],
)
def test_a_wrong_source_is_refused(name: str, folder: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_source(name, folder)
