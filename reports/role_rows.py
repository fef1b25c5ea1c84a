"""The rows of a role page: what the inverse changes, per query and per problem × λ, and what people see."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from reports.formats import number, signed
from reports.rows import in_order

COLUMNS = {
    "multiple": "λ of the solve over the problem's own",
    "query": "number of the query",
    "side": "query: a row about the query itself; with or without: one of its most influential training "
    "examples, by g_iᵀ(H + λI)⁻¹g_q or by g_iᵀg_q",
    "rank": "place of the example, 1 the most influential; 0 the query itself",
    "example": "number of the training example",
    "score": "g_iᵀ(H + λI)⁻¹g_q or g_iᵀg_q",
    "gradient_norm": "‖g‖ of the example or query",
    "norm_rank": "place of the example by ‖g_i‖, 1 the largest",
    "label": "class of the example or query; empty where there are none",
    "text": "its text, of the first ones at the problem's own λ",
    "picture": "its picture likewise, a PNG file in base64",
    "top": "k, most influential examples that are kept",
    "num_ranked": "m, training examples that were ranked",
    "unit": "example or token",
    "solved_damping": "λ of the solve",
    "largest": "λ_max(H), a lower bound by Lanczos",
    "rank_correlation": "Spearman's ρ of the scores with and without the inverse over the m examples",
    "between_with": "mean |ρ| of the scores with the inverse and those of every other query",
    "between_without": "the same without the inverse",
    "status": "how the solve ended",
    "residual": "largest relative residual of the solutions",
    "total_work": "gradient equivalents of the solve",
}
SIDES = ("with", "without")
OWN = 1.0


def per_query(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × λ × seed × query, from its lists: counts of k.

    `same` are in both lists; `class_with` and `class_without` have the query's class, NaN where there are
    none; `norm_with` and `norm_without` are among the k of largest gradient norm.
    """
    found = []
    keys = ["problem", "multiple", "seed", "query"]
    for _, group in rows.groupby(keys, sort=False):
        row = group[group["side"] == "query"].iloc[0].to_dict()
        lists = {side: group[group["side"] == side] for side in SIDES}
        row["same"] = float(len(set(lists["with"]["example"]) & set(lists["without"]["example"])))
        for side, own in lists.items():
            row[f"examples_{side}"] = frozenset(own["example"])
            row[f"class_{side}"] = float((own["label"] == row["label"]).sum()) if row["label"] else math.nan
            row[f"norm_{side}"] = float((own["norm_rank"] <= row["top"]).sum())
        found.append(row)
    return pd.DataFrame(found)


def over_queries(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per problem × λ, by λ: means over queries and seeds of what `per_query` has.

    `rank_correlation` and `same` also have `_low` and `_high`, the smallest and largest. `lists_with` and
    `lists_without` are how many of their k two different queries have in common on average, NaN of one query;
    `kept` how many a query has in common with itself at the next smaller λ; `share` is λ/λ_max; `chance` is
    k²/m, what two lists drawn blindly have in common. `between_change` is by how much mean |ρ| of
    queries is higher with the inverse than without, `between_error` its standard error, NaN of fewer than 3.
    """
    queries = per_query(rows)
    table = []
    for problem in in_order(queries["problem"]):
        own = queries[queries["problem"] == problem].sort_values("multiple", kind="stable")
        before: dict[tuple[float, float], frozenset[float]] = {}
        for multiple, group in own.groupby("multiple"):
            row = group.iloc[0].to_dict()
            row["multiple"] = multiple
            for column in ("rank_correlation", "same"):
                row[f"{column}_low"], row[f"{column}_high"] = group[column].min(), group[column].max()
            means = ["rank_correlation", "same", "total_work", "residual"]
            means += [f"{name}_{side}" for name in ("class", "norm", "between") for side in SIDES]
            row |= group[means].mean().to_dict()
            row["residual"] = group["residual"].max()
            row["queries"] = group["query"].nunique()
            row["between_change"], row["between_error"] = _change(group)
            for side in SIDES:
                row[f"lists_{side}"] = _common(group, f"examples_{side}")
            now = {(r["seed"], r["query"]): r["examples_with"] for _, r in group.iterrows()}
            both = [len(now[key] & before[key]) for key in now if key in before]
            row["kept"] = float(np.mean(both)) if both else math.nan
            before = now
            row["share"] = row["solved_damping"] / row["largest"]
            row["chance"] = row["top"] ** 2 / row["num_ranked"]
            table.append(row)
    return pd.DataFrame(table)


def few(value: float) -> str:
    """A mean of counts in two digits: 6.125 → "6.1", 0.0714 → "0.071", 10 → "10"."""
    return signed(f"{value:.2g}") if abs(value) < 100 else number(value)  # NaN too: "–"


def _change(group: pd.DataFrame) -> tuple[float, float]:
    """The mean over pairs of queries of what |ρ| changes by, and its jackknife error over queries.

    A query's own mean d_q is over its k − 1 pairs; of the pairs that are left without it the mean is
    (k d − 2 d_q)/(k − 2), d the mean over all. Pairs share queries and are not independent. Of a mean over
    pairs the jackknife errs on the side of caution (Efron & Stein 1981).
    """
    changes = (group["between_with"] - group["between_without"]).groupby(group["query"]).mean().to_numpy()
    count, mean = len(changes), float(changes.mean())
    if count < 3:
        return mean, math.nan
    without = (count * mean - 2 * changes) / (count - 2)
    spread = without - without.mean()
    return mean, math.sqrt((count - 1) / count * float((spread**2).sum()))


def _common(group: pd.DataFrame, column: str) -> float:
    """How many examples two lists of different queries share, on average over pairs."""
    counts = [
        len(first & second)
        for _, seed in group.groupby("seed")
        for first, second in combinations(seed[column], 2)
    ]
    return float(np.mean(counts)) if counts else math.nan


@dataclass(frozen=True)
class Shown:
    """An example or a query as people see it; `elsewhere` is its rank in the other list, or None."""

    label: str
    text: str
    picture: str
    score: float
    elsewhere: int | None = None


@dataclass(frozen=True)
class Answer:
    """A query with its most influential examples, with the inverse and without."""

    query: Shown
    given: Mapping[str, Sequence[Shown]]


def answers(rows: pd.DataFrame, problem: str) -> list[Answer]:
    """What can be seen of the problem's queries at its own λ, by the first seed; [] where nothing can."""
    own = rows[(rows["problem"] == problem) & (rows["multiple"] == OWN)]
    own = own[own["seed"] == own["seed"].min()]
    found = []
    for _, group in own.groupby("query"):
        lists = {side: group[group["side"] == side].sort_values("rank") for side in SIDES}
        ranks = {side: dict(zip(each["example"], each["rank"], strict=True)) for side, each in lists.items()}
        given = {
            side: [
                _shown(row, ranks[other].get(row["example"]))
                for _, row in lists[side].iterrows()
                if row["text"] or row["picture"]
            ]
            for side, other in (SIDES, SIDES[::-1])
        }
        query = _shown(group[group["side"] == "query"].iloc[0], None)
        if any(given.values()):
            found.append(Answer(query, given))
    return found


def _shown(row: pd.Series, elsewhere: float | None) -> Shown:
    rank = None if elsewhere is None else int(elsewhere)
    return Shown(row["label"], row["text"], row["picture"], row["score"], rank)
