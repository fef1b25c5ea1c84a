"""Which batches converge at the full-batch step, and did theory know? From the numbers alone."""

from collections.abc import Sequence

import pandas as pd

from reports.batch_size_rows import PAPERS_RULE, SELF_TUNED, correlation_text, over_seeds, over_trials
from reports.conclusions import Conclusion, together
from reports.condition_verdicts import listed
from reports.formats import count, number
from reports.rows import in_order

# e^−3 is what is left of the flattest direction of the start at ηλT = 3.
_SHORT = 3.0


def findings(rows: pd.DataFrame) -> dict[str, str]:
    """A paragraph for each problem, in their order."""
    batches, chosen = over_trials(rows), over_seeds(rows)
    found = {}
    for problem in in_order(rows["problem"]):
        own, others = (frame[frame["problem"] == problem] for frame in (batches, chosen))
        parts = [_ended(own), _theory(own), _noise(own), _chosen(others)]
        found[problem] = " ".join(part for part in parts if part)
    return found


def conclusions(rows: pd.DataFrame) -> Sequence[Conclusion]:
    """What Klochkov & Liu (2024) say of the batch size, on all problems together."""
    batches, chosen = over_trials(rows), over_seeds(rows)
    enough = batches[[bool(value) for value in batches["enough"]]] if len(batches) else batches
    below = batches[[not value for value in batches["enough"]]] if len(batches) else batches
    rule = chosen[chosen["method"] == PAPERS_RULE]
    reached = [bool(row["correlation"] >= row["converged_from"]) for _, row in rule.iterrows()]
    return [
        Conclusion(
            "With the batch size that theory asks for, LiSSA at the full-batch step converges",
            "Figure 2",
            together(verdict == "converges" for verdict in enough["verdict"]),
            _counted(enough, "at or above b*", "converges")
            or "No batch was as large as the b* that theory asks for.",
        ),
        Conclusion(
            "Below it, it diverges or stalls",
            "Figure 2",
            together(verdict != "converges" for verdict in below["verdict"]),
            _counted(below, "below b*", "converges", negated=True)
            or "No batch was smaller than the b* that theory asks for.",
        ),
        Conclusion(
            "A batch of Tr(H)/(λ_max + λ) for ηλT = 2.25 suffices",
            "its rule of thumb and its table of settings",
            together(reached),
            " ".join(
                f"{row['problem']}: b = {count(row['batch_size'])} ended at a correlation of "
                f"{correlation_text(row['correlation'])}."
                for _, row in rule.iterrows()
            )
            or "The rule was not run.",
        ),
    ]


def _counted(batches: pd.DataFrame, where: str, verdict: str, negated: bool = False) -> str:
    """ "3 of 5 batches at or above b* converged: …"; "" of none."""
    if not len(batches):
        return ""
    right = (batches["verdict"] == verdict) != negated
    did = "did not converge" if negated else "converged"
    told = "; ".join(
        f"{problem} (b* = {number(own['sufficient_batch'].iloc[0])}): " + _told(own)
        for problem in in_order(batches["problem"])
        for own in [batches[batches["problem"] == problem]]
    )
    return f"{int(right.sum())} of {_batches(len(batches))} {where} {did}. {told}."


def _batches(number_of: int) -> str:
    return f"{number_of} batch{'' if number_of == 1 else 'es'}"


def _told(own: pd.DataFrame) -> str:
    return listed(
        [
            f"b = {count(row['batch_size'])} {row['verdict']}"
            + ("" if row["verdict"] == "diverges" else f" at {correlation_text(row['correlation'])}")
            for _, row in own.iterrows()
        ]
    )


def _ended(own: pd.DataFrame) -> str:
    """How every batch ended."""
    if not len(own):
        return ""
    row = own.iloc[0]
    clauses = []
    for verdict, told in (("diverges", "diverged"), ("stalls", "stalled"), ("converges", "converged")):
        some = own[own["verdict"] == verdict]
        if not len(some):
            continue
        sizes = listed([count(size) for size in some["batch_size"]])
        if verdict == "diverges":
            shares = zip(some["num_diverged"], some["num_trials"], strict=True)
            ends = listed([f"{count(gone)} of {count(trials)}" for gone, trials in shares])
            clauses.append(f"b = {sizes} {told} ({ends} trials)")
        else:
            ends = listed([correlation_text(value) for value in some["correlation"]])
            clauses.append(f"b = {sizes} {told} (median correlation {ends})")
    tokens = " of mini-batches counted in tokens" if row["unit"] == "token" else ""
    of_start = f"where gradient similarity has {correlation_text(row['start_correlation'])}"
    text = (
        f"At the full-batch step η = {number(row['step_size'])}, after {count(row['num_steps'])} steps"
        f"{tokens}, {listed(clauses)}, {of_start}."
    )
    if row["time"] < _SHORT:
        left = "whatever the batch, some of the start is left"
        text += f" ηλT is only {number(row['time'])}: {left}; raise num_steps."
    return text


def _theory(own: pd.DataFrame) -> str:
    """What theory said, and of how many batches it was right."""
    if not len(own):
        return ""
    row = own.iloc[0]
    stable = own[own["stable"].astype(bool)]
    which = (
        "no batch here"
        if not len(stable)
        else "every batch here"
        if len(stable) == len(own)
        else f"b = {listed([count(size) for size in stable['batch_size']])}"
    )
    right = int(own["agrees"].astype(bool).sum())
    lost = stable[stable["verdict"] == "diverges"]["batch_size"]
    text = (
        f"Theory asks for b ≥ {number(row['sufficient_batch'])}, where the trace alone asks for "
        f"{number(row['papers_batch'])}, and by ηL_b/2 < 1 calls {which} stable. That what is stable "
        f"converges and what is not does not is true of {right} of {_batches(len(own))}."
    )
    if len(stable):
        told = f"b = {listed([count(size) for size in lost])} diverged all the same" if len(lost) else ""
        text += f" Of the stable ones {told or 'none diverged'}."
    return text


def _noise(own: pd.DataFrame) -> str:
    """Batches that are stable and still stall: on their noise."""
    if not len(own):
        return ""
    stalled = own[own["stable"].astype(bool) & (own["verdict"] == "stalls")]
    if not len(stalled):
        return ""
    sizes = listed([count(size) for size in stalled["batch_size"]])
    errors = listed([number(value) for value in stalled["error"]])
    floors = listed([number(value) for value in stalled["predicted_floor"]])
    return (
        f"Stable, but stalled on a floor of noise: b = {sizes}, with a relative error of {errors}, where "
        f"theory's bound allows {floors}."
    )


def _chosen(others: pd.DataFrame) -> str:
    told = []
    for _, row in others.iterrows():
        batch = "all data" if row["full_data"] else f"b = {count(row['batch_size'])}"
        name = {SELF_TUNED: "The self-tuned solver", PAPERS_RULE: "The paper's rule"}[row["method"]]
        told.append(
            f"{name} ended at {correlation_text(row['correlation'])} after {count(row['step'])} "
            f"steps on {batch}, {number(row['epochs'])} passes over the data with set-up."
        )
    return " ".join(told)
