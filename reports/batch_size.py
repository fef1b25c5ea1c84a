"""build_batch_size(): the page on LiSSA's influences over batch sizes, whole or not at all."""

from pathlib import Path
from typing import Any

import pandas as pd

from reports.batch_size_figure import batch_size_figure
from reports.batch_size_rows import COLUMNS, PAPERS_RULE, correlation_text, over_seeds, over_trials
from reports.batch_size_verdicts import conclusions, findings
from reports.formats import count, number, setting
from reports.rows import in_order
from reports.study import Page, build_study, model_facts

# The look of a verdict: the page's badges are named for how a solve ended.
_BADGES = {"converges": "converged", "stalls": "undecided", "diverges": "diverged"}


def build_batch_size(rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`; see `build_study`."""
    return build_study(_PAGE, rows, run, directory)


def _context(rows: pd.DataFrame) -> dict[str, Any]:
    batches, chosen = over_trials(rows), over_seeds(rows)
    return {
        "problems": [
            {
                "name": problem,
                "facts": _facts(own.iloc[0]) + model_facts(own.iloc[0]),
                "rows": [_row(row) for _, row in batches[batches["problem"] == problem].iterrows()],
                "chosen": [_chosen_row(row) for _, row in chosen[chosen["problem"] == problem].iterrows()],
            }
            for problem in in_order(rows["problem"])
            for own in [rows[rows["problem"] == problem]]
        ],
        "caption": _caption(rows),
    }


def _caption(rows: pd.DataFrame) -> str:
    """Of which networks' influences the figure tells."""
    return " ".join(
        f"{problem}: p = {count(row['dimension'])}, λ = {setting(row['damping'])}, influences of "
        f"{count(row['num_influences'])} training examples by {count(row['num_examples'])} "
        f"{row['unit']}s of curvature."
        for problem in in_order(rows["problem"])
        for row in [rows[rows["problem"] == problem].iloc[0]]
    )


def _facts(row: pd.Series) -> list[tuple[str, str, str]]:
    tokens = row["unit"] == "token"
    found = [
        ("p", count(row["dimension"]), "parameters"),
        ("n", count(row["num_examples"]), "tokens" if tokens else "training examples"),
        ("λ", setting(row["damping"]), "damping"),
        ("λ_max", number(row["largest"]), "largest eigenvalue of H"),
        ("Tr(H)", number(row["trace"]), "trace of H"),
        ("η", number(row["step_size"]), "1/(λ_max + λ), of every batch size"),
        ("ηλT", number(row["time"]), f"T = {count(row['num_steps'])} steps"),
        (
            "b* by R",
            number(row["sufficient_batch"]),
            "from there on ηL_b/2 ≤ 1, as far as R is known: an estimate",
        ),
        ("Tr(H)/(λ_max + λ)", number(row["papers_batch"]), "the paper's rule"),
        ("training examples told of", count(row["num_influences"]), "the first; Pearson's is over them"),
        ("their gradients", f"{number(row['gradient_bytes'] / 2**20)} MiB", "held in memory"),
        (
            "correlation at b/λ",
            correlation_text(row["start_correlation"]),
            "of the start: gradient similarity",
        ),
        ("reference error ≤", number(row["reference_error"]), "of the converged answers"),
    ]
    if tokens:
        found.insert(2, ("tokens/sequence", number(row["units_per_draw"]), "on average"))
    return found


def _row(row: pd.Series) -> dict[str, str]:
    at = f", from step {number(row['diverged_at'])}" if row["num_diverged"] else ""
    return {
        "batch": count(row["batch_size"]),
        "share": number(row["batch_size"] / row["sufficient_batch"]),
        "half": number(row["half_step"]),
        "theory": "stable" if row["stable"] else "unstable",
        "verdict": row["verdict"],
        "badge": _BADGES[row["verdict"]],
        "correlation": correlation_text(row["correlation"]),
        "range": _range(row["low"], row["high"]),
        "diverged": f"{count(row['num_diverged'])} of {count(row['num_trials'])}{at}",
        "error": number(row["error"]),
        "floor": number(row["predicted_floor"]),
        "epochs": number(row["epochs"]),
        "work": number(row["work"]),
    }


def _chosen_row(row: pd.Series) -> dict[str, str]:
    rule = "b = Tr(H)/(λ_max + λ), ηλT = 2.25" if row["method"] == PAPERS_RULE else row["why"]
    return {
        "method": row["method"],
        "why": rule,
        "reason": row["reason"],
        "step_size": number(row["chosen_step_size"]),
        "batch": "all" if row["full_data"] else count(row["batch_size"]),
        "steps": count(row["step"]),
        "epochs": number(row["epochs"]),
        "work": number(row["work"]),
        "correlation": correlation_text(row["correlation"]),
        "range": _range(row["low"], row["high"]),
        "diverged": f"{count(row['num_diverged'])} of {count(row['num_trials'])}",
        "error": number(row["error"]),
    }


def _range(low: float, high: float) -> str:
    first, last = correlation_text(low), correlation_text(high)
    return "" if first == last else f"[{first} to {last}]"


_PAGE = Page(
    "batch_size.html.j2",
    COLUMNS,
    findings,
    {"batch_size": batch_size_figure},
    _context,
    conclusions,
)
