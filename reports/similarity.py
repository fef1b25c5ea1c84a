"""build_similarity(): the page on what makes sentences alike, whole or not at all."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from reports.formats import count, duration, hundredths, number, setting, share
from reports.similarity_figure import cosine_figure, raw_figure
from reports.similarity_rows import (
    COLUMNS,
    KINDS,
    Matrix,
    Similarities,
    Value,
    change,
    cosines,
    gap,
    jackknife,
    leading_share,
    mean_of,
    mean_share,
    nearest,
    partners,
    separation,
    similarities,
)
from reports.similarity_verdicts import conclusions, findings
from reports.study import Page, build_study, model_facts, plus_minus


def build_similarity(rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`; see `build_study`."""
    return build_study(_PAGE, rows, run, directory)


def _context(rows: pd.DataFrame) -> dict[str, Any]:
    return {"problems": [_problem(found) for found in similarities(rows)]}


def _problem(found: Similarities) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": found.problem,
        "facts": _facts(found),
        "what": _what(found.row),
        "solved": found.solved,
    }
    if not found.solved:
        return shown
    gradient, influence = cosines(found.gradient), cosines(found.influence)
    scaled = found.row["damping"] * found.influence
    return shown | {
        "kinds": [
            {
                "name": name,
                "cosines": _compared(mean_of(kind), gradient, influence),
                "raw": _compared(mean_of(kind), found.gradient, scaled),
            }
            for kind, name in KINDS.items()
        ],
        "shared": [
            {"name": name, "cosines": _compared(statistic, gradient, influence)}
            for name, statistic in {
                "its own paraphrase − another’s": gap,
                "the same in standard deviations": separation,
                "share along the mean direction": mean_share,
                "share along the leading direction": leading_share,
            }.items()
        ],
        "sentences": _sentences(found, gradient, influence),
    }


def _what(row: pd.Series) -> str:
    """Model, data and parameters of H, for a caption."""
    told, asked = (json.loads(row.get(name) or "{}") for name in ("facts", "problem_parameters"))
    sequences, selected = asked.get("training_size"), asked.get("parameters")
    parts = [
        str(told.get("model", "")),
        f"H of {count(row['num_examples'])} tokens"
        + (f", {sequences} sequences of {told['data']}" if sequences and "data" in told else ""),
        f"p = {count(row['dimension'])}" + (f" ({selected})" if selected else ""),
        f"λ = {setting(row['damping'])}",
    ]
    return ", ".join(part for part in parts if part)


def _facts(found: Similarities) -> list[tuple[str, str, str]]:
    row = found.row
    return [
        ("p", count(row["dimension"]), "parameters of H"),
        ("n", count(row["num_examples"]), "training tokens of H"),
        ("λ", setting(row["damping"]), "damping"),
        ("solver", row["method"], row["reason"]),
        ("status", row["status"], row["reason"]),
        ("steps", count(row["steps"]), "of the solver"),
        ("residual", number(row["residual"]), "largest relative residual of the solver's answer"),
        ("asymmetry", share(row["asymmetry"]), "of XᵀG: 0 of an exact solver"),
        ("correction", share(row["correction"]), "of XᵀG by RᵀX"),
        ("work", count(row["work"]), "gradient equivalents"),
        ("time", duration(row["seconds"]), "of the solver"),
        *model_facts(row),
    ]


def _compared(statistic: Any, gradient: Matrix, influence: Matrix) -> list[str]:
    values = (jackknife(statistic, gradient), jackknife(statistic, influence))
    return [_told(value) for value in (*values, change(statistic, gradient, influence))]


def _told(value: Value) -> str:
    return plus_minus(value.value, value.error)


def _sentences(found: Similarities, gradient: Matrix, influence: Matrix) -> list[dict[str, Any]]:
    partner = partners(len(gradient))
    told = []
    for index in range(found.num_pairs):
        other = int(partner[index])
        told.append(
            {
                "number": index + 1,
                "text": found.sentences[index],
                "paraphrase": found.sentences[other],
                "by": [
                    {
                        "cosine": hundredths(float(matrix[index, other])),
                        "nearest": [_name(int(nearest(matrix)[place]), found) for place in (index, other)],
                        "right": [bool(nearest(matrix)[place] == partner[place]) for place in (index, other)],
                    }
                    for matrix in (gradient, influence)
                ],
            }
        )
    return told


def _name(index: int, found: Similarities) -> str:
    """ "3" of the third sentence, "3′" of its paraphrase."""
    pairs = found.num_pairs
    return f"{1 + index % pairs}{'′' if index >= pairs else ''}"


_PAGE = Page(
    "similarity.html.j2",
    COLUMNS,
    findings,
    {"similarity": cosine_figure, "raw": raw_figure},
    _context,
    conclusions,
)
