"""build_preconditioning(): the page on what preconditioners save, whole or not at all."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from reports.formats import ABSENT, count, number, setting, share, target_text
from reports.preconditioning_figure import preconditioning_figure
from reports.preconditioning_rows import CG, COLUMNS, LISSA, table
from reports.preconditioning_verdicts import findings, name_of, verdicts
from reports.rows import in_order
from reports.study import Page, build_study


def build_preconditioning(rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`; see `build_study`."""
    return build_study(_PAGE, rows, run, directory)


def _context(rows: pd.DataFrame) -> dict[str, Any]:
    whole = table(rows)
    told = verdicts(whole)
    return {
        "claims": [
            {"claim": claim, "verdicts": [each for each in told if each.claim == claim]}
            for claim in in_order(each.claim for each in told)
        ],
        "problems": [
            {
                "name": problem,
                "facts": _facts(own.iloc[0]),
                "targets": [target_text(target) for target in targets],
                "cg": [_cg(rows_of, targets) for rows_of in _by_preconditioner(own, CG)],
                "lissa": [_lissa(rows_of.iloc[0]) for rows_of in _by_preconditioner(own, LISSA)],
            }
            for problem in in_order(whole["problem"])
            for own in [whole[whole["problem"] == problem]]
            for targets in [list(own.loc[own["method"] == CG, "target"].unique())]
        ],
    }


def _by_preconditioner(own: pd.DataFrame, method: str) -> list[pd.DataFrame]:
    same = own[own["method"] == method]
    return [same[same["preconditioner"] == name] for name in in_order(same["preconditioner"])]


def _facts(row: pd.Series) -> list[tuple[str, str, str]]:
    return [
        ("p", count(row["dimension"]), "parameters"),
        ("n", count(row["num_examples"]), "training examples"),
        ("k", count(row["num_columns"]), "right-hand sides"),
        ("λ", setting(row["damping"]), "damping"),
        ("λ_max", number(row["largest"]), "largest eigenvalue of H"),
        ("κ", number(row["condition"]), "(λ_max + λ)/(λ_min + λ)"),
        ("d(λ)", number(row["effective_dimension"]), "Tr H(H + λ)⁻¹"),
    ]


def _cg(rows: pd.DataFrame, targets: list[float]) -> dict[str, Any]:
    first = rows.iloc[0]
    by_target = {row["target"]: row for _, row in rows.iterrows()}
    return {
        "name": name_of(first["preconditioner"]),
        "note": f"rank {count(first['rank'])}" if not math.isnan(first["rank"]) else "",
        "condition": number(first["preconditioned_condition"]),
        "predicted": number(first["predicted_condition"]),
        "ends": f"{number(first['preconditioned_smallest'])} – {number(first['preconditioned_largest'])}",
        "setup_work": number(first["setup_work"]),
        "set_up": count(first["set_up"]),
        "reached": [_reached(by_target[target]) for target in targets if target in by_target],
        "reason": first["reason"],
        "status": first["status"],
    }


def _reached(row: pd.Series) -> dict[str, str]:
    if not math.isfinite(row["step"]):
        return {"steps": ABSENT, "products": ABSENT, "ratio": "", "work": ABSENT}
    return {
        "steps": count(row["step"]),
        "products": count(row["all_products"]),
        "ratio": f"{row['ratio']:.2f}" if not math.isnan(row["ratio"]) else "",
        "work": count(row["work"]),
    }


def _lissa(row: pd.Series) -> dict[str, Any]:
    answered = not math.isnan(row["error"])
    return {
        "name": name_of(row["preconditioner"]),
        "status": row["status"],
        "met": "met" if row["met"] else "missed",
        "error": share(row["error"]) if answered else ABSENT,
        "steps": count(row["step"]),
        "planned": count(row["planned_steps"]),
        "batch": "all" if row["batch_size"] >= row["num_examples"] else count(row["batch_size"]),
        "chains": count(row["chains"]),
        "step_size": number(row["step_size"]),
        "noise": number(row["noise_constant"]),
        "setup_work": number(row["setup_work"]),
        "pilot_work": number(row["pilot_work"]),
        "work": number(row["work"]),
        "note": "; ".join(part for part in (row["why"], row["reason"]) if part),
    }


_PAGE = Page(
    "preconditioning.html.j2",
    COLUMNS,
    findings,
    {"preconditioning": preconditioning_figure},
    _context,
)
