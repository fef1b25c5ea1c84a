"""The rows of a batch-size page: of every batch how its trials ended, and its curve over the steps."""

import math

import numpy as np
import pandas as pd

from reports.formats import number, signed

FIXED, SELF_TUNED, PAPERS_RULE = "fixed", "self-tuned", "paper's rule"
# e^−3 is what is left of the flattest direction of the start at ηλT = 3: below, a stall tells nothing.
SHORT = 3.0

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
    "second_moment": "L_b, the least L with E (H̃ + λ)² ⪯ L (H + λ): an estimate from below",
    "half_step": "ηL_b/2 by the estimated L_b, below 1 where theory calls the batch stable",
    "predicted_floor": "theory's bound of the noise's relative error, by the estimated L_b; ∞ where unstable",
    "largest": "λ_max",
    "trace": "Tr(H)",
    "noise_constant": "R, the least with E h² ⪯ R (H + λ), h one draw: an estimate from below",
    "step_size": "η of the fixed batches, 1/(λ_max + λ)",
    "num_steps": "T of the fixed batches",
    "time": "ηλT",
    "sufficient_batch": "b*, from where on ηL_b/2 ≤ 1: an estimate from those of R and λ_max",
    "papers_batch": "Tr(H)/(λ_max + λ)",
    "converged_from": "the correlation from which on a batch converged, if the start's is no higher",
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
    "stalls", by whether the median correlation, a diverged run's counted as −1, reaches `converged_from` and
    is no lower than the start's. `decided` is false of a batch that stalls in too few steps for it to tell.
    `correlation` is then the median, `low` and `high` the range of those that did not diverge,
    `correlation_error` the mean's standard error; `error` their root mean square. `stable` is ηL_b/2 < 1,
    `enough` b ≥ b*, `enough_by_rule` b ≥ Tr(H)/(λ_max + λ), `agrees` whether what theory
    calls stable converged and nothing else did.
    """
    found = []
    own_rows = fixed(rows)
    for (problem, batch), group in own_rows.groupby(["problem", "batch_size"], sort=False):
        ends = pd.DataFrame([_end(run) for _, run in group.groupby(_RUN, sort=False)])
        row = ends.iloc[0].copy()
        gone = _gone(ends)
        kept = ends[~gone]
        row["num_trials"], row["num_diverged"] = len(ends), int(gone.sum())
        row["diverged_at"] = ends["diverged_at"].median()
        row["correlation"] = kept["correlation"].median()
        row["low"], row["high"] = kept["correlation"].min(), kept["correlation"].max()
        spread = kept["correlation"].std()
        row["correlation_error"] = spread / math.sqrt(len(kept)) if len(kept) > 1 else math.nan
        row["error"] = math.sqrt(kept["error"].pow(2).mean()) if len(kept) else math.nan
        row["epochs"], row["work"] = ends["epochs"].max(), ends["work"].max()
        row["verdict"] = _verdict(ends)
        row["decided"] = bool(row["verdict"] != "stalls" or row["time"] >= SHORT)
        row["stable"] = bool(row["half_step"] < 1)
        row["enough"] = bool(batch >= row["sufficient_batch"])
        row["enough_by_rule"] = bool(batch >= row["papers_batch"])
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
    """One row per problem × way of choosing settings: medians over its `num_trials` seeds.

    `correlation` and its range `low` to `high`, and `error`, are of those that did not diverge, in which a
    seed without a number counts as diverged; `verdict` is judged as that of a batch.
    """
    others = rows[rows["method"] != FIXED]
    found = []
    for _, group in others.groupby(["problem", "method"], sort=False):
        row = group.iloc[0].copy()
        gone = _gone(group) | group["correlation"].isna()
        kept = group[~gone]
        for name in ("step", "epochs", "work"):
            row[name] = group[name].median()
        for name in ("correlation", "error"):
            row[name] = kept[name].median()
        row["low"], row["high"] = kept["correlation"].min(), kept["correlation"].max()
        row["num_trials"], row["num_diverged"] = len(group), int(gone.sum())
        row["verdict"] = _verdict(group.assign(diverged=gone.astype(float)))
        found.append(row.to_dict())
    added = ["low", "high", "num_trials", "num_diverged", "verdict"]
    return pd.DataFrame(found, columns=[*others.columns, *added])


def correlation_text(value: float) -> str:
    """Three decimals, four from 0.995 on, where they differ: 0.9123 → "0.912", 0.99984 → "0.9998"."""
    if not math.isfinite(value):
        return number(value)
    return f"{value:.4f}" if 0.995 <= value < 0.99995 else signed(f"{value:.3f}")


def _gone(ends: pd.DataFrame) -> pd.Series:
    return (ends["diverged"] == 1) | (ends.get("status", "") == "diverged")


def _verdict(ends: pd.DataFrame) -> str:
    """Of runs on one problem: by how many diverged, and by the median of the correlations they ended at."""
    gone = _gone(ends)
    if gone.mean() >= 0.5:
        return "diverges"
    median = ends["correlation"].where(~gone, -1.0).fillna(-1.0).median()
    # A start that has no correlation asks for nothing.
    start = ends["start_correlation"].fillna(-1.0).iloc[0]
    return "converges" if median >= max(ends["converged_from"].iloc[0], start) else "stalls"
