"""What it cost to reach the target: the arithmetic behind every recommendation."""

import numpy as np
import pandas as pd

from reports.rows import KEY, UNUSABLE, measure_of


def judge(cells: pd.DataFrame, target: float) -> pd.DataFrame:
    """Adds to clean cells what they are judged by.

    `measure` ("error", or "residual" where a problem has no reference), `value` (the final one of that
    measure), `total_work` and `total_seconds` (set-up and solve), `usable` (the status is that of an answer)
    and `reached` (usable, and the final value is within the target).
    """
    judged = cells.copy()
    measures = {problem: measure_of(rows) for problem, rows in cells.groupby("problem")}
    judged["measure"] = judged["problem"].map(measures).astype(object)
    judged["value"] = judged["error"].where(judged["measure"] == "error", judged["residual"])
    judged["total_work"] = judged["setup_work"] + judged["solve_work"]
    judged["total_seconds"] = judged["setup_seconds"] + judged["solve_seconds"]
    judged["usable"] = ~judged["status"].isin(UNUSABLE)
    judged["reached"] = judged["usable"] & (judged["value"] <= target)
    return judged


def history(judged: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The recorded iterates in order of step, `work` and `seconds` now including each cell's set-up.

    `value` is the error, or the residual where the problem has no reference.
    """
    set_up = judged[[*KEY, "measure", "setup_work", "setup_seconds"]]
    rows = curves.merge(set_up, on=KEY, how="inner")
    rows["work"] += rows["setup_work"]
    rows["seconds"] += rows["setup_seconds"]
    rows["value"] = rows["error"].where(rows["measure"] == "error", rows["residual"])
    return rows.sort_values([*KEY, "step"], kind="stable")[[*KEY, "step", "work", "seconds", "value"]]


def cost_to_target(judged: pd.DataFrame, path: pd.DataFrame, target: float) -> pd.DataFrame:
    """Adds `work_to_target` and `seconds_to_target`, both with set-up; NaN where the target was not reached.

    The target counts as reached at the first recorded iterate from which on every recorded value is within
    it, so that noise which dips below and comes back earns nothing. An unknown (NaN) value is not within
    it. Where no recorded iterate shows the arrival, the whole solve is charged.
    """
    recorded = dict(iter(path.groupby(KEY, sort=False)))
    work, seconds = [], []
    for cell in judged.itertuples(index=False):
        work_here, seconds_here = np.nan, np.nan
        if cell.reached:
            work_here, seconds_here = cell.total_work, cell.total_seconds
            rows = recorded.get((cell.problem, cell.solver, cell.seed))
            first = None if rows is None else first_within_for_good(rows["value"].to_numpy(), target)
            if rows is not None and first is not None:
                work_here, seconds_here = rows["work"].iloc[first], rows["seconds"].iloc[first]
        work.append(work_here)
        seconds.append(seconds_here)
    return judged.assign(work_to_target=work, seconds_to_target=seconds)


def first_within_for_good(values: np.ndarray, target: float) -> int | None:
    """Index of the first value from which on all are ≤ target; None where the last one is not."""
    outside = np.flatnonzero(~(values <= target))
    first = int(outside[-1]) + 1 if outside.size else 0
    return first if first < len(values) else None


def pareto_front(cost: np.ndarray, value: np.ndarray) -> list[int]:
    """Indices of the points that no other beats, by rising cost.

    A point is beaten by one that is no worse in both and better in one; equal points both stay. Points with
    a NaN take no part.
    """
    known = np.flatnonzero(~(np.isnan(cost) | np.isnan(value)))
    order = known[np.lexsort((value[known], cost[known]))]
    front: list[int] = []
    for index in order:
        equal = bool(front) and (cost[index], value[index]) == (cost[front[-1]], value[front[-1]])
        if not front or value[index] < value[front[-1]] or equal:
            front.append(int(index))
    return front
