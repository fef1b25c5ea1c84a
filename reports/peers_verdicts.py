"""Is ours faster, and is it right? What the rows say of it."""

import math

import pandas as pd

from reports.conclusions import Conclusion, Verdict
from reports.formats import count, listed, target_text, times
from reports.peers_rows import OURS, PACKAGE, REPRODUCTIONS, contenders, races, solves
from reports.rows import in_order

# How many times as fast as the best of all others ours is to be, in the median over problems.
FASTER = 3.0


def findings(rows: pd.DataFrame) -> dict[str, str]:
    """A paragraph on each target, on honesty, on what was left out, and on reproductions."""
    found = solves(rows)
    race = races(contenders(found))
    told = {
        f"To a relative error of {target_text(target)}": _race(race[race["target"] == target])
        for target in race["target"].unique()
    }
    told["Status"] = _honesty(found)
    told["Left out"] = _left_out(found)
    told["Where a library differs from its documentation"] = _reproductions(rows)
    return {heading: paragraph for heading, paragraph in told.items() if paragraph}


def conclusions(rows: pd.DataFrame) -> list[Conclusion]:
    """Whether ours is FASTER times as fast in the median, nowhere slower, and says when it is wrong."""
    found = solves(rows)
    race = races(contenders(found))
    ours = found[(found["kind"] == OURS) & (found["status"] != "skipped")]
    return [*_speed(race), _own_honesty(ours)] if len(ours) else []


def _speed(race: pd.DataFrame) -> list[Conclusion]:
    first = race["target"].max()
    known = race[race["ratio"].notna()]
    near = known[known["target"] == first]
    median = near["ratio"].median()
    each = "; ".join(f"{row['problem']} {times(row['ratio'])}" for _, row in near.iterrows())
    slower = [
        f"{row['problem']} to {target_text(row['target'])} ({times(row['ratio'])})"
        for _, row in known.iterrows()
        if row["ratio"] < 1
    ]
    fast: Verdict = "undecided" if near.empty else "holds" if median >= FASTER else "fails"
    never: Verdict = "undecided" if known.empty else "fails" if slower else "holds"
    least = "nobody gets there" if known.empty else f"least {times(known['ratio'].min())}"
    return [
        Conclusion(
            f"Our best solver reaches {target_text(first)} at least {FASTER:g} times as fast as the best of "
            "the other libraries, in the median over problems",
            "", fast, "nobody gets there" if near.empty else f"median {times(median)}: {each}",
        ),
        Conclusion(
            "To no target is it slower", "", never, f"slower on {listed(slower)}" if slower else least
        ),
    ]  # fmt: skip


def _own_honesty(ours: pd.DataFrame) -> Conclusion:
    wrong = ours[ours["wrong"] != ""]
    silent = int(wrong["silent"].sum())
    return Conclusion(
        "When an answer of ours is wrong, its status says so", "", "fails" if silent else "holds",
        f"{count(len(wrong))} of {count(len(ours))} answers are worse than nothing or break a promise, "
        f"{count(silent)} of them unsaid",
    )  # fmt: skip


def _race(race: pd.DataFrame) -> str:
    there = race[race["ratio"].notna()]
    both = there[(there["ratio"] > 0) & (there["ratio"] < math.inf)]
    told = []
    if len(both) == 1:
        (row,) = both.to_dict("records")
        told.append(
            f"The best other library takes {times(row['ratio'])} as long as ours, for "
            f"{times(row['work_ratio'])} the work."
        )
    elif len(both):
        least, most = (both.loc[each] for each in (both["ratio"].idxmin(), both["ratio"].idxmax()))
        work, pace = both["work_ratio"].median(), (both["ratio"] / both["work_ratio"]).median()
        told.append(
            f"The best other library takes from {times(least['ratio'])} ({least['problem']}) to "
            f"{times(most['ratio'])} ({most['problem']}) as long as ours, in the median over problems "
            f"{times(there['ratio'].median())}. In the median it does {times(work)} the work, and takes "
            f"{times(pace)} the seconds for the same work."
        )
    for ratio, who in ((math.inf, "no other library"), (0.0, "none of ours")):
        problems = there.loc[there["ratio"] == ratio, "problem"]
        if len(problems):
            told.append(f"On {listed(list(problems))} {who} gets there.")
    nobody = race.loc[race["ratio"].isna(), "problem"]
    if len(nobody):
        told.append(f"On {listed(list(nobody))} nobody gets there.")
    return " ".join(told)


def _honesty(found: pd.DataFrame) -> str:
    told = []
    for library in in_order(found["library"]):
        own = found[(found["library"] == library) & (found["status"] != "skipped")]
        wrong, stopped = own[own["wrong"] != ""], int(own["stopped"].sum())
        broken = int((wrong["wrong"] == "promise broken").sum())
        parts = [f"{len(wrong) - broken} ended worse than x = 0"] if len(wrong) > broken else []
        parts += [f"{broken} with a residual above the promised one"] if broken else []
        if parts:
            parts = [f"{listed(parts)}, {int(wrong['silent'].sum())} of these without a word"]
        parts += [f"{stopped} ran out of time"] if stopped else []
        if parts:
            told.append(f"{library}: of {len(own)} solves {'; '.join(parts)}.")
    return " ".join(told) or "No answer was worse than x = 0, and none broke a promise."


def _left_out(found: pd.DataFrame) -> str:
    """What is not installed; why else a solver was skipped stands with its problem."""
    skipped = found[(found["status"] == "skipped") & (found["library"] != PACKAGE)]
    absent = [
        each for each in in_order(skipped["reason"]) if "not installed" in each or "supported is" in each
    ]
    return " ".join(f"{each}." for each in absent)


def _reproductions(rows: pd.DataFrame) -> str:
    ran = rows[(rows["kind"] == REPRODUCTIONS) & (rows["missing"] == "")].drop_duplicates("script")
    if ran.empty:
        return ""
    differ = ran[ran["differs"].astype(float) > 0]
    if differ.empty:
        return f"None of {count(len(ran))} scripts shows a difference any more."
    by = listed(
        [f"{library} {count(number)}" for library, number in differ["library"].value_counts().items()]
    )
    return f"{count(len(differ))} of {count(len(ran))} scripts show one ({by}): see “Reproductions”."
