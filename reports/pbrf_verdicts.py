"""Are the influences right? A paragraph per problem, and what is claimed: by the paper, and by us."""

import math
from collections.abc import Callable

import pandas as pd

from reports.conclusions import Conclusion, together
from reports.formats import count, duration, listed, number, setting, share
from reports.pbrf_rows import AGREES, OWN, REACHED, correlation, over_examples
from reports.rows import in_order

# By no more may the response at the paper's ε be off its limit, for a correlation to say anything of either.
NEAR = 0.05


def findings(rows: pd.DataFrame) -> dict[str, str]:
    """A paragraph for each problem, in their order."""
    table = over_examples(rows)
    found = {}
    for problem in in_order(table["problem"]):
        own = table[table["problem"] == problem]
        parts = [_agreement(row) for _, row in own.iterrows()]
        parts += [_change(own), _linear(own), _certificate(own), _missed(own)]
        found[problem] = " ".join(part for part in parts if part)
    return found


def conclusions(rows: pd.DataFrame) -> list[Conclusion]:
    """What the paper says by Figures 1 and 5, and what must hold besides."""
    table = over_examples(rows)
    own = table[table["multiple"] == OWN]
    lower = table[table["multiple"] < OWN]
    lowest = lower.loc[lower.groupby("problem", sort=False)["multiple"].idxmin()] if len(lower) else lower
    epsilon = setting(table["epsilon"].iloc[0])
    return [
        Conclusion(
            "Influences agree with the proximal Bregman response (judged by us: a correlation of "
            f"{AGREES} or more on the median training example)",
            "Figures 1 and 5",
            together(_agrees(row) for _, row in own.iterrows()),
            _each(own, _correlations, "Nothing was measured at the problems' own λ."),
        ),
        Conclusion(
            "They agree so at a smaller λ too",
            "",
            together(_agrees(row) for _, row in lowest.iterrows()),
            _each(lowest, _correlations, "Nothing was measured at a smaller λ."),
        ),
        Conclusion(
            f"At ε = {epsilon} the response is near its limit: {share(NEAR)} off or less on the median "
            "training example",
            "",
            together(_is_near(row) for _, row in own.iterrows()),
            _each(
                own,
                lambda row: (
                    f"{_share(row['nonlinearity'])} off its limit{_error(row['limit_error'])} at "
                    f"λ = {setting(row['solved_damping'])}"
                ),
                "Nothing was measured at the problems' own λ.",
            ),
        ),
    ]


def _agrees(row: pd.Series) -> bool | None:
    """None where examples without a correlation might decide it either way."""
    if row["pearson_lowest"] >= AGREES:
        return True
    return False if row["pearson_highest"] < AGREES else None


def _is_near(row: pd.Series) -> bool | None:
    """None where the limit is not known so well."""
    off, error = row["nonlinearity"], row["limit_error"]
    if off + error <= NEAR:
        return True
    return False if off - error > NEAR else None


def _correlations(row: pd.Series) -> str:
    at = f"at λ = {setting(row['solved_damping'])}"
    if math.isnan(row["pearson"]):
        same = "influences or responses are the same for all queries"
        return f"{same if row['answered'] else 'no response had converged'} {at}"
    missing = row["examples"] - row["judged"]
    return (
        f"{correlation(row['pearson'])} {at}, {count(row['agree'])} of {count(row['judged'])} examples at "
        f"{AGREES} or more{f'; {count(missing)} more had no correlation' if missing else ''}"
    )


def _each(table: pd.DataFrame, tell: Callable[[pd.Series], str], nothing: str) -> str:
    """A clause for each problem."""
    clauses = [f"{row['problem']}: {tell(row)}" for _, row in table.iterrows()]
    return f"{'; '.join(clauses)}." if clauses else nothing


def _agreement(row: pd.Series) -> str:
    at = f"At λ = {setting(row['solved_damping'])}{', the problem’s own,' if row['multiple'] == OWN else ''}"
    if not row["answered"]:
        return f"{at} no response at ε = {setting(row['epsilon'])} converged, so nothing is judged."
    if math.isnan(row["pearson"]):
        return (
            f"{at} influences by {row['solver']}, or their responses at ε = {setting(row['epsilon'])}, are "
            "the same for all queries, so they have no correlation."
        )
    over = ""
    if row["judged"] > 1:
        over = f" ({correlation(row['pearson_least'])} to {correlation(row['pearson_most'])})"
    median = " in the median" if row["judged"] > 1 else ""
    told = (
        f"{at} influences by {row['solver']} of {_examples(row['judged'])} on {count(row['num_queries'])} "
        f"queries correlate with their responses at ε = {setting(row['epsilon'])} at "
        f"{correlation(row['pearson'])}{median}{over}, ranks at {correlation(row['spearman'])}"
    )
    limit = row["pearson_limit"]
    if not math.isnan(limit):
        told += f", and with the limit ε → 0 at {correlation(limit)}"
    return (
        f"{told}; they differ by {_share(row['difference'])} of the response’s length, with slope "
        f"{number(row['slope'])}."
    )


def _change(own: pd.DataFrame) -> str:
    known = own[own["pearson"].notna()]
    if len(known) < 2:
        return ""
    first, last = known.iloc[0], known.iloc[-1]
    change = last["pearson"] - first["pearson"]
    if abs(change) < 0.01:
        word = "the agreement is the same to a hundredth"
    else:
        word = f"the agreement is {'worse' if change < 0 else 'better'} by {number(abs(change))}"
    return f"From λ = {setting(first['solved_damping'])} to {setting(last['solved_damping'])} {word}."


def _linear(own: pd.DataFrame) -> str:
    known = own[own["nonlinearity"].notna()]
    clauses = [
        f"{_share(row['nonlinearity'])} off its limit{_error(row['limit_error'])} at "
        f"λ = {setting(row['solved_damping'])}"
        for _, row in known.iterrows()
    ]
    if not clauses:
        return ""
    return f"The response at ε = {setting(known['epsilon'].iloc[0])} is {listed(clauses)}."


def _error(value: float) -> str:
    return "" if math.isnan(value) else f", known to {_share(value)},"


def _certificate(own: pd.DataFrame) -> str:
    converged, whole = own["num_converged"].sum(), own["num_responses"].sum()
    told = f"{count(converged)} of {count(whole)} responses converged"
    why = [text for text in own["why"] if text]
    if why:
        told += f"; of the others the first says: {why[0]}"
    told += f". They took {duration(own['seconds'].sum())}."
    known = own[own["answered"] > 0]
    if len(known):
        told += (
            f" At ε = {setting(known['epsilon'].iloc[0])} their gradients are at most "
            f"{number(known['worst_gradient'].max())} times their first length{_displacements(known)}."
        )
    doubtful = [
        f"{_examples(row['doubtful'])} at λ = {setting(row['solved_damping'])}"
        for _, row in own[own["doubtful"] > 0].iterrows()
    ]
    if doubtful:
        told += f" Whether the objective is convex near θˢ is open for {listed(doubtful)}."
    return told


def _displacements(known: pd.DataFrame) -> str:
    """What gradients of that length leave open."""
    clauses = [
        f"{_share(row['displacement_error'])} at λ = {setting(row['solved_damping'])}"
        for _, row in known[known["displacement_error"].map(math.isfinite)].iterrows()
    ]
    return f", so that in the median θ(ε) − θˢ is known to {listed(clauses)}" if clauses else ""


def _missed(own: pd.DataFrame) -> str:
    """What rests on a solve that did not get to its tolerance."""
    missed = own[~own["status"].isin(REACHED)]
    clauses = [
        f"λ = {setting(row['solved_damping'])} ({row['status']}, residual {number(row['worst_residual'])})"
        for _, row in missed.iterrows()
    ]
    return f"The solver did not reach its tolerance at {listed(clauses)}." if clauses else ""


def _examples(value: float) -> str:
    return "one training example" if value == 1 else f"{count(value)} training examples"


def _share(value: float) -> str:
    return "an unknown share" if math.isnan(value) else share(value)
