"""What a page on other libraries is built from: each solve, and the best of each solver to each target."""

import math

import pandas as pd

from reports.rows import STATUSES

OURS, DEFAULT, TUNED, REPRODUCTIONS = "ours", "default", "tuned", "reproductions"
PACKAGE = "ihvp-bench"
# A residual this many times the promised tolerance breaks the promise; less may be rounding.
BROKEN = 2.0
# Worse than x = 0 is an error above 1.
WORSE_THAN_NOTHING = 1.0
ENDED_WELL = ("converged", "finished")
# What `solve` says of a solver that ended short of its tolerance and was not stopped.
BY_ITSELF = "ended by itself"
COLUMNS = {
    "library": "whose solver it is",
    "version": "of the library",
    "kind": "ours, default (the library’s own settings), tuned (ours, translated), or reproductions",
    "solver": "the solver as asked for",
    "settings": "the solver with its settings",
    "goal": "the relative error that the settings are for, empty where they are for none",
    "status": "how `solve` found that it ended",
    "reason": "why, in words",
    "said": "what the library itself said: warnings, and its log",
    "error": "‖x − x*‖/‖x*‖ at the end, worst right-hand side",
    "residual": "‖b − (H + λ)x‖/‖b‖ at the end, recomputed, worst right-hand side",
    "promised": "the relative residual that the solver promises",
    "setup_seconds": "seconds of the set-up",
    "solve_seconds": "seconds of the solve",
    "work": "gradient equivalents of both",
    "peak_memory_bytes": "most memory beyond what was held before",
    "target": "relative error that the next two are for",
    "seconds_to_target": "seconds, set-up included, to where it is first reached",
    "work_to_target": "gradient equivalents likewise",
    "script": "of a reproduction: its file",
    "title": "what happens",
    "documented": "what the documentation says",
    "source": "the script",
    "expected": "what follows from the documentation",
    "got": "what was got",
    "differs": "whether they differ",
    "missing": "why it was not run",
}
KEY = ["problem", "library", "solver", "kind", "goal", "settings"]


def solves(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each problem × solver × settings, medians over the seeds, in the order in which they ran.

    How it ended is told of the seed that ended worst. `wrong` and `silent` as of `judge`; `stopped` is
    whether any seed was. `to` has for each target (seconds, work), NaN unless every seed reached it.
    """
    own = rows[rows["kind"] != REPRODUCTIONS]
    found = []
    for key, group in own.groupby(KEY, sort=False):
        first = group[group["target"] == group["target"].iloc[0]]
        worst = first.loc[first["status"].map(STATUSES.index).idxmax()]
        wrong, silent = judge(first)
        found.append(
            dict(zip(KEY, key, strict=True))
            | {name: worst[name] for name in _OF_THE_WORST}
            | {name: first[name].max(skipna=False) for name in _MOST}
            | {name: first[name].median() for name in _MEDIANS}
            | {"wrong": wrong, "silent": silent, "to": _to_targets(group)}
            | {"stopped": any(was_stopped(row) for _, row in first.iterrows())}
        )
    return pd.DataFrame(found, columns=[*KEY, *_OF_THE_WORST, *_MOST, *_MEDIANS, *_JUDGED])


_OF_THE_WORST = ("version", "status", "reason", "said")
_MOST = ("error", "residual")
_MEDIANS = ("setup_seconds", "solve_seconds", "work", "peak_memory_bytes")
_JUDGED = ("wrong", "silent", "to", "stopped")


def judge(seeds: pd.DataFrame) -> tuple[str, bool]:
    """What is wrong with the answer of any seed, in words or "", and whether nobody but us noticed.

    Wrong is a promise that is broken, and an answer that is worse than x = 0; one that was stopped on its way
    is neither. Ours say so by their status; another library by a warning, its log or an exception.
    """
    wrong, silent = "", False
    for _, row in seeds.iterrows():
        found = _wrong(row)
        if found:
            wrong = wrong or found
            noticed = row["status"] not in ENDED_WELL if row["kind"] == OURS else bool(row["said"])
            silent = silent or not noticed
    return wrong, silent


def was_stopped(row: pd.Series) -> bool:
    """Whether its time ran out, so that it may say no more of its answer."""
    return row["status"] == "budget_spent" and BY_ITSELF not in row["reason"]


def _wrong(row: pd.Series) -> str:
    if row["status"] in ("skipped", "failed", "breakdown") or was_stopped(row):
        return ""
    if not math.isnan(row["promised"]) and row["residual"] > BROKEN * row["promised"]:
        return "promise broken"
    return "worse than nothing" if not row["error"] <= WORSE_THAN_NOTHING else ""


def _to_targets(group: pd.DataFrame) -> dict[float, tuple[float, float]]:
    return {
        float(target): (
            seeds["seconds_to_target"].median(skipna=False),
            seeds["work_to_target"].median(skipna=False),
        )
        for target, seeds in group.groupby("target", sort=False)
    }


def contenders(found: pd.DataFrame) -> pd.DataFrame:
    """A row for each problem × target × solver: the least seconds that any of its settings took, or NaN."""
    rows = [
        [row["problem"], target, row["library"], name_of(row["solver"]), row["settings"], seconds, work]
        for _, row in found.iterrows()
        if row["status"] != "skipped"
        for target, (seconds, work) in row["to"].items()
    ]
    table = pd.DataFrame(rows, columns=_CONTENDER)
    order = table.sort_values("seconds", kind="stable", na_position="last")
    return order.groupby(["problem", "target", "name"], sort=False).head(1).sort_index()


_CONTENDER = ["problem", "target", "library", "name", "settings", "seconds", "work"]


def name_of(solver: str) -> str:
    """ "lissa:target={target},seed=1" → "lissa:seed=1": the solver whichever target it is asked for."""
    name, _, settings = solver.partition(":")
    kept = ",".join(each for each in settings.split(",") if "{target}" not in each)
    return f"{name}:{kept}" if kept else name


def races(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each problem × target: the best of ours and of all others, and how many times as long.

    `ratio` and `work_ratio` are ∞ where none of theirs gets there, 0 where none of ours does.
    """
    rows = []
    for (problem, target), group in table.groupby(["problem", "target"], sort=False):
        ours = _best(group[group["library"] == PACKAGE])
        theirs = _best(group[group["library"] != PACKAGE])
        row = {"problem": problem, "target": target, "ours": ours["name"], "seconds": ours["seconds"]}
        row |= {f"their_{name}": theirs[name] for name in ("library", "settings", "seconds")}
        rows.append(row | {"ratio": _ratio(ours, theirs), "work_ratio": _ratio(ours, theirs, "work")})
    return pd.DataFrame(rows, columns=_RACE)


_RACE = [
    "problem", "target", "ours", "seconds", "their_library", "their_settings", "their_seconds", "ratio",
    "work_ratio",
]  # fmt: skip


def by_library(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds of each library's best solver by problem and target, over the best of all; ∞ where none is."""
    best = table.groupby(["problem", "target", "library"], sort=False)["seconds"].min().unstack("library")
    return best.div(best.min(axis=1), axis=0).fillna(math.inf)


def _best(group: pd.DataFrame) -> pd.Series:
    there = group[group["seconds"].notna()]
    if there.empty:
        return pd.Series({"name": "", "library": "", "settings": "", "seconds": math.nan, "work": math.nan})
    return there.loc[there["seconds"].idxmin()]


def _ratio(ours: pd.Series, theirs: pd.Series, what: str = "seconds") -> float:
    if not ours["name"]:
        return 0.0 if theirs["name"] else math.nan
    return float(theirs[what] / ours[what]) if theirs["name"] else math.inf
