"""Which solver's influence is right? A paragraph per truth, and the order that is claimed."""

import itertools
import math

import pandas as pd

from reports.conclusions import Conclusion, together
from reports.formats import count, duration, hundredths, listed, number, share, target_text
from reports.rows import in_order
from reports.truth_rows import (
    MAIN,
    UNUSABLE,
    Interval,
    as_good,
    best,
    cheapest,
    difference,
    name_of,
    of,
    role,
    table,
)

# From the rightest down, each at least as right as the next.
ORDER = ("exact", "EK-FAC-LiSSA", "EK-FAC", "gradient similarity")
# What a solution must have of error to count as solved, and its influences of Pearson's correlation.
SOLVED, AGREES = 0.1, 0.95
HEADINGS = {
    "lds": "Models of random subsets (LDS)",
    "pbrf": "Proximal Bregman responses",
    "loo": "Leave-one-out retraining",
    "exact": "The exact solution",
}
MEASURES = {"lds": "LDS", "pearson": "Pearson", "spearman": "Spearman", "top": "top"}
IN = {"lds": "in LDS", "pbrf": "by proximal Bregman responses"}
ENDED = {"skipped": "was skipped", "breakdown": "broke down", "diverged": "diverged", "failed": "failed"}


def findings(rows: pd.DataFrame) -> dict[str, str]:
    """A paragraph for each problem, with a sentence by each truth, and one on what gave no answer."""
    whole = table(rows)
    found = {}
    for problem in in_order(whole["problem"]):
        there = set(whole.loc[whole["problem"] == problem, "truth"])
        found[problem] = " ".join(_tell(whole, problem, truth) for truth in HEADINGS if truth in there)
    silent = _silent(whole)
    return found | ({"How solves ended": silent} if silent else {})


def conclusions(rows: pd.DataFrame) -> list[Conclusion]:
    """The order of the solvers by LDS and by PBRF, pair by pair, and whether a right solution is enough."""
    whole = table(rows)
    order = [_pair(whole, truth, *pair) for truth in IN for pair in itertools.pairwise(ORDER)]
    return [*(each for each in order if each), *_solved_is_right(whole)]


def interval_text(found: Interval, sign: bool = False) -> str:
    """ "0.94 [0.90, 0.95]", with a + where a difference is positive."""
    if math.isnan(found.value):
        return "–"
    first, *ends = (_with_sign(value) if sign else hundredths(value) for value in found)
    return first if math.isnan(found.low) else f"{first} [{ends[0]}, {ends[1]}]"


def _with_sign(value: float) -> str:
    """ "+0.02" or "−0.02"; "0.00" of what rounds to it."""
    text = f"{value:+.2f}".replace("-", "−")
    return text[1:] if text[1:] == "0.00" else text


def _tell(whole: pd.DataFrame, problem: str, truth: str) -> str:
    rows = of(whole, problem, truth)
    first = best(rows)
    if first is None:
        return f"{HEADINGS[truth]}: not judged, {_why_not(rows, list(rows.index))}."
    top = rows.loc[first]
    value = interval_text(Interval(top["value"], top["low"], top["high"]))
    told = f"{HEADINGS[truth]}: {name_of(first)} has the highest {MEASURES[MAIN[truth]]}, {value}"
    alike = [name for name in as_good(rows) if name != first]
    if alike:
        verb = "is" if len(alike) == 1 else "are"
        told += f"; not separated from it {verb} {listed([_with_value(rows, name) for name in alike])}"
    elif len(rows[rows["value"].notna()]) > 1:
        told += "; all others are certainly below"
    told += _cheapest(rows, first, alike)
    return f"{told}. {_about(rows, truth)}".strip()


def _why_not(rows: pd.DataFrame, names: list[str]) -> str:
    """Why there is no agreement to compare some solvers by."""
    missing = next((text for text in rows["missing"] if text), "")
    silent = [name_of(name) for name in names if rows.at[name, "status"] in UNUSABLE]
    if missing or not silent:
        return missing or "the scores or losses of a query do not vary"
    return "no solver gave an answer" if len(silent) == len(rows) else f"{listed(silent)} gave no answer"


def _cheapest(rows: pd.DataFrame, first: str, alike: list[str]) -> str:
    if not alike:
        return ""
    name = cheapest(rows, [first, *alike])
    return f". The cheapest of these is {name_of(name)}, at {number(rows.at[name, 'total_work'])} gradients"


def _with_value(rows: pd.DataFrame, name: str) -> str:
    return f"{name_of(name)} ({hundredths(rows.at[name, 'value'])})"


def _about(rows: pd.DataFrame, truth: str) -> str:
    """What the truth rests on."""
    row = rows.iloc[0]
    queries, took = count(row["num_columns"]), duration(row["truth_seconds"])
    if truth == "lds":
        ceiling = (
            "; one seed each, so that the noise of training is not known"
            if math.isnan(row["ceiling"])
            else f"; losses under other seeds correlate at {hundredths(row['ceiling'])}"
        )
        return f"({count(row['compared'])} subsets, {queries} queries{ceiling}; {took} of training.)"
    examples = f"{count(row['compared'])} training examples × {queries} queries"
    if row["compared"] < row["asked"]:
        examples += f", of {count(row['asked'])} asked for, since the others did not converge"
    of_what = "its x is off by at most" if truth == "exact" else "the truth itself is off by about"
    off = "" if not row["off"] > 0 else f"; {of_what} {share(row['off'])}"
    return f"({examples}{off}; {took}.)"


def _silent(whole: pd.DataFrame) -> str:
    """Solvers without an answer, and those that a budget ended."""
    told = []
    for problem in in_order(whole["problem"]):
        own = whole[whole["problem"] == problem].drop_duplicates("solver")
        told += [
            f"{problem}: {name_of(row['solver'])} {ENDED[row['status']]} ({row['reason']})"
            for _, row in own[own["status"].isin(UNUSABLE)].iterrows()
        ]
        spent = own[own["status"] == "budget_spent"]
        if len(spent):
            verb = "is" if len(spent) == 1 else "are"
            names = listed([_with_error(row) for _, row in spent.iterrows()])
            told.append(
                f"{problem}: {names} ended at the limit of work and {verb} judged by what was reached"
            )
    return f"{'; '.join(told)}." if told else ""


def _with_error(row: pd.Series) -> str:
    name = name_of(row["solver"])
    return name if math.isnan(row["error"]) else f"{name} (error {share(row['error'])})"


def _pair(whole: pd.DataFrame, truth: str, upper: str, lower: str) -> Conclusion | None:
    """Whether `upper` is at least as right as `lower`; None where no problem has both."""
    verdicts, told = [], []
    for problem in in_order(whole.loc[whole["truth"] == truth, "problem"]):
        rows = of(whole, problem, truth)
        first, second = role(rows, upper), role(rows, lower)
        if first is None or second is None:
            continue
        found = difference(rows, first, second)
        verdicts.append(found.separated)
        told.append(f"{problem}: {_compared(rows, first, second, found)}")
    if not told:
        return None
    names = ["the exact solution" if name == "exact" else name for name in (upper, lower)]
    claim = f"Influences of {names[0]} are at least as right as those of {names[1]}, {IN[truth]}"
    return Conclusion(claim, "", together(verdicts), "; ".join(told) + ".")


def _compared(rows: pd.DataFrame, first: str, second: str, found: Interval) -> str:
    if math.isnan(found.value):
        return _why_not(rows, [first, second])
    word = {True: "above", False: "below", None: "not separated"}[found.separated]
    if math.isnan(found.low):
        word = "of no known interval"
    values = " and ".join(hundredths(rows.at[name, "value"]) for name in (first, second))
    spent = [name_of(name) for name in (first, second) if rows.at[name, "status"] == "budget_spent"]
    limited = f" ({listed(spent)} ended at the limit of work)" if spent else ""
    return f"{values}, difference {interval_text(found, sign=True)}, {word}{limited}"


def _solved_is_right(whole: pd.DataFrame) -> list[Conclusion]:
    """Whether what solves the system has the influences that PBRF finds."""
    verdicts: list[bool | None] = []
    told = []
    for problem in in_order(whole.loc[whole["truth"] == "pbrf", "problem"]):
        rows = of(whole, problem, "pbrf")
        solved = rows[(rows["error"] <= SOLVED) & rows["value"].notna()]
        if solved.empty:
            continue
        worst = solved.loc[solved["value"].idxmin()]
        sure = worst["low"] >= AGREES or worst["high"] < AGREES
        verdicts.append(bool(worst["value"] >= AGREES) if sure else None)
        told.append(
            f"{problem}: {len(solved)} {'solver' if len(solved) == 1 else 'solvers'}, the lowest Pearson "
            f"{interval_text(Interval(worst['value'], worst['low'], worst['high']))} "
            f"({name_of(worst['solver'])})"
        )
    if not told:
        return []
    claim = (
        f"Solutions within {target_text(SOLVED)} of the exact one have the influences of proximal Bregman "
        f"responses (Pearson ≥ {AGREES})"
    )
    return [Conclusion(claim, "", together(verdicts), "; ".join(told) + ".")]
