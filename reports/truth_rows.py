"""The rows of a truth page: how far influences agree with each truth, and differences of two solvers."""

import json
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.rows import in_order

COLUMNS = {
    "solver": "the solver, as written on the command line",
    "truth": "what its influences are compared with: exact, pbrf, loo or lds",
    "metric": "pearson, spearman, top (share of the most helpful in common), or lds; the mean over queries",
    "value": "the measure; NaN where the solver gave no answer or the truth could not be had",
    "low": "lower end of its 95 % bootstrap interval over rows and queries",
    "high": "upper end",
    "drawn": "the measure in each resample, JSON of ten-thousandths; all solvers of a problem have "
    "the same resamples",
    "compared": "training examples, or subsets, that are compared",
    "asked": "as many were asked for: the others did not converge",
    "off": "root mean square of what the truth may be off, over that of the truth; of the exact solution the "
    "relative error of x at most; NaN where not known",
    "top": "how many most helpful examples are compared",
    "truth_seconds": "seconds that the truth took, whenever it was computed, trainings on one thread each",
    "ceiling": "of LDS, Spearman's ρ of losses under other seeds: 1 without noise; NaN of one seed",
    "missing": "why there is no such truth",
    "status": "how the solve ended",
    "reason": "why",
    "error": "relative error ‖x − x*‖/‖x*‖ of the solver's answer, worst query",
    "residual": "relative residual, worst query",
    "total_work": "gradient equivalents of the solve, set-up included, for all queries",
    "total_seconds": "seconds of the same",
    "num_columns": "queries",
}
TEXT = ("solver", "truth", "metric", "drawn", "missing", "status", "reason")
KEY = ["problem", "solver", "truth", "metric"]
# What a truth is first of all judged by.
MAIN = {"lds": "lds", "pbrf": "pearson", "loo": "pearson", "exact": "pearson"}
TRUTHS = {
    "lds": "models of random subsets",
    "pbrf": "proximal Bregman responses",
    "loo": "leave-one-out retraining",
    "exact": "the exact solution",
}
NAMES = {
    "exact": "exact",
    "lissa": "LiSSA",
    "lissa:preconditioner=ekfac": "EK-FAC-LiSSA",
    "ekfac": "EK-FAC",
    "kfac": "K-FAC",
    "nystrom": "Nyström",
    "datainf": "DataInf",
    "identity": "gradient similarity",
}
# Draws are kept as ten-thousandths.
SCALE = 10_000
# The middle 95 %.
ENDS = (0.025, 0.975)
UNUSABLE = ("skipped", "breakdown", "diverged", "failed")


class Interval(NamedTuple):
    """A value with its interval; NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def separated(self) -> bool | None:
        """Whether it is above 0 (True) or below (False) with all of its interval; None where neither."""
        if self.low > 0:
            return True
        return False if self.high < 0 else None


NOTHING = Interval(math.nan, math.nan, math.nan)


def name_of(solver: str) -> str:
    """What people call it; as it is written where it has settings."""
    return NAMES.get(solver, solver)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × solver × truth × metric: means over the solver's seeds.

    `draws` is the mean over seeds in each resample, an array that is empty where a resample was not defined.
    """
    told = []
    for _, group in rows.groupby(KEY, sort=False):
        row = group.iloc[0].to_dict()
        for column in ("value", "low", "high", "error", "residual", "total_work", "total_seconds"):
            row[column] = float(group[column].mean()) if group[column].notna().all() else math.nan
        drawn = [json.loads(text) if text else [] for text in group["drawn"]]
        whole = all(drawn) and len({len(each) for each in drawn}) == 1
        row["draws"] = np.mean(drawn, axis=0) / SCALE if whole else np.array([])
        if whole and len(group) > 1:
            row["low"], row["high"] = (float(end) for end in np.quantile(row["draws"], ENDS))
        bad = group[group["status"].isin(UNUSABLE)]
        if len(bad):
            row["status"], row["reason"] = bad.iloc[0]["status"], bad.iloc[0]["reason"]
        told.append(row)
    return pd.DataFrame(told)


def of(whole: pd.DataFrame, problem: str, truth: str, metric: str = "") -> pd.DataFrame:
    """The rows of a table by solver, of the truth's main metric where none is named."""
    same = (whole["problem"] == problem) & (whole["truth"] == truth)
    return whole[same & (whole["metric"] == (metric or MAIN[truth]))].set_index("solver", drop=False)


def difference(rows: pd.DataFrame, first: str, second: str) -> Interval:
    """By how much the first solver is above the second, from paired resamples; `rows` as `of` gives them."""
    if first not in rows.index or second not in rows.index:
        return NOTHING
    one, other = rows.loc[first], rows.loc[second]
    value = float(one["value"] - other["value"])
    if math.isnan(value) or not len(one["draws"]) or len(one["draws"]) != len(other["draws"]):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(one["draws"] - other["draws"], ENDS)
    return Interval(value, float(low), float(high))


def best(rows: pd.DataFrame) -> str | None:
    """The solver of the largest value; None where there is none."""
    known = rows[rows["value"].notna()]
    return None if known.empty else str(known["value"].idxmax())


def as_good(rows: pd.DataFrame) -> list[str]:
    """The best solver, and all that are not certainly below it."""
    first = best(rows)
    if first is None:
        return []
    known = rows[rows["value"].notna()]
    return [
        name for name in known.index if name == first or difference(rows, first, name).separated is not True
    ]


def cheapest(rows: pd.DataFrame, names: Iterable[str]) -> str:
    """Of some solvers that of the least work."""
    return str(rows.loc[list(names), "total_work"].idxmin())


def truths_of(whole: pd.DataFrame, problem: str) -> list[str]:
    """The truths that were asked for, in the order in which a page tells of them."""
    there = set(in_order(whole.loc[whole["problem"] == problem, "truth"]))
    return [truth for truth in TRUTHS if truth in there]


def role(rows: pd.DataFrame, which: str) -> str | None:
    """The solver that stands for `which`: exact, EK-FAC-LiSSA, LiSSA, EK-FAC or gradient similarity."""
    found = [name for name in rows.index if _ROLES[which](name)]
    if which == "exact":
        # A factorisation where it was made, or else CG.
        found.sort(key=lambda name: not (name.startswith("exact") and not math.isnan(rows.at[name, "value"])))
    return found[0] if found else None


_ROLES = {
    "exact": lambda name: name.startswith(("exact", "cg")),
    "EK-FAC-LiSSA": lambda name: name.startswith("lissa") and "ekfac" in name,
    "LiSSA": lambda name: name.startswith("lissa") and "preconditioner" not in name,
    "EK-FAC": lambda name: name.startswith("ekfac"),
    "gradient similarity": lambda name: name.startswith("identity"),
}
