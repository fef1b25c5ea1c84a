"""build(): from rows to a directory with one page, figures and tables, that appears whole or not at all."""

import shutil
import uuid
from pathlib import Path
from typing import Any

import pandas as pd

from reports.figures import draw_figures, with_final_points
from reports.page import render
from reports.recommendations import as_frame, recommend
from reports.rows import clean_cells, clean_curves, target_error
from reports.tables import comparison, write_tables
from reports.targets import cost_to_target, history, judge

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
    table = comparison(cost_to_target(judged, path, target))
    recommendations = recommend(table, target)

    directory = Path(directory).resolve()
    _check_replaceable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.new")
    fresh.mkdir()
    try:
        write_tables(fresh / "tables", given, table, as_frame(recommendations))
        figures = None
        if len(table):
            figures = draw_figures(fresh / "figures", with_final_points(path, judged), table, target)
        html = render(cells, table, recommendations, figures, fresh / "figures", run, target)
        (fresh / "index.html").write_text(html, encoding="utf-8")
        _swap(fresh, directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return directory / "index.html"


def _check_replaceable(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise FileExistsError(f"{directory} is a file; name a directory for the report")
    strangers = sorted(entry.name for entry in directory.iterdir() if entry.name not in _PARTS)
    if strangers:
        raise FileExistsError(
            f"{directory} holds {strangers[0]!r}, which is no part of a report; name a new directory"
        )


def _swap(fresh: Path, directory: Path) -> None:
    """Puts `fresh` in the place of `directory`; the older one goes last, or comes back if that fails."""
    if not directory.exists():
        fresh.rename(directory)
        return
    old = fresh.with_suffix(".old")
    directory.rename(old)
    try:
        fresh.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)
