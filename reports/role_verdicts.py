"""What does the inverse change? A paragraph per problem, and what is claimed: by the paper, and by us."""

import math
from collections.abc import Callable

import pandas as pd

from reports.conclusions import Conclusion, Verdict, together
from reports.formats import count, hundredths, number, setting, signed
from reports.role_rows import OWN, few, over_queries
from reports.rows import in_order
from reports.study import plus_minus

# Of the k most influential examples so many in common: no more are other examples, more are the same.
OTHERS, SAME = 0.5, 0.9
# A rank correlation from here on is as good as none of the inverse's doing.
ALIKE = 0.95
# By less mean |ρ| between queries does not change, however sure that is.
MARGIN = 0.01


def findings(rows: pd.DataFrame) -> dict[str, str]:
    """A paragraph for each problem, in their order."""
    table = over_queries(rows)
    found = {}
    for problem in in_order(table["problem"]):
        table_of = table[table["problem"] == problem]
        own = table_of[table_of["multiple"] == OWN]
        parts = ["At the problem's own λ nothing was measured."]
        if len(own):
            parts = [tell(own.iloc[0]) for tell in (_ranking, _between, _classes, _norms)]
        found[problem] = " ".join(part for part in [*parts, _range(table_of), _missed(table_of)] if part)
    return found


def conclusions(rows: pd.DataFrame) -> list[Conclusion]:
    """What the paper says of the inverse, in § 5 and by Figure 3, and what must hold besides."""
    table = over_queries(rows)
    own = table[table["multiple"] == OWN]
    largest = table.sort_values("share", kind="stable").groupby("problem", sort=False).tail(1)
    largest = largest.set_index("problem").loc[in_order(table["problem"])].reset_index()
    return [
        Conclusion(
            "The most influential examples with the inverse differ from those of gradient similarity",
            "§ 5",
            _differ(own),
            _each(own, lambda row: f"{_of(row['same'], row)} the same at {_at(row)}"),
        ),
        Conclusion(
            "The inverse Hessian suppresses what all gradients share",
            "Figure 3",
            together(_less(row) for _, row in own.iterrows()),
            _each(
                own,
                lambda row: (
                    f"scores of different queries correlate at {number(row['between_with'])} (mean |ρ|) "
                    f"instead of {number(row['between_without'])}, {_changed(row)}"
                    if row["queries"] > 1
                    else "one query"
                ),
            ),
        ),
        Conclusion(
            "For large λ the inverse plays no role",
            "",
            together(_idle(row) for _, row in largest.iterrows()),
            _each(
                largest,
                lambda row: (
                    f"rank correlation {_correlation(row['rank_correlation'])} at {_at(row)}"
                    + (", which is not large" if row["share"] < 1 else "")
                ),
            ),
        ),
    ]


def _differ(own: pd.DataFrame) -> Verdict:
    shares = (own["same"] / own["top"]).tolist()
    if not shares:
        return "undecided"
    if all(share <= OTHERS for share in shares):
        return "holds"
    return "fails" if all(share > SAME for share in shares) else "partly"


def _less(row: pd.Series) -> bool | None:
    """Whether scores of different queries have less in common with the inverse; None: undecided.

    The change must exceed two standard errors, which fewer than three queries do not have, and the margin.
    """
    change, error = row["between_change"], row["between_error"]
    if math.isnan(error) or abs(change) <= max(2 * error, MARGIN):
        return None
    return bool(change < 0)


def _idle(row: pd.Series) -> bool | None:
    """Whether scores at the largest λ are ranked as without; None where it is less than λ_max."""
    if row["share"] < 1 or math.isnan(row["rank_correlation"]):
        return None
    return bool(row["rank_correlation"] >= ALIKE)


def _each(table: pd.DataFrame, tell: Callable[[pd.Series], str]) -> str:
    """A clause for each problem."""
    clauses = [f"{row['problem']}: {tell(row)}" for _, row in table.iterrows()]
    return f"{'; '.join(clauses)}." if clauses else "Nothing was measured at the problems' own λ."


def _ranking(row: pd.Series) -> str:
    correlation = row["rank_correlation"]
    over = ""
    if row["queries"] > 1:
        over = (
            f" ({_correlation(row['rank_correlation_low'])} to {_correlation(row['rank_correlation_high'])} "
            f"over {count(row['queries'])} queries)"
        )
    told = f"have a rank correlation of {_correlation(correlation)} with plain gradient similarity{over}"
    if math.isnan(correlation):
        told = "have no rank correlation with plain gradient similarity, since one of them is constant"
    return (
        f"At λ = {setting(row['solved_damping'])} ({number(row['share'])} λ_max) the scores of "
        f"{count(row['num_ranked'])} training {kind(row)} with the inverse {told}; "
        f"{_of(row['same'], row)} most influential are the same, where chance gives {few(row['chance'])}."
    )


def _between(row: pd.Series) -> str:
    if math.isnan(row["between_change"]):
        return ""
    word = {
        True: "The inverse makes the answers more specific to the query",
        False: "The inverse makes the answers less specific to the query",
        None: "Whether the inverse makes the answers more specific to the query is not decided",
    }[_less(row)]
    return (
        f"{word}: scores of different queries correlate at {number(row['between_with'])} (mean |ρ|) with it "
        f"and at {number(row['between_without'])} without, {_changed(row)}. Two queries have "
        f"{few(row['lists_with'])} of their {count(row['top'])} in common with it and "
        f"{few(row['lists_without'])} without."
    )


def _changed(row: pd.Series) -> str:
    change, error = row["between_change"], row["between_error"]
    told = f"a change of {plus_minus(change, error)}"
    return told if row["queries"] > 2 else f"{told} of two queries, too few for a standard error"


def _classes(row: pd.Series) -> str:
    if math.isnan(row["class_with"]):
        return ""
    return (
        f"Of the query's class are {few(row['class_with'])} of the {count(row['top'])} with the inverse and "
        f"{few(row['class_without'])} without."
    )


def _norms(row: pd.Series) -> str:
    return (
        f"{few(row['norm_with'])} of those with it and {few(row['norm_without'])} of those without are among "
        f"the {count(row['top'])} examples of largest gradient norm."
    )


def _range(own: pd.DataFrame) -> str:
    if len(own) < 2:
        return ""
    first, last = own.iloc[0], own.iloc[-1]
    return (
        f"From {_at(first)} to {_at(last)} the rank correlation goes from "
        f"{_correlation(first['rank_correlation'])} to {_correlation(last['rank_correlation'])} and "
        f"the examples in common from {few(first['same'])} to {few(last['same'])}."
    )


def _missed(own: pd.DataFrame) -> str:
    """What rests on a solve that did not get to its tolerance."""
    missed = own[~own["status"].isin(["converged", "finished"])]
    clauses = [
        f"λ = {setting(row['solved_damping'])} ({row['status']}, residual {number(row['residual'])})"
        for _, row in missed.iterrows()
    ]
    return f"The solver did not reach its tolerance at {', '.join(clauses)}." if clauses else ""


def kind(row: pd.Series) -> str:
    """What the ranked ones are called."""
    return "sequences" if row["unit"] == "token" else "examples"


def _of(value: float, row: pd.Series) -> str:
    return f"{few(value)} of the {count(row['top'])}"


def _at(row: pd.Series) -> str:
    return f"λ = {number(row['share'])} λ_max"


def _correlation(value: float) -> str:
    """Two decimals, and no 1 that is none."""
    if ALIKE < abs(value) < 1:
        return signed(f"{math.copysign(math.floor(abs(value) * 1000) / 1000, value):.3f}")
    return hundredths(value)
