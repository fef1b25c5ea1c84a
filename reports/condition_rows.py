"""The rows of a condition page: both sides with their errors, one row per problem × batch size."""

import math

import numpy as np
import pandas as pd

COLUMNS = {
    "batch_size": "b, units of a mini-batch",
    "noise": "Tr(E H̃² − H²), measured from pairs of mini-batches",
    "noise_error": "its standard error",
    "trace": "Tr(H)",
    "trace_error": "its standard error; 0 where it is exact",
    "heterogeneity": "C = max Tr(h_i)/Tr(H) over examples, a lower bound; NaN where unknown",
    "heterogeneity_error": "its standard error",
    "largest": "λ_max",
    "noise_constant": "R, the least with E h² ⪯ R (H + λ); NaN where single examples are unknown",
}

# A difference within so many standard errors is none.
_CERTAIN = 2.0


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × batch size: the mean over seeds of `noise`, and the right sides.

    `equal` is Tr(H)²/b, `unequal` C·Tr(H)²/b, `ratio` noise/equal, each with its `_error`; `verdict` and
    `unequal_verdict` are "holds", "fails" or, within two standard errors, "undecided"; "" where unknown.
    `needed` is (R − λ_max)/Tr(H): E h² − H² ⪯ C Tr(H) H holds for no smaller C.
    """
    sides = []
    for _, group in rows.groupby(["problem", "batch_size"], sort=False):
        row = group.iloc[0].copy()
        row["noise"] = group["noise"].mean()
        row["noise_error"] = math.sqrt(group["noise_error"].pow(2).sum()) / len(group)
        trace, unequal = row["trace"], row["heterogeneity"]
        relative = 2 * row["trace_error"] / trace
        row["equal"] = trace**2 / row["batch_size"]
        row["equal_error"] = relative * row["equal"]
        row["unequal"] = unequal * row["equal"]
        row["unequal_error"] = row["unequal"] * math.hypot(relative, row["heterogeneity_error"] / unequal)
        row["ratio"] = row["noise"] / row["equal"]
        # Without noise, as of a single example, there is no relative error either.
        share = row["noise_error"] / row["noise"] if row["noise"] > 0 else 0.0
        row["ratio_error"] = row["ratio"] * math.hypot(share, relative)
        row["verdict"] = _verdict(row, "equal")
        row["unequal_verdict"] = _verdict(row, "unequal")
        row["needed"] = (row["noise_constant"] - row["largest"]) / trace
        sides.append(row.to_dict())
    return pd.DataFrame(sides)


def _verdict(row: pd.Series, side: str) -> str:
    room = row[side] - row["noise"]
    if np.isnan(room):
        return ""
    if abs(room) <= _CERTAIN * math.hypot(row["noise_error"], row[f"{side}_error"]):
        return "undecided"
    return "holds" if room > 0 else "fails"
