"""build_settings(): the page on the settings that theory's rules give, whole or not at all."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from reports.formats import count, number, setting, share, target_text
from reports.rows import in_order
from reports.settings_figure import settings_figure
from reports.settings_rows import COLUMNS, PAPER, PUBLISHED, over_seeds, units
from reports.settings_verdicts import conclusions, findings
from reports.study import Page, build_study, model_facts, plus_minus


def build_settings(rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`; see `build_study`."""
    return build_study(_PAGE, rows, run, directory)


def _context(rows: pd.DataFrame) -> dict[str, Any]:
    table = over_seeds(rows)
    paper = table[table["rule"] == PAPER]
    return {
        "target": target_text(table["target"].iloc[0]),
        "table": [
            _line(own)
            for problem in in_order(table["problem"])
            for own in [table[table["problem"] == problem]]
        ],
        "problems": [
            {
                "name": problem,
                "facts": _facts(own.iloc[0]) + model_facts(own.iloc[0]),
                "rows": [_settings(row) for _, row in own.iterrows()],
            }
            for problem in in_order(table["problem"])
            for own in [table[table["problem"] == problem]]
        ],
        "decomposition": [
            _decomposition(row)
            for _, row in paper.iterrows()
            if not (math.isnan(row["bias"]) and math.isnan(row["half_step_second_moment"]))
        ],
        "published": [
            {
                "model": each.model,
                "parameters": each.parameters,
                "data": each.data,
                "step": setting(each.step_size),
                "steps": count(each.num_steps),
                "batch": each.batch,
                "time": number(each.time),
            }
            for each in PUBLISHED
        ],
    }


def _facts(row: pd.Series) -> list[tuple[str, str, str]]:
    largest, trace = row["measured_largest"], row["measured_trace"]
    tokens = row["unit"] == "token"
    known = row["reference_error"]
    reference = (
        [("reference error ≤", number(known), "what CG's answer, u*, may be off")] if known > 0 else []
    )
    draw = "of whole sequences h_i, each one draw" if tokens else ""
    return [
        ("p", count(row["dimension"]), "parameters"),
        ("n", count(row["num_examples"]), "tokens" if tokens else "training examples"),
        ("λ", setting(row["damping"]), "damping"),
        ("λ_max", number(largest), "largest eigenvalue of H"),
        ("λ/λ_max", number(row["damping"] / largest), "how strong the damping is"),
        ("Tr(H)", plus_minus(trace, row["measured_trace_error"]), "with its standard error"),
        (
            "C ≥",
            plus_minus(row["measured_heterogeneity"], row["measured_heterogeneity_error"]),
            " ".join(("max Tr(h_i)/Tr(H)", draw)).strip(),
        ),
        (
            "R",
            number(row["measured_noise_constant"]),
            " ".join(("the least with E h² ⪯ R (H + λ)", draw)).strip(),
        ),
        (
            "R/Tr(H)",
            number(row["measured_noise_constant"] / trace),
            "about 1 where examples are alike and λ is small",
        ),
        *reference,
    ]


def _line(own: pd.DataFrame) -> dict[str, Any]:
    """A problem's line in the table of settings: its spectrum, and what each rule makes of it."""
    row = own.iloc[0]
    return {
        "name": row["problem"],
        "damping": setting(row["damping"]),
        "largest": number(row["measured_largest"]),
        "trace": plus_minus(row["measured_trace"], row["measured_trace_error"]),
        "constant": number(row["measured_heterogeneity"]),
        "rules": [_settings(each) for _, each in own.iterrows()],
    }


def _settings(row: pd.Series) -> dict[str, Any]:
    return {
        "rule": row["rule"],
        "status": row["status"],
        "met": "met" if row["met"] else "missed",
        "step": number(row["step_size"]),
        "batch": "all data" if row["full_data"] else units(row),
        "steps": count(row["num_steps"]),
        "chains": count(row["chains"]),
        "time": number(row["step_size"] * row["damping"] * row["num_steps"]),
        "error": number(row["error"]),
        "predicted": number(row["predicted_error"]),
        "estimated": number(row["estimated_error"]),
        "work": number(row["total_work"]),
        "why": row["why"],
        "reason": row["reason"],
    }


def _decomposition(row: pd.Series) -> dict[str, str]:
    return {
        "name": row["problem"],
        "error": number(row["error"]),
        "bias": number(row["bias"]),
        "noise": number(row["noise"]),
        "bias_from_rhs": share(row["bias_from_rhs"]),
        "bias_bound": share(row["bias_bound"]),
        "solution_share": share(row["solution_share"]),
        "half": number(row["half_step_second_moment"]),
        "stable": _stable(row["half_step_second_moment"]),
        "batch": units(row),
    }


def _stable(half: float) -> str:
    return "–" if math.isnan(half) else "holds" if half < 1 else "fails"


_PAGE = Page(
    "settings.html.j2",
    COLUMNS,
    findings,
    {"settings": lambda rows: settings_figure(over_seeds(rows))},
    _context,
    conclusions,
)
