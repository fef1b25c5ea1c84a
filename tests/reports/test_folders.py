import pytest

from reports.folders import _swap, whole_folder


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def test_folder_appears_when_the_block_has_ended(tmp_path):
    directory = tmp_path / "new" / "page"
    with whole_folder(directory, {"a.txt"}) as fresh:
        (fresh / "a.txt").write_text("new")
        assert not directory.exists()
    assert (directory / "a.txt").read_text() == "new"
    assert names(directory.parent) == ["page"]


def test_older_folder_stays_if_the_block_raises(tmp_path):
    directory = tmp_path / "page"
    directory.mkdir()
    (directory / "a.txt").write_text("old")

    def build():
        with whole_folder(directory, {"a.txt"}) as fresh:
            (fresh / "a.txt").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build()
    assert (directory / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["page"]


def test_older_folder_comes_back_if_the_swap_breaks_half_way(tmp_path):
    directory = tmp_path / "page"
    directory.mkdir()
    (directory / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError):
        _swap(tmp_path / ".missing.new", directory)
    assert (directory / "a.txt").read_text() == "old"


def test_what_is_not_ours_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"), whole_folder(tmp_path, {"a.txt"}):
        pass
    with (
        pytest.raises(FileExistsError, match="is a file"),
        whole_folder(tmp_path / "thesis.tex", {"a.txt"}),
    ):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert names(tmp_path) == ["thesis.tex"]
