"""build(): from rows to a directory with one page, figures and tables, that appears whole or not at all."""

from pathlib import Path
from typing import Any

import pandas as pd

from reports.figures import draw_figures, with_final_points
from reports.folders import whole_folder
from reports.page import render
from reports.profile import profile
from reports.profile_page import tell_profile
from reports.recommendations import as_frame, recommend
from reports.rows import clean_cells, clean_curves, target_error
from reports.tables import comparison, write_tables
from reports.targets import cost_to_target, history, judge
from reports.verdicts import verdicts

# What a report consists of; a directory with anything else in it is not ours to replace.
_PARTS = {"index.html", "figures", "tables"}


def build(cells: pd.DataFrame, curves: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the report of one run and returns the path of its `index.html`.

    Parameters: `cells`, one row per problem × solver × seed; `curves`, one row per recorded iterate with work
    and seconds since the start of the solve, set-up excluded; `run`, the content of run.json. Their columns
    are documented in README. `directory` receives index.html (one file, opens offline), figures/ (PNG and
    PDF) and tables/ (CSV).

    The report is built beside `directory` and then takes its place; an earlier report there is replaced, and
    stays as it was if anything goes wrong.

    Raises ValueError for missing columns, unknown statuses, repeated cells or a target that is no positive
    number, and FileExistsError where `directory` holds something other than a report.
    """
    given, target = cells, target_error(run)
    cells = clean_cells(cells)
    judged = judge(cells, target)
    path = history(judged, clean_curves(curves))
    judged = cost_to_target(judged, path, target)
    table = comparison(judged)
    recommendations = recommend(table, target)
    theory = verdicts(cells)
    across = profile(judged, table)

    with whole_folder(directory, _PARTS) as fresh:
        write_tables(fresh / "tables", given, table, as_frame(recommendations), theory)
        figures = None
        if len(table):
            figures = draw_figures(fresh / "figures", with_final_points(path, judged), table, target)
        told = tell_profile(across, fresh, target) if across else None
        html = render(cells, table, recommendations, theory, figures, fresh / "figures", run, target, told)
        (fresh / "index.html").write_text(html, encoding="utf-8")
    return Path(directory).resolve() / "index.html"
