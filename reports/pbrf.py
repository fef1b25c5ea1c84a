"""build_pbrf(): the page on influences against proximal Bregman responses, whole or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from reports.formats import count, duration, number, setting, spread
from reports.pbrf_figure import damping_figure, scatter_figure
from reports.pbrf_rows import COLUMNS, OWN, correlation, over_examples, panels, shown_multiple
from reports.pbrf_verdicts import conclusions, findings
from reports.rows import in_order
from reports.study import Page, build_study, model_facts

FIGURE, BY_DAMPING = "pbrf", "pbrf_damping"


def build_pbrf(rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`; see `build_study`.

    The figures are `pbrf_damping`, and `pbrf`, `pbrf_2`, … with the scatters of each problem.
    """
    figures: dict[str, Callable[[pd.DataFrame], Figure]] = {}
    if "failure" in rows and "scores" in rows:
        done = rows[rows["failure"].fillna("") == ""]
        for place, problem in enumerate(in_order(done["problem"])):
            figures[_stem(place)] = _scatters(problem)
    figures[BY_DAMPING] = damping_figure
    page = Page("pbrf.html.j2", COLUMNS, findings, figures, _context, conclusions)
    return build_study(page, rows, run, directory)


def _stem(place: int) -> str:
    return FIGURE if place == 0 else f"{FIGURE}_{place + 1}"


def _scatters(problem: str) -> Callable[[pd.DataFrame], Figure]:
    def draw(rows: pd.DataFrame) -> Figure:
        own = rows[rows["problem"] == problem]
        shown = panels(rows, problem, shown_multiple(rows, problem))
        return scatter_figure(shown, own["solver"].iloc[0], own["epsilon"].iloc[0])

    return draw


def _context(rows: pd.DataFrame) -> dict[str, Any]:
    table = over_examples(rows)
    return {
        "problems": [
            {
                "name": problem,
                "figure": _stem(place),
                "facts": _facts(own.iloc[0]) + model_facts(own.iloc[0]),
                "shown": setting(own.iloc[0]["damping"] * shown_multiple(rows, problem))
                + (" and of the first seed" if own["seeds"].max() > 1 else ""),
                "epsilon": setting(own.iloc[0]["epsilon"]),
                "solver": own.iloc[0]["solver"],
                "rows": [_row(row) for _, row in own.iterrows()],
            }
            for place, problem in enumerate(in_order(table["problem"]))
            for own in [table[table["problem"] == problem]]
        ],
    }


def _facts(row: pd.Series) -> list[tuple[str, str, str]]:
    return [
        ("p", count(row["dimension"]), "parameters"),
        ("n", count(row["num_examples"]), "training examples of the curvature"),
        ("judged", count(row["examples"]), "training examples"),
        ("queries", count(row["num_queries"]), ""),
        ("λ", setting(row["damping"]), "the problem's own damping"),
    ]


def _row(row: pd.Series) -> dict[str, Any]:
    return {
        "own": row["multiple"] == OWN,
        "damping": setting(row["solved_damping"]),
        "pearson": spread(row["pearson"], row["pearson_least"], row["pearson_most"], correlation),
        "agree": f"{count(row['agree'])} of {count(row['judged'])}",
        "spearman": correlation(row["spearman"]),
        "limit": correlation(row["pearson_limit"]),
        "slope": number(row["slope"]),
        "difference": number(row["difference"]),
        "nonlinearity": number(row["nonlinearity"]),
        "limit_error": number(row["limit_error"]),
        "converged": f"{count(row['num_converged'])} of {count(row['num_responses'])}",
        "gradient": number(row["worst_gradient"]),
        "displacement_error": number(row["displacement_error"]),
        "seconds": duration(row["seconds"]),
        "estimated_error": number(row["estimated_error"]),
        "error": number(row["worst_error"]),
        "residual": number(row["worst_residual"]),
        "work": number(row["total_work"]),
        "solver_seconds": duration(row["total_seconds"]),
    }
