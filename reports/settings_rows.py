"""The rows of a settings page, and the settings that the paper publishes."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.formats import count

COLUMNS = {
    "rule": "paper: Klochkov & Liu (2024); sharp: from L_b, R and a pilot on b",
    "target": "relative error that was asked for",
    "status": "how the solve ended",
    "reason": "why",
    "error": "‖u − u*‖/‖u*‖ of the worst column; NaN where there is no reference or no answer",
    "total_work": "gradient equivalents, set-up included",
    "setup_work": "of which set-up",
    "step_size": "η",
    "batch_size": "b, examples or tokens; n where all data are used",
    "full_data": "1 where every step uses all data",
    "num_steps": "T of a chain",
    "chains": "independent chains that are averaged",
    "predicted_error": "what the rule predicted; NaN where it predicts nothing",
    "estimated_error": "what the solver estimated at its end",
    "back_offs": "how often the step was cut after the run ran away",
    "why": "why these settings, in the solver's words",
    "measured_largest": "λ_max",
    "measured_trace": "Tr(H)",
    "measured_trace_error": "its standard error; 0 where it is exact",
    "unit": "example or token: what b and n count",
    "units_per_draw": "1, or the tokens of a sequence on average",
    "measured_heterogeneity": "C = max Tr(h_i)/Tr(H) over examples, or whole sequences, a lower bound",
    "measured_heterogeneity_error": "its standard error",
    "measured_noise_constant": "R, the least with E h² ⪯ R (H + λ), h one example, or sequence",
}
# What is known of the paper's rule alone, where there is a reference; the first of all.
DECOMPOSITION = {
    "reference_error": "what u* itself may be off, relative to ‖u*‖; 0, but for rounding, if dense",
    "bias": "‖E u_T − u*‖/‖u*‖ of the worst column, exactly or, where p is large, by Lanczos",
    "noise": "‖u_T − E u_T‖/‖u*‖ of the worst column",
    "bias_from_rhs": "‖E u_T − u*‖ relative to ‖b‖/λ, worst column",
    "bias_bound": "theory's bound of it, e^{−a} min(1, 1/(e a)), a = ηλT",
    "solution_share": "‖u*‖ relative to ‖b‖/λ, smallest column",
    "half_step_second_moment": "ηL_b/2; below 1 sampling is stable in mean square. L_b by LOBPCG, from "
    "below, of at most 4,096 draws",
}

PAPER, SHARP = "paper", "sharp"
# Of those that give no answer the one status that tells of the settings: the run ran away.
DIVERGED = "diverged"


@dataclass(frozen=True)
class Published:
    """One row of the paper's settings, for λ = 5; the batch in examples of images or tokens of text."""

    model: str
    parameters: str
    data: str
    step_size: float
    num_steps: int
    batch: str
    damping: float = 5.0

    @property
    def time(self) -> float:
        """ηλT."""
        return self.step_size * self.damping * self.num_steps


# Klochkov & Liu, Revisiting inverse Hessian vector products for calculating influence functions, 2024.
PUBLISHED = (
    Published("ResNet-18", "11M", "ImageNet", 0.003, 150, "100 images"),
    Published("ResNet-50", "25M", "ImageNet", 0.002, 200, "5 images"),
    Published("OPT-1.3B", "1.3B", "OpenWebText", 0.001, 500, "30 tokens"),
    Published("Llama-1 7B", "7B", "OpenWebText", 0.0005, 1000, "50 tokens"),
    Published("Mistral 7B", "7B", "OpenWebText", 0.0002, 2000, "200 tokens"),
)


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × rule: medians over its seeds; `usable` where every seed gave an answer, `met`.

    `status` and `reason` are those of the first seed that gave none, if any. What single rows lack of
    DECOMPOSITION is NaN.
    """
    rows = rows.copy()
    for column in DECOMPOSITION:
        rows[column] = pd.to_numeric(rows[column]).astype(float) if column in rows else np.nan
    rows["usable"] = rows["status"].isin(["finished", "converged", "budget_spent"])
    found = []
    for _, group in rows.groupby(["problem", "rule"], sort=False):
        row = group.sort_values("usable", kind="stable").iloc[0].copy()
        for column in ("error", "noise", "total_work", "num_steps", "estimated_error", "predicted_error"):
            row[column] = group[column].median()
        row["usable"] = bool(group["usable"].all())
        row["met"] = bool(row["usable"] and row["error"] <= row["target"])
        row["seeds"] = len(group)
        found.append(row.to_dict())
    return pd.DataFrame(found)


def units(row: pd.Series) -> str:
    """The batch size with its unit where that is not the example: "16", "30 tokens"."""
    return f"{count(row['batch_size'])}{' tokens' if row['unit'] == 'token' else ''}"
