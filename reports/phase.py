"""build_phase(): the page on where LiSSA converges, whole or not at all."""

from pathlib import Path
from typing import Any

import pandas as pd

from reports.formats import count, number, setting, share
from reports.phase_figures import collapse_figure, phase_figure
from reports.phase_rows import CLASSES, COLUMNS, classified, edges, over_seeds
from reports.phase_verdicts import conclusions, findings
from reports.rows import in_order
from reports.study import Page, build_study, model_facts


def build_phase(rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`; see `build_study`."""
    return build_study(_PAGE, rows, run, directory)


def _context(rows: pd.DataFrame) -> dict[str, Any]:
    solves = classified(rows)
    names = in_order(solves["problem"])
    return {
        # One panel alone would be as wide as the page.
        "single": len(names) == 1,
        "confusion": [_confusion("all problems", solves)] * (len(names) > 1)
        + [_confusion(problem, solves[solves["problem"] == problem]) for problem in names],
        "problems": [
            {
                "name": problem,
                "facts": _facts(own.iloc[0]) + model_facts(own.iloc[0]),
                "edges": [_edge(row) for _, row in found.iterrows()],
            }
            for problem in names
            for own in [solves[solves["problem"] == problem]]
            for found in [edges(own)]
        ],
    }


def _confusion(name: str, solves: pd.DataFrame) -> dict[str, Any]:
    rows = []
    for label, meaning in CLASSES.items():
        own = solves[solves["predicted"] == label]
        bounded = own[~own["diverged"]]
        if len(own):
            rows.append(
                {
                    "label": label,
                    "meaning": meaning,
                    "solves": count(len(own)),
                    "bounded": count(len(bounded)),
                    "diverged": count(len(own) - len(bounded)),
                    "share": share(1 - len(bounded) / len(own)) if len(bounded) < len(own) else "0",
                    "error": number(bounded["error"].median()),
                }
            )
    return {"name": name, "rows": rows}


def _facts(row: pd.Series) -> list[tuple[str, str, str]]:
    tokens = row["unit"] == "token"
    return [
        ("p", count(row["dimension"]), "parameters"),
        ("n", count(row["num_examples"]), "tokens" if tokens else "training examples"),
        ("λ", setting(row["damping"]), "damping"),
        ("λ_max", number(row["largest"]), "largest eigenvalue of H"),
        (
            "R",
            number(row["noise_constant"]),
            "the least with E h² ⪯ R (H + λ)" + (", h one whole sequence" if tokens else ""),
        ),
        (
            "b*",
            number(row["sufficient_batch"]) + (" tokens" if tokens else ""),
            "batch size from which the step is at least half of what all data allow",
        ),
        ("start", number(row["start_error"]), "‖b/λ − u*‖/‖u*‖ of the worst column"),
    ]


def _edge(row: pd.Series) -> dict[str, str]:
    return {
        "batch": count(row["batch_size"]),
        "second_moment": number(row["second_moment"]),
        "sufficient": number(row["sufficient"]),
        "threshold": number(row["exact"]),
        "last": number(row["last_bounded"]),
        "first": number(row["first_diverged"]),
    }


_PAGE = Page(
    "phase.html.j2",
    COLUMNS,
    findings,
    {
        "phase": lambda rows: phase_figure(over_seeds(classified(rows))),
        "collapse": lambda rows: collapse_figure(over_seeds(classified(rows))),
    },
    _context,
    conclusions,
)
