"""Files by name out of archives and folders."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from problems.data.archives import files_in, members, select
from tests.problems.data.made import deb, tar, wheel

FILES = {"a/data/1.txt": b"one", "a/data/2.txt.gz": gzip.compress(b"two"), "a/other": b"x"}


@pytest.mark.parametrize(
    ("name", "write"), [("a.tgz", tar), ("a.tar.gz", tar), ("a.whl", wheel), ("a.deb", deb)]
)
def test_globs_and_names(name: str, write) -> None:  # type: ignore[no-untyped-def]
    found = select(members(name, write(FILES)), ("data/*.txt", "other"))
    assert found == {"data/*.txt": (b"one", b"two"), "other": (b"x",)}


def test_any_other_file_is_its_own_member() -> None:
    assert select(members("one.txt.gz", gzip.compress(b"1")), ("one.txt",)) == {"one.txt": (b"1",)}


def test_a_name_is_no_part_of_another() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no 1\.txt"):
        select([("data/11.txt", lambda: b"")], ("1.txt",))


@pytest.mark.parametrize(
    ("content", "message"), [(b"x", "no Debian package"), (b"!<arch>\n", "without data.tar")]
)
def test_no_debian_package(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(members("a.deb", content))


def test_a_folder_is_searched_one_folder_deep_and_no_deeper(tmp_path: Path) -> None:
    """A folder like one's home may be given by mistake."""
    for name in ("1.txt", "a/2.txt", "a/b/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert sorted(name for name, _ in files_in(tmp_path, ["*.txt"])) == ["1.txt", "a/2.txt"]
