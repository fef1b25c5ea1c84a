"""Which batches converge at the full-batch step, and did theory know? From the numbers alone."""

import math
from collections.abc import Sequence

import pandas as pd

from reports.batch_size_rows import (
    PAPERS_RULE,
    SELF_TUNED,
    SHORT,
    correlation_text,
    over_seeds,
    over_trials,
)
from reports.conclusions import Conclusion, together
from reports.formats import count, listed, number
from reports.rows import in_order


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
    """What Klochkov & Liu (2024) say of the batch size, and what theory adds, on all problems together."""
    batches, chosen = over_trials(rows), over_seeds(rows)
    rule = chosen[chosen["method"] == PAPERS_RULE]
    enough, below = _split(batches, "enough")
    return [
        _figure(batches),
        Conclusion(
            "A batch of Tr(H)/(λ_max + λ) for ηλT = 2.25 suffices",
            "its rule of thumb and its table of settings",
            together(verdict == "converges" for verdict in rule["verdict"]),
            " ".join(
                f"{row['problem']}: b = {count(row['batch_size'])} {_end(row)}." for _, row in rule.iterrows()
            )
            or "The rule was not run.",
        ),
        Conclusion(
            "With the batch size that theory asks for by R, b*, LiSSA at the full-batch step converges",
            "",
            together(_converged(enough)),
            _counted(enough, "at or above b*", "b*", "sufficient_batch")
            or "No batch was as large as the b* that theory asks for.",
        ),
        Conclusion(
            "Below b* it diverges or stalls",
            "",
            together(_negated(_converged(below))),
            _counted(below, "below b*", "b*", "sufficient_batch", negated=True)
            or "No batch was smaller than the b* that theory asks for.",
        ),
    ]


def _figure(batches: pd.DataFrame) -> Conclusion:
    """The paper's, by the batch of its own rule."""
    rule, (enough, below) = "Tr(H)/(λ_max + λ)", _split(batches, "enough_by_rule")
    parts = (
        _counted(enough, f"at or above {rule}", rule, "papers_batch") or f"No batch was as large as {rule}.",
        _counted(below, f"below {rule}", rule, "papers_batch", negated=True)
        or f"No batch was smaller than {rule}.",
    )
    return Conclusion(
        f"Small batches do not converge; those of the rule's size, {rule}, or larger do",
        "Figure 2",
        together([*_converged(enough), *_negated(_converged(below))]),
        " ".join(parts),
    )


def _split(batches: pd.DataFrame, column: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Those of which `column` is true, and the others."""
    if not len(batches):
        return batches, batches
    mask = batches[column].astype(bool)
    return batches[mask], batches[~mask]


def _converged(batches: pd.DataFrame) -> list[bool | None]:
    """Whether each batch did; None where too few steps decide nothing."""
    return [row["verdict"] == "converges" if row["decided"] else None for _, row in batches.iterrows()]


def _negated(found: list[bool | None]) -> list[bool | None]:
    return [None if value is None else not value for value in found]


def _counted(batches: pd.DataFrame, where: str, symbol: str, limit: str, negated: bool = False) -> str:
    """ "3 of 5 batches at or above b* converged: …"; "" of none."""
    if not len(batches):
        return ""
    right = (batches["verdict"] == "converges") != negated
    did = "did not converge" if negated else "converged"
    told = "; ".join(
        f"{problem} ({symbol} = {number(own[limit].iloc[0])}): " + _told(own)
        for problem in in_order(batches["problem"])
        for own in [batches[batches["problem"] == problem]]
    )
    text = f"{int(right.sum())} of {_batches(len(batches))} {where} {did}. {told}."
    if not batches["decided"].all():
        text += f" With ηλT < {number(SHORT)} a stall decides nothing: some of the start may be left."
    return text


def _diverged(row: pd.Series, what: str) -> str:
    """ "diverged in 1 of 3 trials"."""
    plural = "" if row["num_trials"] == 1 else "s"
    return f"diverged in {count(row['num_diverged'])} of {count(row['num_trials'])} {what}{plural}"


def _lower(row: pd.Series) -> str:
    """Why a correlation that is high enough is none that it converged to; "" where that is not so."""
    start = row["start_correlation"]
    lower = row["converged_from"] <= row["correlation"] < start
    return f", lower than the start's {correlation_text(start)}" if lower else ""


def _some(row: pd.Series) -> str:
    """How many trials diverged, where not all ended alike."""
    if not 0 < row["num_diverged"] < row["num_trials"]:
        return ""
    gone = _diverged(row, "trial")
    return gone.removeprefix("diverged") if row["verdict"] == "diverges" else f" ({gone})"


def _end(row: pd.Series) -> str:
    """How settings that were chosen ended: at a correlation, unless all seeds diverged."""
    kept = f"ended at a correlation of {correlation_text(row['correlation'])}"
    if not row["num_diverged"]:
        return kept + _lower(row)
    gone = _diverged(row, "seed")
    return gone if row["num_diverged"] == row["num_trials"] else f"{gone} and else {kept}"


def _batches(number_of: int) -> str:
    return f"{number_of} batch{'' if number_of == 1 else 'es'}"


def _told(own: pd.DataFrame) -> str:
    return listed(
        [
            f"b = {count(row['batch_size'])} {row['verdict']}"
            + (
                ""
                if row["verdict"] == "diverges"
                else f" at {correlation_text(row['correlation'])}{_lower(row)}"
            )
            + _some(row)
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
    if row["time"] < SHORT:
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
    decided = own[own["decided"].astype(bool)]
    right = int(decided["agrees"].astype(bool).sum())
    text = (
        f"Theory asks for b ≥ {number(row['sufficient_batch'])}, where the trace alone asks for "
        f"{number(row['papers_batch'])}, and by ηL_b/2 < 1 calls {which} stable."
    )
    if len(decided):
        text += (
            f" That and the outcome, whether it converges, agree for {right} of "
            f"{_batches(len(decided))}{'' if len(decided) == len(own) else ' that did not merely stall'}."
        )
    if len(stable):
        lost = stable[stable["num_diverged"] > 0]
        told = [f"b = {count(each['batch_size'])} {_diverged(each, 'trial')}" for _, each in lost.iterrows()]
        text += f" Of the stable ones {listed(told) if told else 'none diverged'}."
    return text


def _noise(own: pd.DataFrame) -> str:
    """Batches that are stable and still stall: on their noise, unless the start that is left explains it."""
    if not len(own):
        return ""
    stalled = own[own["stable"].astype(bool) & (own["verdict"] == "stalls")]
    # Errors are of the last half of the steps, at whose beginning no more than this is left of the start.
    left = stalled["start_error"] * (-stalled["time"] / 2).map(math.exp)
    # Of the mean square error, bias² + noise², the larger part is then noise.
    noisy = stalled["error"] >= math.sqrt(2) * left
    parts = []
    if noisy.any():
        sizes, errors, floors = _listed(stalled[noisy])
        parts.append(
            f"Stable, but stalled on a floor of noise: b = {sizes}, with a relative error of {errors}, where "
            f"theory's bound allows {floors}."
        )
    if not noisy.all():
        sizes, errors, _ = _listed(stalled[~noisy])
        lefts = listed([number(value) for value in sorted(set(left[~noisy]))])
        parts.append(
            f"Stable, but stalled: b = {sizes}, with a relative error of {errors}, of which up to {lefts} "
            "may be left of the start; more steps would tell."
        )
    return " ".join(parts)


def _listed(stalled: pd.DataFrame) -> tuple[str, str, str]:
    """Sizes, errors and floors."""
    return (
        listed([count(size) for size in stalled["batch_size"]]),
        listed([number(value) for value in stalled["error"]]),
        listed([number(value) for value in stalled["predicted_floor"]]),
    )


def _chosen(others: pd.DataFrame) -> str:
    told = []
    for _, row in others.iterrows():
        batch = "all data" if row["full_data"] else f"b = {count(row['batch_size'])}"
        name = {SELF_TUNED: "The self-tuned solver", PAPERS_RULE: "The paper's rule"}[row["method"]]
        ended = f"ended at {correlation_text(row['correlation'])}"
        if row["num_diverged"] == row["num_trials"]:
            ended = _diverged(row, "seed")
        elif row["num_diverged"]:
            ended = f"{_diverged(row, 'seed')} and else {ended}"
        told.append(
            f"{name} {ended} after {count(row['step'])} "
            f"steps on {batch}, {number(row['epochs'])} passes over the data with set-up."
        )
    return " ".join(told)
