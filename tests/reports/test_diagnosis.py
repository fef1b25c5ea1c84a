import copy
import json
from typing import Any

import numpy as np
import pytest

from reports import build_diagnosis, diagnosis
from reports.diagnosis_figure import costs_figure, density_figure
from tests.reports.test_report import Page


def quantity(symbol: str, value: float | None, low: float | None = None, high: float | None = None) -> dict:
    return {"symbol": symbol, "value": value, "low": low, "high": high, "kind": "estimate", "meaning": "what"}


def solver(name: str, work: float | None, error: float | None, reaches: bool | None, **values: Any) -> dict:
    return {
        "name": name, "specification": f"{name}:x=1", "steps": 12345, "setup_work": 2.0, "work": work,
        "solve_work": work, "error": error, "reaches": reaches, "basis": "by count",
        "note": f"note of {name}",
    } | values  # fmt: skip


CONDITION = {
    "name": "converges in expectation", "formula": "η < 2/(λ_max + λ)", "value": 0.5, "limit": 1.25,
    "met": True, "factor": 2.5, "verdict": "met, 2.5 times below",
}  # fmt: skip
STORED = {
    "diagnosis": {
        "subject": {
            "specification": "mine.py", "name": "model", "size": 1234, "num_examples": 5678,
            "unit": "example", "num_columns": 4, "damping": 0.01, "is_psd": True, "dtype": "float32",
            "device": "cpu", "num_draws": 5678, "measured_draws": 2048, "piloted_columns": 1,
        },
        "target": 0.05,
        "definite": True,
        "spectrum": {
            "largest_eigenvalue": quantity("λ_max", 1.5, 1.5, 1.6),
            "noise_constant": quantity("R", 7.25, 7.25),
            "condition_number": quantity("κ", None),
        },
        "density": {"nodes": [[0.001, 0.1, 1.5], [0.002, 0.2, 1.5]], "weights": [[0.9, 0.09, 0.01]] * 2},
        "settings": [
            {
                "name": "yours", "step_size": 0.5, "batch_size": 16, "num_steps": 1000, "chains": 1,
                "second_moment": 1.75, "contraction": 0.0025, "time": 5.0, "floor": 0.25, "bias": 0.001,
                "noise": None, "error": None, "work": 63.5, "note": "batch_size as LiSSA chooses it",
                "conditions": [
                    CONDITION,
                    CONDITION | {"name": "in mean square", "met": False, "verdict": "not met, 3 times above"},
                ],
            }
        ],
        "solvers": [
            solver("cg", 90.7, 0.04, True),
            solver("paper", 75.6, None, False),
            solver("minres", None, None, None, steps=None),
        ],
        "recommendation": {
            "solver": "cg", "specification": "cg:tolerance=0.02", "why": "CG is cheapest.",
            "command": "ihvp-bench run -p mine.py -s cg:tolerance=0.02", "python": "solvers.solve(problem)",
        },
        "warnings": ["example 17 carries 40 % of Tr(H)"],
        "notes": ["measured on 2,048 of the 5,678 examples"],
        "spent": {"asked": 200, "parts": {"trace": 20.5}, "total": 150.5, "over_all_data": 54.25},
    },
    "run": {
        "command": "ihvp-bench diagnose mine.py",
        "started": "2026-03-04T10:20:30+00:00",
        "finished": "2026-03-04T10:20:42+00:00",
        "machine": {"processor": "Abacus 9"},
        "versions": {"torch": "2.11.0"},
    },
}  # fmt: skip


def changed(**values: Any) -> dict[str, Any]:
    stored = copy.deepcopy(STORED)
    stored["diagnosis"] |= values
    return stored


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(found, stem):
        for ending in ("png", "pdf"):
            stem.with_name(f"{stem.name}.{ending}").write_bytes(b"blank")

    monkeypatch.setattr(diagnosis, "draw_density", draw)
    monkeypatch.setattr(diagnosis, "draw_costs", draw)


def text_of(stored: dict[str, Any], directory) -> str:
    return Page(build_diagnosis(stored, directory).read_text(encoding="utf-8")).text.replace("\xa0", " ")


def test_page_has_the_numbers(blank_figures, tmp_path):
    text = text_of(STORED, tmp_path / "page")
    assert "Diagnosis of mine.py CG is cheapest. ihvp-bench run -p mine.py -s cg:tolerance=0.02" in text
    assert text.index("example 17 carries 40 %") < text.index("What a relative error of 5 %")
    assert "λ_max 1.50 [1.50, 1.60] estimate" in text
    assert "R 7.25 [7.25, –]" in text
    assert "κ – estimate" in text
    assert "cg yes 0.0400 12,345 90.7 2 by count -s cg:x=1 note of cg" in text
    assert "paper no not bounded 12,345 75.6 2" in text
    assert "minres not known – – – 2" in text
    assert "η < 2/(λ_max + λ) 0.500 1.25 met met, 2.5 times below" in text
    assert "in mean square η < 2/(λ_max + λ) 0.500 1.25 not met not met, 3 times above" in text
    assert "noise not bounded" in text
    assert "150 of the 200 gradient equivalents that were asked for, counted over the sample: 54.2" in text
    assert "2026-03-04 10:20 UTC, took 12 s · Abacus 9 · torch 2.11.0" in text


def test_build_writes_page_json_and_figures(tmp_path):
    index = build_diagnosis(STORED, tmp_path / "page")
    files = {file.name for file in index.parent.iterdir()}
    assert files == {
        "index.html", "diagnosis.json", "density.png", "density.pdf", "costs.png", "costs.pdf",
    }  # fmt: skip
    assert json.loads((index.parent / "diagnosis.json").read_text(encoding="utf-8")) == STORED
    shown = Page(index.read_text(encoding="utf-8"))
    assert len(shown.references) == 2
    assert all(address.startswith("data:image/png;base64,") for address in shown.references)


def test_nothing_predicted_has_no_cost_figure(tmp_path):
    stored = changed(solvers=STORED["diagnosis"]["solvers"][2:], settings=[])
    index = build_diagnosis(stored, tmp_path / "page")
    assert not (index.parent / "costs.png").exists()
    shown = Page(index.read_text(encoding="utf-8"))
    assert len(shown.references) == 1
    assert "LiSSA's settings under" not in shown.text


def test_names_are_escaped(blank_figures, tmp_path):
    nasty = "<script>alert('λ & $x$')</script>"
    stored = changed(warnings=[nasty], notes=[nasty])
    stored["diagnosis"]["solvers"][0]["note"] = nasty
    shown = Page(build_diagnosis(stored, tmp_path / "page").read_text(encoding="utf-8"))
    assert "script" not in shown.tags
    assert shown.text.count(nasty) == 3


def test_counting_curve_is_the_number_of_eigenvalues_above():
    figure = density_figure(STORED["diagnosis"])
    right = figure.axes[1]
    x, y = right.lines[0].get_data()
    # At the left end all 1234 eigenvalues, but for what lies at nodes below: none.
    assert y[0] == pytest.approx(1234)
    # Between the nodes at 0.2 and 1.5 one in a hundred is left.
    assert np.isclose(y, 12.34).any()
    assert list(y) == sorted(y, reverse=True)
    marked = [
        line.get_xdata()[0] for ax in figure.axes for line in ax.lines if len(set(line.get_xdata())) == 1
    ]
    # λ stands between the nodes 0.002 and 0.1.
    scale = marked[0]
    assert len(set(marked)) == 1
    assert x[np.searchsorted(-y, -1234 * 0.5)] < scale < x[np.searchsorted(-y, -1234 * 0.02)]


def test_density_integrates_to_the_number_of_eigenvalues():
    left = density_figure(STORED["diagnosis"]).axes[0]
    x, y = left.lines[0].get_data()
    floor = y.min()
    total = np.trapezoid(np.where(y > floor, y, 0), x)
    assert total == pytest.approx(1234, rel=0.02)


def test_negative_eigenvalues_are_shown():
    found = changed(density={"nodes": [[-0.5, 0.0, 1.0]], "weights": [[0.1, 0.5, 0.4]]})["diagnosis"]
    ax = density_figure(found).axes[1]
    x, y = ax.lines[0].get_data()
    assert x[0] < 0
    assert np.isclose(y, 0.9 * 1234).any()
    assert any(label.get_text().startswith("−") for label in ax.get_xticklabels())


def test_cost_bars_are_the_work_that_is_predicted():
    ax = costs_figure(STORED["diagnosis"]).axes[0]
    assert [bar.get_width() for bar in ax.patches] == [90.7, 75.6]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cg", "paper"]
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()
    assert any("error not bounded" in text.get_text() for text in ax.texts)


def test_what_is_no_diagnosis_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="it lacks diagnosis, run"):
        build_diagnosis({}, tmp_path / "page")
    assert list(tmp_path.iterdir()) == []


def test_folder_with_other_files_is_not_replaced(blank_figures, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        build_diagnosis(STORED, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
