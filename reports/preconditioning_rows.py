"""The rows of a preconditioning page: what each run took to each target, beside the plain method."""

import math
from typing import Any

import pandas as pd

CG, LISSA = "cg", "lissa"
# The method by itself; and with what no preconditioner by layers can surpass.
PLAIN, BLOCKS = "none", "block_diagonal"
# The claim: a third of what the plain method takes.
SHARE = 1 / 3

COLUMNS = {
    "method": "cg or lissa",
    "preconditioner": "P; none for the plain method",
    "num_columns": "k, right-hand sides",
    "condition": "κ = (λ_max + λ)/(λ_min + λ)",
    "largest": "λ_max",
    "effective_dimension": "d(λ) = Tr H(H + λ)⁻¹",
    "target": "relative error of the worst column: in CG's rows that which this step is the first to reach, "
    "in LiSSA's the one asked for; NaN in rows that are points of the path",
    "step": "steps; NaN where the target was not reached",
    "products": "CG: products of H with one column over all data until then, the set-up's included",
    "work": "gradient equivalents until then, the set-up's included",
    "error": "relative error ‖x − x*‖/‖x*‖ there, worst column",
    "setup_work": "gradient equivalents of the set-up",
    "setup_products": "products of H with one column in the set-up of P",
    "rank": "of a Nyström sketch",
    "preconditioned_condition": "κ of P^-½(H + λ)P^-½, exact",
    "preconditioned_smallest": "its smallest eigenvalue",
    "preconditioned_largest": "its largest eigenvalue",
    "predicted_condition": "its κ as the set-up predicts it, 1 + ‖H − Ĥ‖/λ",
    "planned_steps": "T that LiSSA chose",
    "batch_size": "its b; n for all data",
    "chains": "its chains",
    "step_size": "its η",
    "noise_constant": "R, the least with E h'² ⪯ R (H' + damping) in P's coordinates",
    "pilot_work": "gradient equivalents of its pilot",
    "status": "how the run ended",
    "reason": "why",
    "why": "why LiSSA chose what it chose",
}
_TEXT = ["method", "preconditioner", "status", "reason", "why"]
_KEY = ["problem", "method", "preconditioner", "target"]
# A run that ended so has no answer.
NO_ANSWER = frozenset({"breakdown", "diverged", "failed", "skipped"})


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × method × preconditioner × target, the median over seeds, beside the plain method.

    `set_up` is the set-up in products with one column: those it makes, or where it makes none as many as its
    work would buy in plain CG's. `all_products` are the solve's and these. `steps_ratio`, `ratio` (of all
    products; of LiSSA's steps) and `work_ratio` are over the plain method's. `break_even` is the number k of
    right-hand sides from which on S + k·t_P is at most SHARE · k·t: ∞ where a solve alone takes more.
    `met`: the target was reached. `bounded`: the plain method did not, so that the ratios are upper bounds,
    and 0 where it gave no answer at all. `verdict`: "holds", "shared" (from break_even on), "fails", or "" of
    the plain method itself and what was skipped.
    """
    ends = rows[rows["target"].notna()]
    told = []
    for _, group in ends.groupby(_KEY, sort=False):
        row = group.iloc[0].copy()
        numbers = [column for column in COLUMNS if column not in _TEXT]
        # A seed that did not get there counts as infinitely many steps.
        for column in ("step", "products", "work"):
            group = group.assign(**{column: group[column].fillna(math.inf)})
        row[numbers] = group[numbers].median()
        row["status"] = group["status"].max() if set(group["status"]) & NO_ANSWER else row["status"]
        row["met"] = bool(row["error"] <= row["target"]) and row["status"] not in NO_ANSWER
        told.append(row.to_dict())
    frame = pd.DataFrame(told)
    return pd.DataFrame([_beside(row, _plain(frame, row)) for _, row in frame.iterrows()])


def _plain(frame: pd.DataFrame, row: pd.Series) -> pd.Series | None:
    same = frame[(frame[["problem", "method", "target"]] == row[["problem", "method", "target"]]).all(axis=1)]
    own = same[same["preconditioner"] == PLAIN]
    return own.iloc[0] if len(own) else None


def _beside(row: pd.Series, plain: pd.Series | None) -> dict[str, Any]:
    names = ("set_up", "all_products", "steps_ratio", "ratio", "work_ratio", "break_even")
    unknown: dict[str, Any] = {**dict.fromkeys(names, math.nan), "bounded": False, "verdict": ""}
    if plain is None or row["preconditioner"] == PLAIN:
        return {**row, **unknown, "set_up": 0.0, "all_products": row["products"]}
    found = unknown | {"bounded": not plain["met"]}
    refused = plain["status"] in NO_ANSWER
    found["steps_ratio"] = 0.0 if refused else row["step"] / plain["step"]
    found["work_ratio"] = 0.0 if refused else row["work"] / plain["work"]
    if row["method"] == LISSA:
        found["ratio"] = found["steps_ratio"]
        found["verdict"] = _word(row, found["ratio"], math.inf)
        return {**row, **found}
    made = row["setup_products"]
    set_up = made if made > 0 else row["setup_work"] * plain["products"] / plain["work"]
    found["set_up"] = set_up
    found["all_products"] = row["products"] - made + set_up
    found["ratio"] = found["all_products"] / plain["products"]
    room = SHARE * plain["step"] - row["step"]
    found["break_even"] = math.ceil(set_up / room) if 0 < room < math.inf else math.inf
    found["verdict"] = _word(row, found["ratio"], found["break_even"])
    return {**row, **found}


def _word(row: pd.Series, ratio: float, break_even: float) -> str:
    if row["status"] == "skipped":
        return ""
    if row["met"] and ratio <= SHARE:
        return "holds"
    return "shared" if row["met"] and math.isfinite(break_even) else "fails"
