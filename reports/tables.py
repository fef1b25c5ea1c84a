"""Tables: one row per problem × solver, over its seeds, and the CSV files a paper's author opens."""

from pathlib import Path

import pandas as pd

from reports.rows import STATUSES, in_order

# What is summarised over seeds as a median with its smallest and largest.
QUANTITIES = [
    "value", "error", "energy_error", "residual", "steps",
    "setup_work", "solve_work", "total_work", "work_to_target",
    "setup_seconds", "solve_seconds", "total_seconds", "seconds_to_target",
    "peak_memory_bytes",
]  # fmt: skip


def comparison(judged: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × solver.

    Problems stand in order of first appearance, solvers by seconds to the target and then by final value.
    For each of QUANTITIES there is the median over the seeds that have it, `<quantity>_min` and
    `<quantity>_max`; the costs to the target are given only where every seed reached it. `status` is the
    worst over seeds; `status_counts` and `reasons` tell all, worst first.
    """
    columns = [
        "problem", "solver", "solver_settings", "seeds", "status", "status_counts", "reasons", "measure",
        "usable", "reached", "seeds_at_target",
    ]  # fmt: skip
    columns += [name for quantity in QUANTITIES for name in (quantity, f"{quantity}_min", f"{quantity}_max")]
    rows = [_summary(group) for _, group in judged.groupby(["problem", "solver"], sort=False)]
    table = pd.DataFrame(rows, columns=columns)
    position = {problem: index for index, problem in enumerate(in_order(judged["problem"]))}
    table["position"] = table["problem"].map(position)
    table = table.sort_values(["position", "seconds_to_target", "value"], kind="stable", ignore_index=True)
    return table.drop(columns="position")


def _summary(group: pd.DataFrame) -> dict[str, object]:
    first = group.iloc[0]
    counts = group["status"].value_counts()
    worst_first = [status for status in reversed(STATUSES) if status in counts.index]
    summary: dict[str, object] = {
        "problem": first["problem"],
        "solver": first["solver"],
        "solver_settings": first["solver_settings"],
        "seeds": len(group),
        "status": worst_first[0],
        "status_counts": {status: int(counts[status]) for status in worst_first},
        "reasons": {status: group.loc[group["status"] == status, "reason"].iloc[0] for status in worst_first},
        "measure": first["measure"],
        "usable": bool(group["usable"].all()),
        "reached": bool(group["reached"].all()),
        "seeds_at_target": int(group["reached"].sum()),
    }
    for quantity in QUANTITIES:
        values = group[quantity]
        if quantity.endswith("_to_target") and not summary["reached"]:
            values = values.iloc[:0]
        summary[quantity] = values.median()
        summary[f"{quantity}_min"] = values.min()
        summary[f"{quantity}_max"] = values.max()
    return summary


def write_tables(
    directory: Path,
    cells: pd.DataFrame,
    table: pd.DataFrame,
    recommendations: pd.DataFrame,
    theory: pd.DataFrame,
) -> None:
    """Writes cells.csv as given, comparison.csv, recommendations.csv and verdicts.csv, in full precision."""
    directory.mkdir()
    flat = table.assign(
        status_counts=[_joined(counts) for counts in table["status_counts"]],
        reasons=[_joined(reasons) for reasons in table["reasons"]],
    )
    cells.to_csv(directory / "cells.csv", index=False)
    flat.to_csv(directory / "comparison.csv", index=False)
    recommendations.to_csv(directory / "recommendations.csv", index=False)
    theory.to_csv(directory / "verdicts.csv", index=False)


def _joined(by_status: dict[str, object]) -> str:
    return "; ".join(f"{status}: {value}" for status, value in by_status.items())
