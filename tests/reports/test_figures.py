import math

import pandas as pd
import pytest

from reports.figures import _figure, draw_figures, file_stems, with_final_points
from reports.panels import styles
from reports.paper import paper_style
from reports.rows import clean_curves
from reports.targets import history


def test_stems_are_distinct_and_safe():
    stems = file_stems(["a(b=1)", "a(b:1)", "Å/∂", "x" * 300])
    assert len(set(stems.values())) == 4
    assert stems["a(b=1)"] == "error-a-b-1"
    assert all(
        len(stem) < 80 and stem.replace("-", "").isalnum() and stem.isascii() for stem in stems.values()
    )


def test_final_points_end_each_seed_and_unknown_rows_go(judged, cell, curve):
    rows = judged([cell(error=0.007), cell("exact", error=0.0), cell("lost", error=None)])
    curves = clean_curves(curve([1.0, math.nan, 0.5]))
    path = with_final_points(history(rows, curves), rows)
    cg = path[path["solver"] == "cg"]
    assert cg["work"].tolist() == [10, 12, 16]
    assert cg["value"].tolist() == [1.0, 0.5, 0.007]
    assert path[path["solver"] == "exact"]["value"].tolist() == [0.0]
    assert "lost" not in set(path["solver"])


def test_iterate_at_the_end_gives_way_to_the_end(judged, cell):
    rows = judged([cell(error=0.007, solve_seconds=0.3)])
    last = pd.DataFrame([{"problem": "quadratic", "solver": "cg", "seed": 0, "step": 2, "work": 6.0,
                          "seconds": 0.3, "residual": 1.0, "error": 0.008}])  # fmt: skip
    path = with_final_points(history(rows, clean_curves(last)), rows)
    assert path["value"].tolist() == [0.007]


@pytest.mark.usefixtures("printed")
def test_every_figure_is_drawn_as_png_and_pdf(tmp_path, judged, compared, cell, curve):
    cells = [cell(problem=name) for name in ("first", "second")]
    cells += [cell("exact", problem="first", setup_work=0.0, solve_work=0.0, error=0.0)]
    curves = [curve([1.0, 0.5, 1e-3], problem="first")]
    rows = judged(cells, curves)
    path = with_final_points(history(rows, clean_curves(curves[0])), rows)
    drawn = draw_figures(tmp_path / "figures", path, compared(cells, curves), 0.01)
    stems = {*drawn.by_problem.values(), drawn.pareto, drawn.overview}
    assert len(stems) == 4
    names = {file.name for file in (tmp_path / "figures").iterdir()}
    assert names == {f"{stem}.{ending}" for stem in stems for ending in ("png", "pdf")}
    for stem in stems:
        assert (tmp_path / "figures" / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "figures" / f"{stem}.pdf").read_bytes().startswith(b"%PDF")


QUICKSTART = [
    "cg(tolerance=1e-10)", "exact", "identity", "lissa, by hand", "lissa, paper's rule", "neumann",
    "scipy_cg(tolerance=1e-10)", "scipy_minres(tolerance=1e-10)",
]  # fmt: skip


@pytest.mark.parametrize(
    "solvers", [QUICKSTART[:1], QUICKSTART[-3:], QUICKSTART, [*QUICKSTART[1:], "x" * 60]]
)
@pytest.mark.parametrize("width", [8.0, 8.5, 10.0])
def test_the_legend_fits_into_the_figure(solvers, width):
    with paper_style():
        figure = _figure(width, 3.4, styles(solvers), 0.01)
        figure.canvas.draw()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.x1
