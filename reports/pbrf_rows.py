"""The rows of a pbrf page: how influences agree with responses, per training example and per problem × λ."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.formats import number
from reports.rows import in_order

COLUMNS = {
    "multiple": "λ of influences and responses over the problem's own",
    "solved_damping": "that λ",
    "example": "number of the training example, of H's",
    "label": "its class; empty where there are none",
    "picture": "its picture, a PNG file in base64",
    "epsilon": "ε of the response that is compared with",
    "num_queries": "queries, over which correlations are",
    "pearson": "Pearson's correlation of the solver's influences and the response's",
    "pearson_low": "lower end of its 95 % bootstrap interval over queries",
    "pearson_high": "upper end",
    "spearman": "Spearman's, likewise",
    "pearson_limit": "Pearson's with the limit ε → 0",
    "slope": "least-squares slope of influences over responses",
    "difference": "‖influences − responses‖/‖responses‖ over queries",
    "difference_limit": "the same with the limit ε → 0",
    "nonlinearity": "‖responses − limit‖/‖limit‖",
    "limit_error": "by how much the last order of extrapolation moved the limit, likewise",
    "strength": "largest |response| of all queries",
    "converged": "1 where the response at that ε converged, else 0",
    "num_converged": "how many of the responses at all ε converged",
    "num_responses": "how many there are",
    "why": "why one did not",
    "relative_gradient": "‖∇Φ‖ at the end over its value at the start",
    "displacement_error": "relative error of the response's θ − θˢ at most, if Φ is as convex on the way",
    "floor": "where the smallest eigenvalue of ∇²Φ lies at least, at the start",
    "response_work": "gradient equivalents of the example's responses",
    "response_seconds": "seconds of the example's responses",
    "solver": "the solver that is judged",
    "status": "how its solve ended",
    "estimated_error": "what it says of its own error; absent where it says nothing",
    "residual": "its relative residual of the example's gradient",
    "error": "its relative error, where a reference is known",
    "total_work": "gradient equivalents of its solve for all examples",
    "total_seconds": "seconds of that",
    "scores": "the solver's influences on all queries, JSON",
    "responses": "the responses' at that ε, JSON",
}
OWN = 1.0
# The correlation from which on we say that two agree; the paper names none.
AGREES = 0.95
# How a solve ends that did what it promised.
REACHED = ("converged", "finished")


@dataclass(frozen=True)
class Panel:
    """One training example: what people see, its correlation, and the points (q,) of its scatter."""

    example: int
    label: str
    picture: str
    pearson: float
    scores: np.ndarray
    responses: np.ndarray
    why: str


def shown_multiple(rows: pd.DataFrame, problem: str) -> float:
    """The λ whose scatters are drawn: the problem's own, or the nearest to it."""
    multiples = sorted(set(rows.loc[rows["problem"] == problem, "multiple"]))
    return min(multiples, key=lambda multiple: abs(math.log(multiple)))


def panels(rows: pd.DataFrame, problem: str, multiple: float) -> list[Panel]:
    """The examples of the first seed, in order."""
    own = rows[(rows["problem"] == problem) & (rows["multiple"] == multiple)]
    own = own[own["seed"] == own["seed"].min()].sort_values("example")
    return [
        Panel(
            int(row["example"]),
            row["label"],
            row["picture"],
            row["pearson"],
            _numbers(row["scores"]),
            _numbers(row["responses"]),
            row["why"],
        )
        for _, row in own.iterrows()
    ]


def over_examples(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × λ, largest λ first: medians over examples of what has converged.

    An example's are its own medians over seeds. `pearson` also has `_least` and `_most`, and its median over
    all examples lies from `_lowest` to `_highest`, whatever those without one might have; `agree` is how many
    of the `examples` reach AGREES, `judged` how many have a correlation, `answered` how many a response that
    converged. `work` and `seconds` are the responses', sums over examples; responses are the same for every
    seed. `total_work` and `total_seconds` are means over seeds, the `status` that of a seed that missed.
    """
    medians = [
        "pearson", "spearman", "pearson_limit", "slope", "difference", "difference_limit", "nonlinearity",
        "limit_error", "displacement_error",
    ]  # fmt: skip
    table = []
    for problem in in_order(rows["problem"]):
        of_problem = rows[rows["problem"] == problem]
        for _, group in of_problem.groupby(-of_problem["multiple"]):
            row = group.iloc[0].to_dict()
            answered = group[group["converged"] == 1]
            examples = group.groupby("example")[medians].median()
            examples["displacement_error"] = answered.groupby("example")["displacement_error"].median()
            row |= examples.median().to_dict()
            pearson = examples["pearson"]
            row["pearson_least"], row["pearson_most"] = pearson.min(), pearson.max()
            row["pearson_lowest"], row["pearson_highest"] = (pearson.fillna(end).median() for end in (-1, 1))
            row["examples"] = float(len(examples))
            row["answered"] = float(answered["example"].nunique())
            row["judged"] = float(pearson.notna().sum())
            row["agree"] = float((pearson >= AGREES).sum())
            row["doubtful"] = float(answered.loc[answered["floor"] <= 0, "example"].nunique())
            row["worst_residual"] = group["residual"].max()
            row["worst_error"] = group["error"].max()
            row["worst_gradient"] = answered["relative_gradient"].max()
            once = group.drop_duplicates("example")
            row["num_converged"] = once["num_converged"].sum()
            row["num_responses"] = once["num_responses"].sum()
            row["work"], row["seconds"] = once["response_work"].sum(), once["response_seconds"].sum()
            whys = [why for why in once["why"] if why]
            row["why"] = whys[0] if whys else ""
            solves = group.drop_duplicates("seed")
            row["seeds"] = float(len(solves))
            row["total_work"], row["total_seconds"] = solves[["total_work", "total_seconds"]].mean()
            row["estimated_error"] = solves["estimated_error"].max()
            missed = solves.loc[~solves["status"].isin(REACHED), "status"]
            row["status"] = missed.iloc[0] if len(missed) else row["status"]
            table.append(row)
    return pd.DataFrame(table)


def _numbers(text: str) -> np.ndarray:
    return np.array(json.loads(text or "[]"), dtype=float)


def correlation(value: float) -> str:
    """Three decimals, and no 1 that is none; four where the third says 0.999."""
    if math.isnan(value):
        return number(value)
    digits = 10_000 if 0.999 <= abs(value) < 1 else 1000
    cut = math.floor(abs(value) * digits) / digits
    return f"{'−' if value < 0 else ''}{cut:.{4 if digits > 1000 else 3}f}"
