"""A gallery: runs are published whole, with where they come from, and its index names what holds."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reports.conclusions import Conclusion, read_conclusions, together, write_conclusions
from reports.paper import COLOURS
from reports.publish import LARGEST_PNG, build_gallery, publish, small_png
from tests.reports.test_report import Page as Shown

RUN = {
    "experiment": {
        "name": "counting",
        "title": "How many?",
        "description": "Counts.",
        "scale": "small",
        "problems": [{"name": "quadratic", "parameters": {"damping": 0.5}}, {"name": "resnet18"}],
    },
    "command": "ihvp-bench run counting --scale small",
    "started": "2026-05-04T12:30:00+00:00",
    "finished": "2026-05-04T12:33:12+00:00",
    "interrupted": False,
    "machine": {"processor": "Abacus 9", "threads": 2},
    "versions": {"ihvp-bench": "0.1", "torch": "2.9"},
    "git": {"revision": "0123456789abcdef"},
}
OURS = Conclusion("Numbers end", "", "holds", "4 did")
CLAIM = Conclusion("Counting works", "Figure 9", "partly", "3 of 4 <counted>, ‖x||")


def noise(path: Path, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "report"
    (folder / "figures").mkdir(parents=True)
    (folder / "index.html").write_text("<p>a page</p>")
    (folder / "rows.csv").write_text("sum\n3\n")
    (folder / "findings.txt").write_text("Sum: it is 3: all of it.\n\nOf no heading.\n")
    write_conclusions([CLAIM, OURS], folder / "conclusions.json")
    noise(folder / "figures" / "counting.png", 40)
    (folder / "figures" / "counting.pdf").write_text("no part of a gallery")
    return folder


def test_page_figures_tables_and_origin_are_published(report: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    folder = publish(report, RUN, gallery)
    assert folder == gallery / "counting"
    assert {path.name for path in folder.iterdir()} == {
        "index.html", "rows.csv", "findings.txt", "conclusions.json", "counting.png", "origin.json"
    }  # fmt: skip
    assert json.loads((folder / "origin.json").read_text()) == RUN
    html = (gallery / "index.html").read_text(encoding="utf-8")
    text = " ".join(Shown(html).text.split())
    for told in (
        "How many?", "ihvp-bench run counting --scale small", "took 192 s", "Abacus 9", "2 threads",
        "torch 2.9", "revision 0123456789", "quadratic(damping=0.5); resnet18", "Sum. it is 3: all of it.",
        "Of no heading.",
        "Counting works", "Figure 9", "partly", "3 of 4 <counted>",
    ):  # fmt: skip
        assert told in text, told
    assert 'src="counting/counting.png"' in html
    markdown = (gallery / "README.md").read_text(encoding="utf-8")
    assert (
        "| Counting works (Klochkov & Liu (2024), Figure 9) | **partly** | 3 of 4 <counted>, ‖x\\|\\| |"
        in markdown
    )
    assert "| Numbers end (ours) | **holds** | 4 did |" in markdown
    assert "![How many?](counting/counting.png)" in markdown
    assert "**Sum.** it is 3: all of it." in markdown
    assert 'href="counting/index.html"' in html


def test_a_run_that_is_published_again_replaces_the_earlier_one(report: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    publish(report, RUN, gallery)
    (report / "figures" / "counting.png").rename(report / "figures" / "sums.png")
    folder = publish(report, RUN, gallery)
    assert {path.name for path in folder.glob("*.png")} == {"sums.png"}


def test_another_scale_is_another_folder(report: Path, tmp_path: Path) -> None:
    run = RUN | {"experiment": RUN["experiment"] | {"scale": "paper"}}  # type: ignore[operator]
    publish(report, RUN, tmp_path / "gallery")
    assert publish(report, run, tmp_path / "gallery").name == "counting_paper"
    html = (tmp_path / "gallery" / "index.html").read_text(encoding="utf-8")
    assert html.count("<h2><a href=") == 2


def test_what_was_interrupted_is_not_published(report: Path, tmp_path: Path) -> None:
    for change in ({"interrupted": True}, {"finished": None}):
        with pytest.raises(ValueError, match="finish it with --resume"):
            publish(report, RUN | change, tmp_path / "gallery")
    assert not (tmp_path / "gallery").exists()


def test_what_was_interrupted_is_published_as_such_where_that_is_asked_for(
    report: Path, tmp_path: Path
) -> None:
    gallery = tmp_path / "gallery"
    publish(report, RUN, gallery, "whole")
    assert "cut off" not in (gallery / "index.html").read_text()
    publish(report, RUN | {"finished": None}, gallery, "part", unfinished=True)
    for index in ("index.html", "README.md"):
        assert (gallery / index).read_text().count("The run was cut off") == 1


def test_a_run_that_is_none_of_a_scale_needs_a_name(report: Path, tmp_path: Path) -> None:
    own = RUN["experiment"] | {"study": "counting", "scale": ""}  # type: ignore[operator]
    with pytest.raises(ValueError, match="--name"):
        publish(report, RUN | {"experiment": own}, tmp_path / "gallery")
    assert not (tmp_path / "gallery").exists()
    assert publish(report, RUN | {"experiment": own}, tmp_path / "gallery", "mine").name == "mine"


def test_changed_sources_are_told(report: Path, tmp_path: Path) -> None:
    publish(report, RUN | {"git": {"revision": "0123456789abcdef", "dirty": True}}, tmp_path)
    assert "revision 0123456789 with uncommitted changes" in (tmp_path / "README.md").read_text()


def test_a_damaged_entry_is_named_before_anything_is_written(report: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "origin.json").write_text("{")
    with pytest.raises(ValueError, match=r"other is damaged .*: publish it again, or remove it"):
        publish(report, RUN, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"other"}
    assert not (tmp_path / "counting").exists()
    assert not (tmp_path / "index.html").exists()


def test_a_folder_of_somebody_elses_is_left_alone(report: Path, tmp_path: Path) -> None:
    own = tmp_path / "gallery" / "counting"
    own.mkdir(parents=True)
    (own / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"mine\.txt"):
        publish(report, RUN, tmp_path / "gallery")
    assert (own / "mine.txt").read_text() == "mine"


def test_an_empty_gallery_has_an_index(tmp_path: Path) -> None:
    assert "Gallery" in build_gallery(tmp_path).read_text(encoding="utf-8")


def test_figures_are_made_small_enough_or_refused(tmp_path: Path) -> None:
    small, middle, large = (tmp_path / f"{name}.png" for name in ("small", "middle", "large"))
    for path, side in ((small, 100), (middle, 450), (large, 620)):
        noise(path, side)
    assert small_png(small) == small.read_bytes()  # as it is
    assert middle.stat().st_size > LARGEST_PNG  # 450² · 3 bytes of noise
    found = small_png(middle)
    assert len(found) <= LARGEST_PNG
    middle.write_bytes(found)
    with Image.open(middle) as picture:
        assert picture.size == (450, 450)
        assert len(picture.getcolors(COLOURS) or []) <= 256
    with pytest.raises(ValueError, match=r"large\.png takes .* at most 200,000: draw it smaller"):
        small_png(large)


def test_conclusions_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_conclusions([CLAIM, CLAIM], tmp_path / "c.json")
    assert read_conclusions(tmp_path / "c.json") == [CLAIM, CLAIM]


@pytest.mark.parametrize(
    ("verdicts", "all_in_all"),
    [
        ([True, True], "holds"),
        ([True, False], "partly"),
        ([False, None], "fails"),
        ([None, True], "holds"),
        ([None], "undecided"),
        ([], "undecided"),
    ],
)
def test_one_claim_on_several_problems(verdicts: list[bool | None], all_in_all: str) -> None:
    assert together(verdicts) == all_in_all
