"""The frame that the pages of all studies share."""

import math
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from reports.study import Page, build_study, clean_rows, plus_minus
from tests.reports.test_report import Page as Shown

RUN = {
    "experiment": {"title": "Adding", "description": "What is one more?", "parameters": {"more": [1, 2]}},
    "machine": {"processor": "Abacus 9", "threads": 1},
    "versions": {"torch": "2.11.0"},
    "command": "ihvp-bench run adding",
    "started": "2026-03-04T10:20:30+00:00",
    "interrupted": False,
}


def row(problem: str = "a", **values: Any) -> dict[str, Any]:
    return {
        "problem": problem, "seed": 0, "dimension": 3, "num_examples": 4, "damping": 0.1, "failure": "",
        "traceback": "", "sum": 2.0,
    } | values  # fmt: skip


FAILED = {"problem": "b", "seed": 0, "failure": "MemoryError: <full>", "traceback": "Traceback …"}


def draw(rows: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot(rows["sum"])
    return figure


ADDING = Page(
    "study.html.j2", {"sum": "the sum"}, lambda rows: {"Sum": f"{rows['sum'].sum():g}"}, {"adding": draw}
)


def test_page_has_findings_figures_rows_and_where_it_was_measured(tmp_path):
    rows = pd.DataFrame([row(sum=2.0), row(sum=5.0)])
    index = build_study(ADDING, rows, RUN, tmp_path / "page")
    assert {path.name for path in index.parent.iterdir()} == {
        "index.html", "findings.txt", "rows.csv", "conclusions.json", "adding.png", "adding.pdf"
    }  # fmt: skip
    assert (index.parent / "findings.txt").read_text(encoding="utf-8") == "Sum: 7\n"
    pd.testing.assert_frame_equal(
        pd.read_csv(index.parent / "rows.csv", keep_default_na=False), rows, check_dtype=False
    )
    text = Shown(index.read_text(encoding="utf-8")).text
    for told in (
        "Adding", "What is one more?", "2026-03-04 10:20 UTC · Abacus 9 · 1 thread · torch 2.11.0", "Sum. 7",
        "more = 1, 2.", "the sum", "ihvp-bench run adding",
    ):  # fmt: skip
        assert told in " ".join(text.split()), told
    assert "The run was interrupted" not in text


def test_failed_cells_and_interruption_are_told(tmp_path):
    rows = pd.DataFrame([row(), FAILED, FAILED | {"seed": 1}])
    index = build_study(ADDING, rows, RUN | {"interrupted": True}, tmp_path / "page")
    html = index.read_text(encoding="utf-8")
    text = Shown(html).text
    assert "2 cells failed" in text
    assert text.count("MemoryError: <full>") == 1  # once for each problem and reason
    assert "The run was interrupted" in text
    assert "<full>" not in html


def test_nothing_measured_is_a_page_too(tmp_path):
    index = build_study(ADDING, pd.DataFrame([FAILED]), RUN, tmp_path / "page")
    assert "Nothing was measured." in index.read_text(encoding="utf-8")
    assert (index.parent / "findings.txt").read_text() == "Nothing was measured.\n"
    assert not (index.parent / "adding.png").exists()


def test_missing_columns_are_named_and_nothing_is_written(tmp_path):
    rows = pd.DataFrame([row()]).drop(columns=["sum", "damping"])
    with pytest.raises(ValueError, match=r"lack the columns \['damping', 'sum'\]"):
        build_study(ADDING, rows, RUN, tmp_path / "page")
    with pytest.raises(ValueError, match="lack the column failure"):
        build_study(ADDING, rows.drop(columns="failure"), RUN, tmp_path / "page")
    assert list(tmp_path.iterdir()) == []


def test_rows_are_numbers_as_far_as_they_are_no_words():
    given = pd.DataFrame([row(sum="2.5", status=None), FAILED])
    rows = clean_rows(given, {"sum": "", "status": ""})
    assert list(rows["sum"]) == [2.5]
    assert list(rows["status"]) == [""]
    assert rows["seed"].dtype == float


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (20.63, 0.4625, "20.63 ± 0.46"),
        (147.86, 6.82, "147.9 ± 6.8"),
        (981.2, 26.4, "981 ± 26"),
        (12345.6, 1234.0, "12,346 ± 1,234"),
        (0.32287, 0.003478, "0.3229 ± 0.0035"),
        (2.5, 0.0, "2.50"),
        (2.5, math.nan, "2.50"),
        (math.nan, 1.0, "–"),
        (1.5e-8, 2.2e-9, "1.5e-8 ± 2.2e-9"),
    ],
)
def test_plus_minus(value, error, text):
    assert plus_minus(value, error) == text
