"""The rows of a batch-size page: of every batch how its trials ended, and its curve over the steps."""

import math

import numpy as np
import pandas as pd

from reports.formats import number

FIXED, SELF_TUNED, PAPERS_RULE = "fixed", "self-tuned", "paper's rule"

COLUMNS = {
    "method": '"fixed" for a mini-batch size at the full-batch step, "self-tuned" or "paper\'s rule"',
    "batch_size": "b, units of a mini-batch: examples, or tokens of a language model",
    "unit": "example or token",
    "units_per_draw": "1, or the tokens of a sequence on average",
    "trial": "the run's number, of its seed and batch size",
    "step": "t; of a fixed batch the recorded ones, else the last",
    "epochs": "data used: t·b/n of a fixed batch; of the others all work, as passes over the data",
    "work": "gradient equivalents up to there; of the others with set-up",
    "correlation": "Pearson's with the converged influences, over training examples, mean over queries",
    "least_correlation": "that of the worst query",
    "error": "‖x − x*‖/‖x*‖, worst query",
    "diverged": "1 where the run ended beyond twice ‖b‖/λ, which no solution exceeds, else 0",
    "diverged_at": "the step since when it was beyond; NaN where it was not",
    "second_moment": "L_b, the least L with E (H̃ + λ)² ⪯ L (H + λ)",
    "half_step": "ηL_b/2, below 1 where theory calls the batch stable",
    "predicted_floor": "theory's bound of the noise's relative error, ∞ where unstable",
    "largest": "λ_max",
    "trace": "Tr(H)",
    "noise_constant": "R, the least with E h² ⪯ R (H + λ), h one draw",
    "step_size": "η of the fixed batches, 1/(λ_max + λ)",
    "num_steps": "T of the fixed batches",
    "time": "ηλT",
    "sufficient_batch": "b* from R and λ_max: from there on ηL_b/2 ≤ 1 is certain",
    "papers_batch": "Tr(H)/(λ_max + λ)",
    "converged_from": "the correlation from which on a batch counts as converged",
    "num_influences": "training examples over which the correlation is",
    "gradient_bytes": "what their gradients take",
    "start_correlation": "that of gradient similarity, x = b/λ, where every run starts",
    "start_error": "its relative error",
    "reference_error": "a bound of the reference's own relative error",
    "chosen_step_size": "η as the self-tuned solver or the paper's rule chose it",
    "full_data": "1 where the self-tuned solver iterated on all data",
    "status": "how its solve ended",
    "reason": "and why",
    "why": "what the self-tuned solver says of its choice",
}  # fmt: skip

_RUN = ["seed", "trial"]


def fixed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the batches at the full-batch step."""
    return rows[rows["method"] == FIXED]


def over_trials(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × batch size, of the ends of its `num_trials` runs over all seeds.

    A run's `correlation` and `error` are the medians over the steps recorded in its last half: noise moves a
    single one about. `verdict` is "diverges" where half of the runs or more did; else "converges" or
    "stalls", by whether the median correlation, a diverged run's counted as −1, reaches `converged_from`.
    `correlation` is then the median, `low` and `high` the range of those that did not diverge,
    `correlation_error` the mean's standard error; `error` their root mean square. `stable` is ηL_b/2 < 1,
    `enough` b ≥ b*, `agrees` whether what theory calls stable converged and nothing else did.
    """
    found = []
    own_rows = fixed(rows)
    for (problem, batch), group in own_rows.groupby(["problem", "batch_size"], sort=False):
        ends = pd.DataFrame([_end(run) for _, run in group.groupby(_RUN, sort=False)])
        row = ends.iloc[0].copy()
        gone = ends["diverged"] == 1
        kept = ends[~gone]
        row["num_trials"], row["num_diverged"] = len(ends), int(gone.sum())
        row["diverged_at"] = ends["diverged_at"].median()
        row["correlation"] = kept["correlation"].median()
        row["low"], row["high"] = kept["correlation"].min(), kept["correlation"].max()
        spread = kept["correlation"].std()
        row["correlation_error"] = spread / math.sqrt(len(kept)) if len(kept) > 1 else math.nan
        row["error"] = math.sqrt(kept["error"].pow(2).mean()) if len(kept) else math.nan
        row["epochs"], row["work"] = ends["epochs"].max(), ends["work"].max()
        counted = ends["correlation"].where(~gone, -1.0).fillna(-1.0).median()
        row["verdict"] = _verdict(float(gone.mean()), float(counted), row["converged_from"])
        row["stable"] = bool(row["half_step"] < 1)
        row["enough"] = bool(batch >= row["sufficient_batch"])
        row["agrees"] = row["stable"] == (row["verdict"] == "converges")
        row["problem"] = problem
        found.append(row.to_dict())
    frame = pd.DataFrame(found)
    if not len(frame):
        return pd.DataFrame(columns=[*own_rows.columns, "verdict"])
    order = {problem: index for index, problem in enumerate(dict.fromkeys(own_rows["problem"]))}
    return frame.sort_values(
        ["problem", "batch_size"],
        key=lambda values: values.map(order) if values.name == "problem" else values,
        ignore_index=True,
    )


def _end(run: pd.DataFrame) -> pd.Series:
    """The last row of a run, with correlation and error of its last half."""
    end = run.loc[run["step"].idxmax()].copy()
    late = run[run["step"] > end["step"] / 2]
    end["correlation"], end["error"] = late["correlation"].median(), late["error"].median()
    return end


def over_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × batch size × recorded step: the correlation's median; quartiles `low` and `high`.

    Of the runs that have not been cut off; steps that fewer than half of the runs reach are left out.
    """
    found = []
    for (problem, batch), group in fixed(rows).groupby(["problem", "batch_size"], sort=False):
        runs = group.groupby(_RUN).ngroups
        for step, at in group.groupby("step"):
            values = at["correlation"].dropna()
            if 2 * len(values) < runs or not len(values):
                continue
            found.append(
                {
                    "problem": problem,
                    "batch_size": batch,
                    "step": step,
                    "epochs": at["epochs"].iloc[0],
                    "correlation": float(np.median(values)),
                    "low": values.quantile(0.25),
                    "high": values.quantile(0.75),
                }
            )
    columns = ["problem", "batch_size", "step", "epochs", "correlation", "low", "high"]
    return pd.DataFrame(found, columns=columns)


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × way of choosing settings: medians over seeds, and the correlation's range."""
    others = rows[rows["method"] != FIXED]
    found = []
    for _, group in others.groupby(["problem", "method"], sort=False):
        row = group.iloc[0].copy()
        for name in ("step", "epochs", "work", "correlation", "error"):
            row[name] = group[name].median()
        row["low"], row["high"] = group["correlation"].min(), group["correlation"].max()
        found.append(row.to_dict())
    return pd.DataFrame(found, columns=[*others.columns, "low", "high"])


def correlation_text(value: float) -> str:
    """Three decimals, four from 0.995 on, where they differ: 0.9123 → "0.912", 0.99984 → "0.9998"."""
    if not math.isfinite(value):
        return number(value)
    return f"{value:.4f}" if 0.995 <= value < 0.99995 else f"{value:.3f}"


def _verdict(share_diverged: float, correlation: float, converged_from: float) -> str:
    if share_diverged >= 0.5:
        return "diverges"
    return "converges" if correlation >= converged_from else "stalls"
