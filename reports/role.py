"""build_role(): the page on what the inverse changes, whole or not at all."""

import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from reports.formats import ABSENT, Formatter, count, number, setting, spread
from reports.role_figure import examples_figure, role_figure
from reports.role_rows import COLUMNS, OWN, Answer, Shown, answers, few, over_queries
from reports.role_verdicts import conclusions, findings, kind
from reports.rows import in_order
from reports.study import Page, build_study, model_facts

# Letters of a passage that are shown.
PASSAGE = 240
EXAMPLES = "role_examples"


def build_role(rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`; see `build_study`.

    Beside the figure `role` there is `role_examples` where examples have pictures.
    """
    figures = {"role": lambda measured: role_figure(over_queries(measured))}
    if "picture" in rows and (rows["picture"].fillna("") != "").any():
        figures[EXAMPLES] = lambda measured: examples_figure(_pictures(measured))
    page = Page("role.html.j2", COLUMNS, findings, figures, _context, conclusions)
    return build_study(page, rows, run, directory)


def _pictures(rows: pd.DataFrame) -> dict[str, list[Answer]]:
    """The answers that have pictures, by problem."""
    found = {
        problem: [answer for answer in answers(rows, problem) if answer.query.picture]
        for problem in in_order(rows["problem"])
    }
    return {problem: own for problem, own in found.items() if own}


def _context(rows: pd.DataFrame) -> dict[str, Any]:
    table = over_queries(rows)
    return {
        "problems": [
            {
                "name": problem,
                "facts": _facts(own.iloc[0]) + model_facts(own.iloc[0]),
                "top": count(own.iloc[0]["top"]),
                "classes": bool(own["class_with"].notna().any()),
                "rows": [*(_row(row) for _, row in own.iterrows()), _without(own.iloc[-1])],
                "answers": [_answer(answer) for answer in answers(rows, problem)],
            }
            for problem in in_order(table["problem"])
            for own in [table[table["problem"] == problem]]
        ],
    }


def _facts(row: pd.Series) -> list[tuple[str, str, str]]:
    return [
        ("p", count(row["dimension"]), "parameters"),
        ("ranked", count(row["num_ranked"]), f"training {kind(row)}"),
        ("queries", count(row["queries"]), ""),
        ("λ", setting(row["damping"]), "the problem's own damping"),
        ("λ_max", number(row["largest"]), "a lower bound by Lanczos"),
    ]


def _row(row: pd.Series) -> dict[str, Any]:
    return {
        "own": row["multiple"] == OWN,
        "damping": setting(row["solved_damping"]),
        "share": number(row["share"]),
        "correlation": _spread(row, "rank_correlation", number),
        "same": _spread(row, "same", few),
        "kept": few(row["kept"]),
        "work": number(row["total_work"]),
        "residual": number(row["residual"]),
        **_side(row, "with"),
    }


def _without(row: pd.Series) -> dict[str, Any]:
    """The last row: gradients alone, which is λ → ∞."""
    alone = dict.fromkeys(("kept", "work", "residual"), ABSENT)
    ends = {"correlation": ("1", ""), "same": (count(row["top"]), "")}
    return {"own": False, "damping": "∞", "share": "∞", **ends, **alone, **_side(row, "without")}


def _side(row: pd.Series, side: str) -> dict[str, str]:
    counts = {name: few(row[f"{name}_{side}"]) for name in ("class", "norm", "lists")}
    return {"between": number(row[f"between_{side}"]), **counts}


def _spread(row: pd.Series, column: str, form: Formatter) -> tuple[str, str]:
    return spread(row[column], row[f"{column}_low"], row[f"{column}_high"], form)


def _answer(answer: Answer) -> dict[str, Any]:
    """Pictures side by side, or passages in rows of which one list may be longer than the other."""
    return {
        "query": _shown(answer.query),
        "given": {
            side: [_shown(example, answer.query.label) for example in given]
            for side, given in answer.given.items()
        },
    }


def _shown(shown: Shown, wanted: str = "") -> dict[str, Any]:
    return {
        "label": shown.label,
        "alike": bool(wanted) and shown.label == wanted,
        "text": textwrap.shorten(shown.text, PASSAGE, placeholder=" …"),
        "picture": f"data:image/png;base64,{shown.picture}" if shown.picture else "",
        "score": number(shown.score),
        "elsewhere": "" if shown.elsewhere is None else count(shown.elsewhere),
    }
