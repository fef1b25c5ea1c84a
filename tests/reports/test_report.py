import base64
import math
from html.parser import HTMLParser

import pandas as pd
import pytest

from reports import build, folders, report


class Page(HTMLParser):
    """What a page refers to, and the text it shows by tag."""

    def __init__(self, html):
        super().__init__()
        self.references, self.tags, self.texts, self._open = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._open.append(tag)
        self.references += [
            value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")
        ]

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open):
            self.texts.append(" ".join(data.split()))

    @property
    def text(self):
        return " ".join(text for text in self.texts if text)


RUN = {
    "experiment": {
        "name": "quick",
        "title": "A first look",
        "description": "Which one?",
        "target_error": 0.01,
    },
    "command": "ihvp-bench run quick",
    "started": "2026-03-04T10:20:30+00:00",
    "finished": "2026-03-04T10:21:30+00:00",
    "interrupted": False,
    "seeds": [0, 1],
    "versions": {"torch": "2.11.0"},
    "machine": {"cores": 8, "gpu": None, "memory": {"bytes": 1024}},
    "git": {"revision": "0123abcd", "dirty": False},
}


def test_page_is_self_contained(built, cell, curve):
    html = built([cell(), cell("exact")], [curve([1.0, 0.001])], RUN)
    page = Page(html)
    images = [reference for reference in page.references if reference.startswith("data:image/png;base64,")]
    assert len(images) == 2
    assert all(base64.b64decode(image.partition(",")[2]).startswith(b"\x89PNG") for image in images)
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "@import" not in html
    assert "url(" not in html


def test_page_tells_what_ran_and_with_what(blank_figures, built, cell):
    cells = [
        cell(),
        cell(seed=1),
        cell("lissa", status="diverged", reason="set scale"),
        cell("lissa", seed=1),
    ]
    text = Page(built(cells, run=RUN)).text
    for expected in (
        "A first look", "Which one?", "2026-03-04 10:20 UTC, took 60 s", "1 problem × 2 solvers × 2 seeds",
        "3 converged", "1 diverged", "diverged 1 of 2", "set scale", "ihvp-bench run quick",
        "2.11.0", "0123abcd", "memory.bytes 1024", "test accuracy 0.930", "product / gradient 2.50",
        "p 7,850", "tolerance = 1e-10",
    ):  # fmt: skip
        assert expected in text
    assert "interrupted." not in text


def test_interruption_is_announced(blank_figures, built, cell):
    assert "This run was interrupted." in Page(built([cell()], run={**RUN, "interrupted": True})).text


def test_run_may_tell_nothing(blank_figures, built, cell):
    text = Page(built([cell()], run={})).text
    assert "cg reaches 1 % error after 16 gradient equivalents" in text.replace("\xa0", " ")
    assert "Environment" not in text


def test_labels_and_reasons_are_escaped(blank_figures, built, cell):
    nasty = "<script>alert('λ & $x$')</script>"
    cells = [cell(nasty, problem="<b>p</b>", status="failed", reason=nasty, traceback=f"{nasty} </pre>")]
    page = Page(built(cells, run={**RUN, "experiment": {"title": nasty}}))
    assert "script" not in page.tags
    assert page.text.count(nasty) >= 5
    assert f"{nasty} </pre>" in page.text


def test_failures_show_their_traceback(blank_figures, built, cell):
    failed = cell("lissa", status="failed", reason="no memory", error=None, traceback="Traceback: line 7")
    page = Page(built([cell(), failed]))
    assert page.tags.count("details") == 1
    assert "Traceback: line 7" in page.text
    assert "details" not in Page(built([cell()])).tags


def test_all_failed(built, cell):
    cells = [cell(status="failed", error=None, energy_error=None, residual=None, reason="no memory")]
    text = Page(built(cells)).text
    assert "No solver gave an answer here" in text
    assert "0 of 1 solver reached" in text


def test_without_reference_the_page_says_so(blank_figures, built, cell):
    unknown = {"error": None, "energy_error": None, "reference_residual": None}
    assert "There is no reference solution here" in Page(built([cell(**unknown)])).text
    assert "There is no reference solution here" not in Page(built([cell()])).text


def test_odd_numbers_are_drawn(built, cell, curve):
    cells = [
        cell("free", setup_work=0.0, solve_work=0.0, error=0.0),
        cell("wild", status="diverged", error=math.inf, residual=math.inf),
        cell("lost", error=math.nan, setup_seconds=math.nan),
    ]
    curves = [
        curve([1.0, 1e12, math.inf, math.nan], solver="wild"),
        curve([math.nan, math.nan], solver="lost"),
    ]
    text = Page(built(cells, curves)).text
    assert "reaches 1 % error after no gradient at all" in text.replace("\xa0", " ")
    assert "∞" in text


def test_nothing_measured_yet(built, cell):
    assert "No cell has been measured yet." in Page(built(pd.DataFrame([cell()]).iloc[:0])).text


def test_facts_that_are_no_object_are_shown_as_they_stand(blank_figures, built, cell):
    assert "facts not json" in Page(built([cell(facts="not json")])).text


PROBLEMS = ("x", "y", "z")


def test_three_problems_make_a_profile(blank_figures, built, cell, tmp_path):
    """exact takes 16 throughout, auto 20 and so 1.25 ×, of which 8 for its measurement."""
    told = '{"measurement_work": 8, "chosen": "cg(tolerance=0.1)", "why": "<cheap>"}'
    cells = [cell("exact", problem) for problem in PROBLEMS]
    cells += [cell("auto", problem, solve_work=10.0, diagnostics=told) for problem in PROBLEMS]
    cells += [cell("kfac", problem, status="skipped", error=None) for problem in PROBLEMS]
    html = built(cells)
    page = Page(html)
    text = page.text.replace("\xa0", " ")
    for expected in (
        "exact and auto are within 1.5 × of the best solver’s work on 3 of 3 problems, the most of all.",
        "2 of 3 reach the target of 1 % on all of them: exact and auto.",
        "auto takes 1.25 × in the median and 1.25 × at worst (on x), its measuring included",
        "What auto chose", "x cg( tolerance= 0.1) 12 8 exact 16 0.75 × 1.25 ×",
        "auto, without its measurement 3 3 3 0.75 × 0.75 ×", "kfac 0 0 0 – –", "as one such product",
    ):  # fmt: skip
        assert expected in text
    assert 'title="&lt;cheap&gt;"' in html
    assert "#profile" in page.references
    folder = tmp_path / "report"
    assert (folder / "figures" / "profile.png").exists()
    tables = {name: pd.read_csv(folder / "tables" / f"{name}.csv") for name in ("profile", "choices")}
    assert tables["profile"]["curve"].tolist() == ["exact", "auto, without its measurement", "auto", "kfac"]
    assert tables["choices"]["ratio_with"].tolist() == [1.25] * 3


def test_a_choice_that_misses_counts_as_infinite(blank_figures, built, cell):
    told = '{"measurement_work": 8}'
    cells = [cell("exact", problem) for problem in PROBLEMS]
    cells += [cell("auto", problem, diagnostics=told) for problem in PROBLEMS[:2]]
    cells += [cell("auto", PROBLEMS[2], error=0.5, diagnostics=told)]
    text = Page(built(cells)).text.replace("\xa0", " ")
    assert "x – 8 8 exact 16 0.50 × 1.00 ×" in text
    assert "z – – 8 exact 16 ∞ ∞" in text
    assert "It does not reach the target on z, where another does" in text


def test_profile_needs_no_solver_that_measures(blank_figures, built, cell, tmp_path):
    text = Page(built([cell(solver, problem) for solver in ("a", "b") for problem in PROBLEMS])).text
    assert "Across all problems" in text
    assert "without its measurement" not in text
    assert not (tmp_path / "report" / "tables" / "choices.csv").exists()


def test_few_problems_make_no_profile(blank_figures, built, cell, tmp_path):
    text = Page(built([cell(solver, problem) for solver in ("a", "b") for problem in "xy"])).text
    assert "Across all problems" not in text
    assert not (tmp_path / "report" / "figures" / "profile.png").exists()


def test_tables_have_full_precision(blank_figures, built, cell, tmp_path):
    error = 0.001234567890123456
    built([cell(error=error), cell("bad", error=0.5)])
    tables = {
        file.stem: pd.read_csv(file, float_precision="round_trip")
        for file in (tmp_path / "report" / "tables").iterdir()
    }
    assert set(tables) == {"cells", "comparison", "recommendations", "verdicts"}
    assert tables["comparison"]["error"].iloc[0] == error
    assert tables["comparison"]["work_to_target_min"].iloc[0] == 16
    assert tables["cells"]["facts"].iloc[0] == '{"test accuracy": 0.93}'
    assert tables["recommendations"]["solver"].tolist() == ["cg", "cg", "cg", "bad"]


def test_rebuilding_replaces_the_whole_report(blank_figures, tmp_path, cell):
    directory = tmp_path / "new" / "report"
    for name in ("before", "after"):
        index = build(pd.DataFrame([cell(problem=name)]), pd.DataFrame(), {}, directory)
    assert index == directory / "index.html"
    assert "before" not in index.read_text(encoding="utf-8")
    assert (directory / "figures" / "error-after.png").exists()
    assert not (directory / "figures" / "error-before.png").exists()
    assert [entry.name for entry in directory.parent.iterdir()] == ["report"]


@pytest.mark.parametrize(
    ("module", "step"), [(report, "draw_figures"), (report, "render"), (folders, "_swap")]
)
def test_older_report_stays_if_building_raises(blank_figures, tmp_path, monkeypatch, cell, module, step):
    directory = tmp_path / "report"
    index = build(pd.DataFrame([cell()]), pd.DataFrame(), {}, directory)
    before = index.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(OSError, match="disk full"):
        build(pd.DataFrame([cell("other")]), pd.DataFrame(), {}, directory)
    assert index.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_directory_with_other_files_is_not_replaced(tmp_path, cell):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        build(pd.DataFrame([cell()]), pd.DataFrame(), {}, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_bad_rows_leave_nothing_behind(tmp_path, cell):
    with pytest.raises(ValueError, match="seed"):
        build(pd.DataFrame([cell()]).drop(columns="seed"), pd.DataFrame(), {}, tmp_path / "report")
    assert list(tmp_path.iterdir()) == []
