"""The rows a report is made of: which columns it needs, and one clean form of them for every other file."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

KEY = ["problem", "solver", "seed"]

# From best to worst; a solver's status over several seeds is its worst one.
STATUSES = ("converged", "finished", "budget_spent", "skipped", "breakdown", "diverged", "failed")

# What ended in one of these is no answer, whatever number stands beside it.
UNUSABLE = frozenset({"skipped", "breakdown", "diverged", "failed"})

DEFAULT_TARGET = 0.01

_CELL_TEXT = ["problem", "solver", "status", "reason"]
_CELL_NUMBERS = [
    "seed", "error", "residual", "steps", "setup_work", "solve_work", "setup_seconds", "solve_seconds",
]  # fmt: skip
_OPTIONAL_TEXT = [
    "solver_name", "solver_settings", "dtype", "device", "facts", "diagnostics", "traceback",
]  # fmt: skip
_OPTIONAL_NUMBERS = [
    "energy_error", "peak_memory_bytes", "dimension", "num_examples", "num_columns", "damping", "lambda_max",
    "lambda_min", "trace", "condition_number", "reference_residual", "reference_error", "noise_constant",
    "noise_at_solution", "start_error_rhs", "solution_ratio", "product_error", "gradient_seconds",
    "product_seconds",
]  # fmt: skip
_CURVE_TEXT = ["problem", "solver"]
_CURVE_NUMBERS = ["seed", "step", "work", "seconds", "residual", "error"]


def clean_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """A copy with numbers as float64, absent text as "" and absent optional columns filled in.

    Raises ValueError for a missing required column, an unknown status, or two rows for one
    problem × solver × seed.
    """
    _require(cells, _CELL_TEXT + _CELL_NUMBERS, "cells")
    clean = cells.reset_index(drop=True).copy()
    for column in _CELL_TEXT + _OPTIONAL_TEXT:
        clean[column] = _text(clean[column]) if column in clean else ""
    for column in _CELL_NUMBERS + _OPTIONAL_NUMBERS:
        clean[column] = pd.to_numeric(clean[column]).astype(float) if column in clean else np.nan
    unknown = sorted(set(clean["status"]) - set(STATUSES))
    if unknown:
        raise ValueError(f"cells has unknown statuses {unknown}; known are {list(STATUSES)}")
    repeated = clean[clean.duplicated(KEY)]
    if len(repeated):
        first = repeated.iloc[0]
        raise ValueError(
            f"cells has more than one row for problem {first['problem']!r}, solver {first['solver']!r}, "
            f"seed {first['seed']:g}"
        )
    return clean


def clean_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """A copy with the columns a report reads, numbers as float64; no rows need no columns."""
    if len(curves) == 0:
        curves = pd.DataFrame(columns=_CURVE_TEXT + _CURVE_NUMBERS)
    _require(curves, _CURVE_TEXT + _CURVE_NUMBERS, "curves")
    clean = curves[_CURVE_TEXT + _CURVE_NUMBERS].reset_index(drop=True).copy()
    for column in _CURVE_TEXT:
        clean[column] = _text(clean[column])
    for column in _CURVE_NUMBERS:
        clean[column] = pd.to_numeric(clean[column]).astype(float)
    return clean


def target_error(run: dict[str, Any]) -> float:
    """The error the experiment asks for; 0.01 where it names none. ValueError unless it is positive."""
    asked = (run.get("experiment") or {}).get("target_error")
    target = DEFAULT_TARGET if asked is None else float(asked)
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"target_error must be a positive number, not {asked!r}")
    return target


def measure_of(cells: pd.DataFrame) -> str:
    """What one problem's answers are judged by: "error", or "residual" where it has no reference."""
    has_reference = cells["error"].notna().any() or cells["reference_residual"].notna().any()
    return "error" if has_reference or cells["residual"].isna().all() else "residual"


def in_order(values: Iterable[str]) -> list[str]:
    """Distinct values in order of first appearance: the order in which the experiment names them."""
    return list(dict.fromkeys(values))


def _require(frame: pd.DataFrame, columns: list[str], name: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{name} lacks the columns {missing}; see README for what each holds")


def _text(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), "").astype(str)
