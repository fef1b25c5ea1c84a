"""What a performance profile compares: each solver's work to the target on each problem, and its choice."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd

# What a solver that chooses another one for each problem says of itself.
_MEASUREMENT, _CHOSEN, _WHY = "measurement_work", "chosen", "why"


def profile_rows(judged: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """One row for every problem × solver of a comparison `table`, for pairs that did not run too.

    Parameters: `judged`, the cells with their costs to the target. Work is the median over seeds, in gradient
    equivalents, with set-up, NaN unless every seed reached the target.

    `work`, of a solver that chooses all it took, since it cannot know where to stop as hindsight does; `ran`,
    whether there is a cell that was not skipped; `measurement_work`, the part of `work` that the solver says
    it spent on measuring and on what it then abandoned, NaN where it says nothing; `work_without` (not below
    0) without that part; `chosen` and `why` in its own words. `least` is one product with all columns, and
    `counted` and `counted_without` are the work that is compared: work below `least` counts as `least`, for
    ratios to an answer that is almost free would say nothing.
    """
    told = _measured(judged)
    pairs = pd.MultiIndex.from_product(
        [table["problem"].unique(), table["solver"].unique()], names=["problem", "solver"]
    )
    rows = table.set_index(["problem", "solver"])[["work_to_target", "status_counts"]].reindex(pairs)
    rows["ran"] = [
        isinstance(counts, dict) and set(counts) != {"skipped"} for counts in rows["status_counts"]
    ]
    rows = rows.drop(columns="status_counts").rename(columns={"work_to_target": "work"})
    rows = rows.join(told.reindex(pairs)).reset_index()
    chooses = rows["measurement_work"].notna() & rows["work"].notna()
    rows["work"] = rows["work"].where(~chooses, rows.pop("whole_work"))
    rows["work_without"] = rows["work_without"].where(rows["work"].notna())
    columns = judged.groupby("problem")["num_columns"].max().fillna(1.0)
    rows["least"] = (1 + 4 * rows["problem"].map(columns)) / 3
    rows["counted"] = np.maximum(rows["work"], rows["least"])
    rows["counted_without"] = np.maximum(rows["work_without"], rows["least"])
    return rows


def choosers(rows: pd.DataFrame) -> list[str]:
    """The solvers that tell on some problem what they spent on measuring."""
    return list(rows.loc[rows["measurement_work"].notna(), "solver"].unique())


def _measured(judged: pd.DataFrame) -> pd.DataFrame:
    """By problem and solver, over the seeds: what was spent on measuring, and what was chosen, and why."""
    told = [_object(text) for text in judged["diagnostics"]]
    spent = pd.Series([_number(each.get(_MEASUREMENT)) for each in told], index=judged.index)
    # Where it does not reach the target there is no work to it.
    work = judged["total_work"].where(judged["work_to_target"].notna())
    rows = judged[["problem", "solver"]].assign(
        measurement_work=spent,
        whole_work=work,
        # A seed that measured nothing has nothing to leave out.
        work_without=(work - spent.fillna(0)).clip(lower=0),
        chosen=[_text(each.get(_CHOSEN)) for each in told],
        why=[_text(each.get(_WHY)) for each in told],
    )
    return rows.groupby(["problem", "solver"], sort=False).agg(
        measurement_work=("measurement_work", "median"),
        whole_work=("whole_work", "median"),
        work_without=("work_without", "median"),
        chosen=("chosen", _distinct),
        why=("why", _distinct),
    )


def _distinct(texts: pd.Series) -> str:
    """What the seeds say, each thing once."""
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else math.nan


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
