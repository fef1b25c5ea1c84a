"""Is the sampling condition met? One paragraph per problem, from the numbers alone."""

import math

import pandas as pd

from reports.conclusions import Conclusion, together
from reports.condition_rows import over_seeds
from reports.formats import count, listed, number
from reports.rows import in_order
from reports.study import plus_minus


def findings(rows: pd.DataFrame) -> dict[str, str]:
    """A paragraph for each problem, in their order."""
    sides = over_seeds(rows)
    parts = (_equal, _unequal, _matrices, _sequences)
    return {
        problem: " ".join(part for tell in parts if (part := tell(own)))
        for problem in in_order(sides["problem"])
        for own in [sides[sides["problem"] == problem]]
    }


def conclusions(rows: pd.DataFrame) -> list[Conclusion]:
    """The paper's, and ours: what the traces that it compares leave out."""
    sides = over_seeds(rows)
    return [_traces(sides), _unseen(sides)]


def _traces(sides: pd.DataFrame) -> Conclusion:
    """Counted by problem: its noise is often one number over b, and its right side always is."""
    words = [set(own["verdict"]) & {"holds", "fails"} for _, own in sides.groupby("problem", sort=False)]
    below, above, both = (words.count(each) for each in ({"holds"}, {"fails"}, {"holds", "fails"}))
    split = f", and at some b below and at others above on {both}" if both else ""
    return Conclusion(
        "The trace of the sampling noise, Tr(E H̃² − H²), stays below Tr(H)²/b (C = 1).",
        "Figure 4",
        "partly" if both else together([True] * below + [False] * above),
        f"By more than two standard errors it lies below on {below or 'none'} and above on {above or 'none'} "
        f"of {len(words)} problems{split}; the noise is {_range(sides['ratio'])} times Tr(H)²/b.",
    )


def _unseen(sides: pd.DataFrame) -> Conclusion:
    """Of a problem where matrices ask for C > 1: holds where traces allow C = 1 at every b."""
    verdicts: list[bool | None] = []
    first = sides.drop_duplicates("problem")
    for problem in first["problem"]:
        own = sides[sides["problem"] == problem]
        words = set(own["verdict"])
        asked = bool(own["needed"].iloc[0] > 1)
        verdicts.append(
            False if asked and "fails" in words else True if asked and words == {"holds"} else None
        )
    hidden, seen = verdicts.count(True), verdicts.count(False)
    known = first[first["constant"].notna()]
    numbers = "The curvature of single examples is unknown here, so C was not measured."
    if len(known):
        told = "; ".join(
            f"{row['problem']} {number(row['constant'])}, "
            f"{number(row['units_per_draw'] * row['noise_constant'] / row['trace'])} and "
            f"{number(row['needed'])}"
            for _, row in known.iterrows()
        )
        numbers = (
            f"C measured, R/Tr(H), and the C that the matrices ask for, all lower bounds: {told}. More than "
            f"1 is asked for on {hidden or 'none'} of {len(first)} problems where the traces allow C = 1 at "
            f"every b, and on {seen or 'none'} where they do not."
        )
    return Conclusion(
        "The trace condition cannot see heterogeneity: how unequal examples are.",
        "",
        together(verdicts),
        numbers,
    )


def _equal(own: pd.DataFrame) -> str:
    verdicts = {word: own[own["verdict"] == word]["batch_size"] for word in ("holds", "undecided", "fails")}
    told = {
        "holds": "it holds",
        "undecided": "no more than two standard errors decide",
        "fails": "it fails",
    }
    clauses = [
        f"{told[word]} at b = {listed([count(size) for size in sizes])}{_tokens(own)}"
        for word, sizes in verdicts.items()
        if len(sizes)
    ]
    return (
        f"With C = 1 the mini-batches' noise is {_range(own['ratio'])} times what the condition allows: "
        f"{listed(clauses)}."
    )


def _unequal(own: pd.DataFrame) -> str:
    unequal = own["constant"].iloc[0]
    if math.isnan(unequal):
        return "The curvature of single examples is unknown here, so C was not measured."
    shares = _range(own["noise"] / own["unequal"])
    broken = own.loc[own["unequal_verdict"] == "fails", "batch_size"]
    sizes = listed([count(size) for size in broken])
    failing = f" and fails at b = {sizes}{_tokens(own)}" if len(broken) else ""
    measured = plus_minus(unequal, own["constant_error"].iloc[0])
    return f"With the measured C = {measured} it is {shares} times the right side{failing}."


def _matrices(own: pd.DataFrame) -> str:
    """The trace comparison follows from the condition on matrices and does not give it back."""
    needed = own["needed"].iloc[0]
    if math.isnan(needed):
        return ""
    if needed <= 1:
        return "In no direction that was found do the matrices ask for C > 1."
    hidden = (own["verdict"] == "holds").any()
    unseen = ", which the traces do not show" if hidden else ""
    return f"In one direction the matrices ask for C ≥ {number(needed)}{unseen}."


def _sequences(own: pd.DataFrame) -> str:
    """How far from independent the tokens of a sequence are."""
    row = own.iloc[0]
    if math.isnan(row["sequence_worth"]):
        return ""
    worth = plus_minus(row["sequence_worth"], row["sequence_worth_error"])
    length = number(row["units_per_draw"])
    return f"By its noise a sequence of {length} tokens is worth {worth} independent ones."


def _tokens(own: pd.DataFrame) -> str:
    return " tokens" if own["unit"].iloc[0] == "token" else ""


def _range(values: pd.Series) -> str:
    low, high = number(values.min()), number(values.max())
    return low if low == high else f"{low} to {high}"
