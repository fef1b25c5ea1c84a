"""build_truth(): the page on which solver's influence is right, whole or not at all."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from reports.formats import ABSENT, count, duration, hundredths, number, setting, share
from reports.rows import in_order
from reports.study import Page, build_study, model_facts
from reports.truth_figure import truth_figure
from reports.truth_rows import COLUMNS, TRUTHS, UNUSABLE, Interval, as_good, name_of, of, table, truths_of
from reports.truth_verdicts import MEASURES, conclusions, findings

# The columns of a table, by truth.
METRICS = {
    "lds": ("lds",),
    "pbrf": ("pearson", "spearman", "top"),
    "loo": ("pearson", "spearman", "top"),
    "exact": ("pearson", "spearman", "top"),
}


def build_truth(rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`; see `build_study`."""
    page = Page("truth.html.j2", COLUMNS, findings, {"truth": truth_figure}, _context, conclusions)
    return build_study(page, rows, run, directory)


def _context(rows: pd.DataFrame) -> dict[str, Any]:
    whole = table(rows)
    return {"problems": [_problem(whole, problem) for problem in in_order(whole["problem"])]}


def _problem(whole: pd.DataFrame, problem: str) -> dict[str, Any]:
    own = whole[whole["problem"] == problem]
    solvers = in_order(own["solver"])
    columns = [(truth, metric) for truth in truths_of(whole, problem) for metric in METRICS[truth]]
    by_column = {key: of(whole, problem, *key) for key in columns}
    leading = {key: as_good(found) for key, found in by_column.items()}
    first = own.iloc[0]
    return {
        "name": problem,
        "facts": _facts(first) + model_facts(first),
        "truths": [_truth(of(whole, problem, truth), truth) for truth in truths_of(whole, problem)],
        "columns": [_heading(found, *key) for key, found in by_column.items()],
        "rows": [
            {
                "name": name_of(solver),
                "written": solver if name_of(solver) != solver else "",
                "cells": [
                    {
                        "first": metric == METRICS[truth][0],
                        "leads": solver in leading[truth, metric],
                        **_cell(by_column[truth, metric].loc[solver]),
                    }
                    for truth, metric in columns
                ],
                **_solve(own[own["solver"] == solver].iloc[0]),
            }
            for solver in solvers
        ],
    }


def _facts(row: pd.Series) -> list[tuple[str, str, str]]:
    return [
        ("p", count(row["dimension"]), "parameters whose influence it is"),
        ("n", count(row["num_examples"]), "training examples"),
        ("queries", count(row["num_columns"]), ""),
        ("λ", setting(row["damping"]), "damping"),
    ]


def _truth(rows: pd.DataFrame, truth: str) -> dict[str, Any]:
    """What is said of a truth above the table; `note` where it is missing or part of it is."""
    row = rows.iloc[0]
    note = row["missing"]
    if not note and row["compared"] < row["asked"]:
        note = f"{count(row['compared'])} of {count(row['asked'])} converged"
    return {"name": TRUTHS[truth], "columns": len(METRICS[truth]), "note": note}


def _heading(rows: pd.DataFrame, truth: str, metric: str) -> dict[str, Any]:
    name = MEASURES[metric]
    if metric == "top" and not math.isnan(rows.iloc[0]["top"]):
        name = f"top {count(rows.iloc[0]['top'])}"
    return {"name": name, "first": metric == METRICS[truth][0]}


def _cell(row: pd.Series) -> dict[str, str]:
    found = Interval(row["value"], row["low"], row["high"])
    if math.isnan(found.value):
        return {"value": ABSENT, "range": ""}
    ends = "" if math.isnan(found.low) else f"[{hundredths(found.low)}, {hundredths(found.high)}]"
    return {"value": hundredths(found.value), "range": ends}


def _solve(row: pd.Series) -> dict[str, Any]:
    silent = row["status"] in UNUSABLE
    return {
        "error": ABSENT if silent or math.isnan(row["error"]) else share(row["error"]),
        "work": number(row["total_work"]),
        "seconds": duration(row["total_seconds"]),
        "status": row["status"].replace("_", " "),
        "reason": row["reason"],
    }
