"""A solver that chooses another for each problem, against the best choice in hindsight."""

import math

import pandas as pd

from reports.formats import hundredths
from reports.profile_rows import choosers

# What choosing may cost, as a multiple of the best solver's work: in the median over problems, and at worst.
MEDIAN_AIM, WORST_AIM = 1.5, 3.0


def choices(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem for each solver that tells what it spent on measuring, of profile rows.

    `best_solver` is the cheapest of all other solvers on the problem, "" where none reaches the target, and
    `best_work` its work. The ratios are of work as it is counted (see profile_rows) to that of the best: NaN
    without one, ∞ where the solver itself does not reach the target.
    """
    return pd.DataFrame(
        [
            _choice(row, rows[(rows["problem"] == row["problem"]) & (rows["solver"] != solver)])
            for solver in choosers(rows)
            for _, row in rows[rows["solver"] == solver].iterrows()
        ]
    )


def verdict(chosen: pd.DataFrame) -> str:
    """How one solver's choices compare with the best in hindsight, and with the aims, in a few sentences."""
    solver, compared = chosen["solver"].iloc[0], chosen[chosen["best_solver"] != ""]
    if not len(compared):
        return f"{solver} has nothing to be compared with: no other solver reaches the target on any problem."
    count = f"{len(compared)} problem{'' if len(compared) == 1 else 's'}"
    sentences = [
        f"Against the best other solver in hindsight on {count}, {solver} takes "
        f"{_told(compared, 'ratio_with')}, its measuring included; without its measurement "
        f"{_told(compared, 'ratio_without')}.",
        f"The aims are at most {MEDIAN_AIM:g} × in the median and {WORST_AIM:g} × at worst: with the "
        f"measurement {_judged(compared['ratio_with'])}; without it {_judged(compared['ratio_without'])}.",
    ]
    missed = compared.loc[compared["work"].isna(), "problem"].tolist()
    if missed:
        sentences.append(
            f"It does not reach the target on {', '.join(missed)}, where another does, which counts as ∞."
        )
    alone = chosen[(chosen["best_solver"] == "") & chosen["work"].notna()]
    if len(alone):
        sentences.append(f"It alone reaches the target on {', '.join(alone['problem'])}.")
    return " ".join(sentences)


def _told(compared: pd.DataFrame, name: str) -> str:
    """The median and the worst of the ratio `name`, in words."""
    ratios = compared[name]
    worst = ratios.max()
    where = compared.loc[ratios == worst, "problem"].iloc[0]
    return f"{hundredths(ratios.median())} × in the median and {hundredths(worst)} × at worst (on {where})"


def _judged(ratios: pd.Series) -> str:
    """Whether they meet the aims, in words."""
    median, worst = ratios.median() <= MEDIAN_AIM, ratios.max() <= WORST_AIM
    if median == worst:
        return "both are met" if median else "both are missed"
    return f"the median’s is {'met' if median else 'missed'} and the worst’s {'met' if worst else 'missed'}"


def _choice(row: pd.Series, others: pd.DataFrame) -> dict[str, object]:
    solved = others[others["work"].notna()].sort_values(["counted", "work"], kind="stable")
    best = solved.iloc[0] if len(solved) else None
    return {
        "solver": row["solver"],
        "problem": row["problem"],
        "chosen": row["chosen"],
        "why": row["why"],
        "work": row["work"],
        "measurement_work": row["measurement_work"],
        "work_without_measurement": row["work_without"],
        "best_solver": "" if best is None else best["solver"],
        "best_work": math.nan if best is None else best["work"],
        "ratio_without": _ratio(row["counted_without"], best),
        "ratio_with": _ratio(row["counted"], best),
    }


def _ratio(counted: float, best: pd.Series | None) -> float:
    if best is None:
        return math.nan
    return math.inf if math.isnan(counted) else float(counted / best["counted"])
