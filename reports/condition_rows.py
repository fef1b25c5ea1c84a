"""The rows of a condition page: both sides with their errors, one row per problem × batch size."""

import math

import numpy as np
import pandas as pd

COLUMNS = {
    "batch_size": "b, units of a mini-batch: examples, or tokens of a language model",
    "unit": "example or token",
    "units_per_draw": "1, or the tokens of a sequence on average",
    "pairs": "pairs of mini-batches that the noise was measured from; 0: from all draws",
    "noise": "Tr(E H̃² − H²)",
    "noise_error": "its standard error",
    "trace": "Tr(H)",
    "trace_error": "its standard error; 0 where it is exact",
    "heterogeneity": "max Tr(h)/Tr(H) over draws h, examples or whole sequences, a lower bound; NaN where "
    "unknown. C is this times units_per_draw",
    "heterogeneity_error": "its standard error",
    "largest": "λ_max",
    "noise_constant": "R, the least with E h² ⪯ R (H + λ), h one draw; NaN where single examples are unknown",
    "sequence_worth": "independent tokens that a sequence is worth by its noise; NaN where there are none",
    "sequence_worth_error": "its standard error",
}

# A difference within so many standard errors is none.
_CERTAIN = 2.0


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × batch size: the mean over seeds of `noise`, and the right sides.

    Where the noise is that of all draws every seed has the same number, of which seeds tell no more.
    `constant` is C in units, N·max Tr(g)/Tr(H) of sequences g of N tokens: of b/N of them Tr(E H̃² − H²) ≤
    Tr(E g²)/(b/N) ≤ E Tr(g)²/(b/N) ≤ C Tr(H)²/b, and of parts of k tokens too, since none exceeds N/k times
    its sequence (but for rounding of k). `equal` is Tr(H)²/b, `unequal` C·Tr(H)²/b, `ratio` noise/equal, each
    with its `_error`; `verdict` and `unequal_verdict` are "holds", "fails" or, within two standard errors,
    "undecided"; "" where unknown. `needed` is N (R − λ_max)/Tr(H): N (E g² − H²) ⪯ C Tr(H) H holds for no
    smaller C. λ_max is taken with what the Ritz value may be short of it, its residual, so that C errs low.
    """
    sides = []
    for _, group in rows.groupby(["problem", "batch_size"], sort=False):
        row = group.iloc[0].copy()
        of_all = group[group["pairs"] == 0]
        if len(of_all):
            row["noise"], row["noise_error"] = of_all["noise"].iloc[0], of_all["noise_error"].iloc[0]
        else:
            row["noise"] = group["noise"].mean()
            row["noise_error"] = math.sqrt(group["noise_error"].pow(2).sum()) / len(group)
        trace, length = row["trace"], row["units_per_draw"]
        unequal, unequal_error = (length * row[name] for name in ("heterogeneity", "heterogeneity_error"))
        row["constant"], row["constant_error"] = unequal, unequal_error
        relative = 2 * row["trace_error"] / trace
        row["equal"] = trace**2 / row["batch_size"]
        row["equal_error"] = relative * row["equal"]
        row["unequal"] = unequal * row["equal"]
        row["unequal_error"] = row["unequal"] * math.hypot(relative, unequal_error / unequal)
        row["ratio"] = row["noise"] / row["equal"]
        # Without noise, as of a single example, there is no relative error either.
        share = row["noise_error"] / row["noise"] if row["noise"] > 0 else 0.0
        row["ratio_error"] = row["ratio"] * math.hypot(share, relative)
        row["verdict"] = _verdict(row, "equal")
        row["unequal_verdict"] = _verdict(row, "unequal")
        largest = row["largest"] + row.get("largest_residual", 0.0)
        row["needed"] = length * (row["noise_constant"] - largest) / trace
        sides.append(row.to_dict())
    return pd.DataFrame(sides)


def _verdict(row: pd.Series, side: str) -> str:
    room = row[side] - row["noise"]
    if np.isnan(room):
        return ""
    if abs(room) <= _CERTAIN * math.hypot(row["noise_error"], row[f"{side}_error"]):
        return "undecided"
    return "holds" if room > 0 else "fails"
