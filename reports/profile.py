"""A performance profile (Dolan & Moré 2002): how far each solver is from the best one, over all problems."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.formats import target_text, times
from reports.profile_rows import choosers, profile_rows
from reports.rows import in_order

# Fewer have nothing to be compared over.
MIN_PROBLEMS, MIN_SOLVERS = 3, 2
# A solver this close to the best is as good a choice.
CLOSE = 1.5
# The ratios at which the profile may end.
LIMITS = (10.0, 20.0, 50.0, 100.0)

WITHOUT = ", without its measurement"


@dataclass(frozen=True)
class Profile:
    """`rows`, see profile_rows; `ratios`, one row per curve and one column per problem; `limit`, where τ
    ends; `summary`, one row per curve, the best first.

    A ratio is work over that of the best solver on the problem, ∞ where the target was not reached. A curve
    is a solver, and once more without its measurement, where it tells of one: that can be better than the
    best (below 1), which is one of the solvers as they are.
    """

    rows: pd.DataFrame
    ratios: pd.DataFrame
    limit: float
    summary: pd.DataFrame

    @property
    def choosers(self) -> list[str]:
        """The solvers that tell what they spent on measuring."""
        return choosers(self.rows)


def profile(judged: pd.DataFrame, table: pd.DataFrame) -> Profile | None:
    """The profile of cells with their costs to the target and of their comparison; None for too few."""
    if table["problem"].nunique() < MIN_PROBLEMS or table["solver"].nunique() < MIN_SOLVERS:
        return None
    rows = profile_rows(judged, table)
    counted = rows.pivot(index="solver", columns="problem", values="counted")
    without = rows.pivot(index="solver", columns="problem", values="counted_without")
    without = without.loc[choosers(rows)].rename(index=lambda solver: f"{solver}{WITHOUT}")
    ratios = (pd.concat([counted, without]) / counted.min()).fillna(math.inf)
    ratios = ratios[in_order(table["problem"])].rename_axis(index="curve")
    limit = _limit(ratios.to_numpy())
    return Profile(rows, ratios, limit, _summary(ratios, rows, limit))


def share_within(ratios: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """The share of `ratios` that are ≤ each of `tau`: the profile's curve."""
    return (np.asarray(ratios)[:, None] <= np.asarray(tau)).mean(axis=0)


def lead(found: Profile, target: float) -> str:
    """Who is closest to the best most often, and who always gets there, in a sentence or two."""
    solvers = found.summary[~found.summary["without_measurement"]]
    total, most = found.ratios.shape[1], int(solvers["num_close"].max())
    goal = f"the target of {target_text(target)}"
    if most == 0:
        return f"No solver reaches {goal} on any of the {total} problems."
    closest = solvers[solvers["num_close"] == most]
    names = _listed(closest["curve"].tolist())
    verb, rest = ("is", "more than any other") if len(closest) == 1 else ("are", "the most of all")
    sentences = [
        f"{names} {verb} within {times(CLOSE)} of the best solver’s work on {most} of {total} problems, "
        f"{rest}."
    ]
    always = solvers.loc[solvers["num_solved"] == total, "curve"].tolist()
    if not always:
        largest = int(solvers["num_solved"].max())
        names = _listed(solvers.loc[solvers["num_solved"] == largest, "curve"].tolist())
        sentences.append(f"None reaches {goal} on all; on the most, {largest}, {names}.")
    elif len(always) == len(solvers):
        sentences.append(f"All reach {goal} on all of them.")
    else:
        verb = "reaches" if len(always) == 1 else "reach"
        sentences.append(f"{len(always)} of {len(solvers)} {verb} {goal} on all of them: {_listed(always)}.")
    return " ".join(sentences)


def _limit(ratios: np.ndarray) -> float:
    """The first of LIMITS beyond every finite ratio, or the last."""
    largest = ratios[np.isfinite(ratios)].max(initial=1.0)
    return next((limit for limit in LIMITS if limit > largest), LIMITS[-1])


def _summary(ratios: pd.DataFrame, rows: pd.DataFrame, limit: float) -> pd.DataFrame:
    """One row per curve, by the area under it, log τ across."""
    ran = rows.groupby("solver")["ran"].sum()
    summaries = []
    for curve, values in zip(ratios.index, ratios.to_numpy(), strict=True):
        solver = curve if curve in ran.index else curve.removesuffix(WITHOUT)
        solved = values[np.isfinite(values)]
        under = 1 - np.log(np.clip(solved, 1, limit)) / math.log(limit)
        summaries.append(
            {
                "curve": curve,
                "solver": solver,
                "without_measurement": curve != solver,
                "problems": len(values),
                "num_ran": int(ran[solver]),
                "num_solved": len(solved),
                "num_close": int((values <= CLOSE).sum()),
                "share_solved": len(solved) / len(values),
                "share_close": float((values <= CLOSE).mean()),
                "median_ratio": float(np.median(solved)) if len(solved) else math.nan,
                "worst_ratio": float(solved.max()) if len(solved) else math.nan,
                "area": float(under.sum()) / len(values),
            }
        )
    found = pd.DataFrame(summaries)
    return found.sort_values(["area", "share_solved"], ascending=False, kind="stable", ignore_index=True)


def _listed(names: list[str]) -> str:
    """ "a", "a and b", "a, b and 5 others"."""
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
