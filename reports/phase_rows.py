"""The rows of a phase page: what theory predicts of each solve, how it ended, and where the edge lies."""

import numpy as np
import pandas as pd

COLUMNS = {
    "batch_size": "b, units of a mini-batch: examples, or tokens of a language model",
    "unit": "example or token",
    "units_per_draw": "1, or the tokens of a sequence on average",
    "step_fraction": "η(λ_max + λ)",
    "step_size": "η",
    "num_steps": "T",
    "time": "ηλT",
    "asked_time": "the ηλT that was asked for; T is cut short at max_steps",
    "status": "how the solve ended",
    "error": "‖u_T − u*‖/‖u*‖ of the worst column; ∞ where not finite",
    "start_error": "‖u_0 − u*‖/‖u*‖ of the worst column, u_0 = b/λ",
    "bias": "‖E u_T − u*‖/‖u*‖ of the worst column, exactly or, where p is large, by Lanczos",
    "noise": "‖u_T − E u_T‖/‖u*‖ of the worst column; ∞ where the solve was stopped",
    "noise_over_small_step_floor": "‖u_T − E u_T‖/√(ηΔ̃/2λ), root mean square over columns",
    "largest": "λ_max",
    "second_moment": "L_b, the least with E (H̃ + λ)² ⪯ L (H + λ), by LOBPCG, from below",
    "noise_constant": "R, the least with E h² ⪯ R (H + λ), h one example, or sequence",
    "sufficient_batch": "b* in units, from which L_b ≤ 2(λ_max + λ); of whole sequences",
    "threshold": "η*, below which the second moment contracts, exactly; NaN where out of reach",
    "mean_limit": "2/(λ_max + λ)",
    "predicted_floor": "theory's bound of the noise relative to ‖u*‖, worst column; ∞ where unstable",
    "predicted_error": "theory's bound of the root mean square error relative to ‖u*‖, worst column",
}

STABLE, CONTRACTS, GROWS, OPEN, NO_MEAN = (
    "η < 2/L_b",
    "2/L_b ≤ η < η*",
    "η* ≤ η < 2/(λ_max + λ)",
    "2/L_b ≤ η < 2/(λ_max + λ), η* unknown",
    "η ≥ 2/(λ_max + λ)",
)
# What theory says of a solve, by its step size.
CLASSES = {
    STABLE: "stable in mean square: sufficient",
    CONTRACTS: "the second moment still contracts, exactly",
    GROWS: "the second moment grows; single paths may not",
    OPEN: "more than is sufficient; theory leaves it open",
    NO_MEAN: "the mean itself does not converge",
}
_KEY = ["problem", "batch_size", "step_fraction"]
# 2/(λ_max + λ) is itself on the grid; rounding must not decide on which side it falls.
_ROUNDING = 1 - 1e-9


def classified(rows: pd.DataFrame) -> pd.DataFrame:
    """The solves with `predicted`, one of CLASSES, `diverged`, and `half_step`, ηL_b/2.

    Diverged is what solve() stopped or refused, and what ended further from u* than both where it began and
    x = 0 lie.
    """
    solves = rows.copy()
    step = solves["step_size"]
    solves["half_step"] = step * solves["second_moment"] / 2
    solves["diverged"] = (solves["status"] != "finished") | (
        solves["error"] > np.maximum(solves["start_error"], 1.0)
    )
    known = solves["threshold"].notna()
    solves["predicted"] = np.select(
        [
            step >= solves["mean_limit"] * _ROUNDING,
            solves["half_step"] < 1,
            known & (step < solves["threshold"]),
            known,
        ],
        [NO_MEAN, STABLE, CONTRACTS, GROWS],
        OPEN,
    )
    return solves


def over_seeds(solves: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × b × η: root mean squares over seeds of the errors, `share_diverged`.

    A seed that diverged makes them infinite: theory speaks of the mean square.
    """
    grid = []
    for _, group in solves.groupby(_KEY, sort=False):
        row = group.iloc[0].copy()
        row["share_diverged"] = group["diverged"].mean()
        for column in ("error", "noise", "noise_over_small_step_floor"):
            values = group[column].where(~group["diverged"], np.inf)
            row[column] = float(np.sqrt(np.square(values).mean()))
        grid.append(row.to_dict())
    return pd.DataFrame(grid)


def edges(solves: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × b, step sizes in units of 1/(λ_max + λ).

    `sufficient` is 2/L_b, `exact` η*, `last_bounded` the largest step size up to which no seed diverged,
    `first_diverged` the smallest from which on most seeds did; NaN where there is none.
    """
    found = []
    for (problem, batch), group in solves.groupby(["problem", "batch_size"], sort=False):
        first = group.iloc[0]
        unit = first["step_fraction"] / first["step_size"]
        shares = group.groupby("step_fraction")["diverged"].mean().sort_index()
        any_diverged, most = shares[shares > 0], shares[shares <= 0.5]
        bounded = shares[shares.index < any_diverged.index.min()] if len(any_diverged) else shares
        beyond = shares[shares.index > most.index.max()] if len(most) else shares
        found.append(
            {
                "problem": problem,
                "batch_size": batch,
                "second_moment": first["second_moment"],
                "sufficient": 2 / first["second_moment"] * unit,
                "exact": first["threshold"] * unit,
                "last_bounded": bounded.index.max() if len(bounded) else np.nan,
                "first_diverged": beyond.index.min() if len(beyond) else np.nan,
            }
        )
    return pd.DataFrame(found)
