"""Is ours faster, and is it right? What the rows say of it."""

import pandas as pd

from reports.conclusions import Conclusion, Verdict
from reports.formats import count, duration, listed, target_text, times
from reports.peers_rows import OURS, PACKAGE, REPRODUCTIONS, contenders, races, solves
from reports.rows import in_order

# How many times as fast as the best of all others ours is to be, in the median over problems.
FASTER = 3.0


def findings(rows: pd.DataFrame) -> dict[str, str]:
    """A paragraph on each target, on honesty, on reproductions, and on what was left out."""
    found = solves(rows)
    race = races(contenders(found))
    told = {
        f"To a relative error of {target_text(target)}": _race(race[race["target"] == target])
        for target in race["target"].unique()
    }
    told["Status"] = _honesty(found)
    left_out = _left_out(found)
    if left_out:
        told["Left out"] = left_out
    reproduced = _reproductions(rows)
    return told | ({"Where a library differs from its documentation": reproduced} if reproduced else {})


def conclusions(rows: pd.DataFrame) -> list[Conclusion]:
    """Whether ours is FASTER times as fast in the median, nowhere slower, and says when it is wrong."""
    found = solves(rows)
    race = races(contenders(found))
    first = float(race["target"].max())
    near = race[race["target"] == first]
    ratios = near["ratio"].dropna()
    numbers = "; ".join(
        f"{row['problem']}: {times(row['ratio'])}"
        for _, row in near.iterrows()
        if row["ratio"] == row["ratio"]
    )
    median: Verdict = "undecided" if ratios.empty else "holds" if ratios.median() >= FASTER else "fails"
    slower = [row["problem"] for _, row in race.iterrows() if row["ratio"] < 1]
    never: Verdict = "undecided" if race["ratio"].dropna().empty else "fails" if slower else "holds"
    wrong = found[(found["kind"] == OURS) & (found["wrong"] != "")]
    honest: Verdict = "fails" if wrong["silent"].any() else "holds"
    return [
        Conclusion(
            f"Our best solver reaches {target_text(first)} at least {FASTER:g} times as fast as the best of "
            "the other libraries, in the median over problems",
            "", median, f"median {times(ratios.median())} ({numbers})" if len(ratios) else "none got there",
        ),
        Conclusion(
            "To no target is it slower", "", never,
            f"slower on {listed(in_order(slower))}" if slower else f"least {times(race['ratio'].min())}",
        ),
        Conclusion(
            "When an answer of ours is wrong, its status says so", "", honest,
            f"{count(len(wrong))} of {count((found['kind'] == OURS).sum())} answers are worse than nothing "
            f"or break a promise, {count(wrong['silent'].sum())} of them unsaid",
        ),
    ]  # fmt: skip


def _race(race: pd.DataFrame) -> str:
    ratios = race["ratio"].dropna()
    told = [f"Median {times(ratios.median())}, least {times(ratios.min())}."] if len(ratios) else []
    for _, row in race.iterrows():
        ours = f"{row['ours']} in {duration(row['seconds'])}" if row["ours"] else "no solver of ours"
        theirs = "no other"
        if row["their_name"]:
            theirs = f"the best other {row['their_name']} in {duration(row['their_seconds'])}"
        ratio = ""
        if row["ours"] and row["their_name"]:
            ratio = f": {times(row['ratio'])} as long, for {times(row['work_ratio'])} the work"
        told.append(f"{row['problem']}: {ours}, {theirs}{ratio}.")
    return " ".join(told)


def _honesty(found: pd.DataFrame) -> str:
    told = []
    for library in in_order(found["library"]):
        own = found[(found["library"] == library) & (found["status"] != "skipped")]
        wrong = own[own["wrong"] != ""]
        stopped = own[(own["status"] == "budget_spent") & own["error"].isna()]
        if own.empty or (wrong.empty and stopped.empty):
            continue
        parts = []
        if len(wrong):
            broken = int((wrong["wrong"] == "promise broken").sum())
            what = [f"{len(wrong) - broken} worse than x = 0"] if len(wrong) > broken else []
            what += [f"{broken} with a residual above the promised one"] if broken else []
            parts.append(f"{listed(what)}, {int(wrong['silent'].sum())} of these without a word")
        if len(stopped):
            parts.append(f"{len(stopped)} stopped for want of time")
        told.append(f"{library}: of {len(own)} answers {'; '.join(parts)}.")
    return " ".join(told) or "No answer was worse than x = 0, and none broke a promise."


def _left_out(found: pd.DataFrame) -> str:
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
