"""A performance profile told: its tables, its figure, and what the page says of it."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from reports.choices import choices, verdict
from reports.formats import ABSENT, count, hundredths, number, target_text
from reports.html import image
from reports.profile import CLOSE, Profile, lead
from reports.profile_figure import draw_profile
from reports.rows import in_order


def tell_profile(found: Profile, folder: Path, target: float) -> dict[str, Any]:
    """What the template `profile.html.j2` shows, as plain values.

    Writes into the report's `folder` tables/profile.csv and, where a solver tells what it spent on measuring,
    tables/choices.csv, in full precision, and the figure.
    """
    chosen = choices(found.rows)
    found.summary.to_csv(folder / "tables" / "profile.csv", index=False)
    if len(chosen):
        chosen.to_csv(folder / "tables" / "choices.csv", index=False)
    figure = draw_profile(folder / "figures", found)
    return {
        "lead": lead(found, target),
        "figure": image(folder / "figures" / f"{figure}.png"),
        "close": f"{CLOSE:g} ×",
        "limit": f"{found.limit:g} ×",
        "num_beyond": int((found.summary["worst_ratio"] > found.limit).sum()),
        "goal": target_text(target),
        "num_problems": found.ratios.shape[1],
        "rows": [_row(row) for _, row in found.summary.iterrows()],
        "choosers": [
            {"solver": solver, "verdict": verdict(rows), "rows": [_choice(row) for _, row in rows.iterrows()]}
            for solver in (in_order(chosen["solver"]) if len(chosen) else [])
            for rows in [chosen[chosen["solver"] == solver]]
        ],
    }


def _row(row: pd.Series) -> dict[str, str]:
    return {
        "solver": row["curve"],
        "ran": count(row["num_ran"]),
        "solved": count(row["num_solved"]),
        "close": count(row["num_close"]),
        "median": _ratio(row["median_ratio"]),
        "worst": _ratio(row["worst_ratio"]),
    }


def _choice(row: pd.Series) -> dict[str, str]:
    return {
        "problem": row["problem"],
        "chosen": row["chosen"] or ABSENT,
        "why": row["why"],
        "work_without": number(row["work_without_measurement"]),
        "measurement": number(row["measurement_work"]),
        "best": row["best_solver"] or "none reaches the target",
        "best_work": number(row["best_work"]),
        "without": _ratio(row["ratio_without"]),
        "with": _ratio(row["ratio_with"]),
    }


def _ratio(value: float) -> str:
    """Two decimals while they matter: a median of 1.53 must not read like an aim of 1.5."""
    if not math.isfinite(value):
        return number(value)
    return f"{hundredths(value) if value < 99.5 else number(value)} ×"
