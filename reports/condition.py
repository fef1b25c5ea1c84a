"""build_condition(): the page on both sides of the sampling condition, whole or not at all."""

from pathlib import Path
from typing import Any

import pandas as pd

from reports.condition_figure import condition_figure
from reports.condition_rows import COLUMNS, over_seeds
from reports.condition_verdicts import conclusions, findings
from reports.formats import count, number, setting
from reports.rows import in_order
from reports.study import Page, build_study, model_facts, plus_minus


def build_condition(rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`; see `build_study`."""
    return build_study(_PAGE, rows, run, directory)


def _context(rows: pd.DataFrame) -> dict[str, Any]:
    sides = over_seeds(rows)
    problems = in_order(sides["problem"])
    return {
        # One panel alone would be as wide as the page.
        "single": len(problems) == 1,
        "problems": [
            {
                "name": problem,
                "facts": _facts(own) + model_facts(own.iloc[0]),
                "rows": [_row(row) for _, row in own.iterrows()],
            }
            for problem in problems
            for own in [sides[sides["problem"] == problem]]
        ],
    }


def _facts(own: pd.DataFrame) -> list[tuple[str, str, str]]:
    row = own.iloc[0]
    tokens = row["unit"] == "token"
    unequal = "tokens of a sequence · max Tr(g)/Tr(H), g one sequence" if tokens else "max Tr(h_i)/Tr(H)"
    found = [
        ("p", count(row["dimension"]), "parameters"),
        ("n", count(row["num_examples"]), "tokens" if tokens else "training examples"),
        ("λ", setting(row["damping"]), "damping"),
        ("noise from", _source(own), "how the left side was measured"),
        ("Tr(H)", plus_minus(row["trace"], row["trace_error"]), "with its standard error"),
        ("Tr(H)/λ_max", number(row["trace"] / row["largest"]), "effective rank"),
        ("C ≥", plus_minus(row["constant"], row["constant_error"]), unequal),
        (
            "R/Tr(H)",
            number(row["units_per_draw"] * row["noise_constant"] / row["trace"]),
            f"{'tokens of a sequence · ' if tokens else ''}R/Tr(H), R the least with E h² ⪯ R (H + λ)"
            + (", h one sequence" if tokens else ""),
        ),
        (
            "C from R ≥",
            number(row["needed"]),
            f"{'tokens of a sequence · ' if tokens else ''}(R − λ_max)/Tr(H), a lower bound of what the "
            "matrices ask",
        ),
    ]
    if tokens:
        worth = plus_minus(row["sequence_worth"], row["sequence_worth_error"])
        found += [
            ("tokens/sequence", number(row["units_per_draw"]), "on average"),
            ("of them independent", worth, "mini-batches of one token that have the noise of a sequence"),
        ]
    return found


def _source(own: pd.DataFrame) -> str:
    pairs = own["pairs"]
    if (pairs == 0).all():
        return "all draws"
    return f"{count(pairs.max())} pairs" + (", or all draws" if (pairs == 0).any() else "")


def _row(row: pd.Series) -> dict[str, str]:
    return {
        "batch": count(row["batch_size"]),
        "noise": plus_minus(row["noise"], row["noise_error"]),
        "equal": plus_minus(row["equal"], row["equal_error"]),
        "ratio": plus_minus(row["ratio"], row["ratio_error"]),
        "verdict": row["verdict"],
        "unequal": plus_minus(row["unequal"], row["unequal_error"]),
        "unequal_ratio": number(row["noise"] / row["unequal"]),
        "unequal_verdict": row["unequal_verdict"],
    }


_PAGE = Page(
    "condition.html.j2",
    COLUMNS,
    findings,
    {"condition": lambda rows: condition_figure(over_seeds(rows))},
    _context,
    conclusions,
)
