"""What a page on other libraries is built from: each solve, and the best of each solver to each target."""

import math

import pandas as pd

OURS, DEFAULT, TUNED, REPRODUCTIONS = "ours", "default", "tuned", "reproductions"
PACKAGE = "ihvp-bench"
# A residual this many times the promised tolerance breaks the promise; less may be rounding.
BROKEN = 2.0
# Worse than x = 0 is an error above 1.
WORSE_THAN_NOTHING = 1.0
ENDED_WELL = ("converged", "finished")
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

    `wrong` and `silent` as of `judge`. `to` has for each target (seconds, work), NaN unless every seed
    reached it.
    """
    own = rows[rows["kind"] != REPRODUCTIONS]
    found = []
    for key, group in own.groupby(KEY, sort=False):
        first = group[group["target"] == group["target"].iloc[0]]
        wrong, silent = judge(first)
        found.append(
            dict(zip(KEY, key, strict=True))
            | {name: first[name].iloc[0] for name in ("version", "status", "reason", "said", "promised")}
            | {name: first[name].median() for name in _MEDIANS}
            | {"error": first["error"].max(), "residual": first["residual"].max()}
            | {"wrong": wrong, "silent": silent, "to": _to_targets(group)}
        )
    return pd.DataFrame(found)


_MEDIANS = ("setup_seconds", "solve_seconds", "work", "peak_memory_bytes")


def judge(seeds: pd.DataFrame) -> tuple[str, bool]:
    """What is wrong with the answer of any seed, in words or "", and whether nobody but us noticed.

    Wrong is a promise that is broken, and an answer that is worse than x = 0. Ours say so by their status;
    another library by a warning, its log or an exception.
    """
    wrong, silent = "", False
    for _, row in seeds.iterrows():
        found = _wrong(row)
        if found:
            wrong = wrong or found
            noticed = row["status"] not in ENDED_WELL if row["kind"] == OURS else _spoke(row)
            silent = silent or not noticed
    return wrong, silent


def _wrong(row: pd.Series) -> str:
    if row["status"] in ("skipped", "failed", "breakdown") or _was_stopped(row):
        return ""
    if not math.isnan(row["promised"]) and row["residual"] > BROKEN * row["promised"]:
        return "promise broken"
    return "worse than nothing" if not row["error"] <= WORSE_THAN_NOTHING else ""


def _spoke(row: pd.Series) -> bool:
    return bool(row["said"]) or row["status"] in ("failed", "breakdown")


def _was_stopped(row: pd.Series) -> bool:
    """Whether it had to be stopped, so that there is no answer."""
    return row["status"] == "budget_spent" and math.isnan(row["error"])


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
        {"problem": row["problem"], "library": row["library"], "solver": row["solver"], "kind": row["kind"],
         "settings": row["settings"], "target": target, "seconds": seconds, "work": work}
        for _, row in found.iterrows()
        if row["status"] != "skipped"
        for target, (seconds, work) in row["to"].items()
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table["name"] = [name_of(row) for _, row in table.iterrows()]
    order = table.sort_values("seconds", kind="stable", na_position="last")
    return order.groupby(["problem", "target", "name"], sort=False).head(1).sort_index()


def name_of(row: pd.Series) -> str:
    """The solver, whatever its target or settings."""
    return str(row["solver"]).replace(":target={target}", "")


def races(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each problem × target: the best of ours and of all others, and how many times as long."""
    nothing = pd.Series({"name": "", "library": "", "settings": "", "seconds": math.nan, "work": math.nan})
    rows = []
    for (problem, target), group in table.groupby(["problem", "target"], sort=False):
        ours = _best(group[group["library"] == PACKAGE], nothing)
        theirs = _best(group[group["library"] != PACKAGE], nothing)
        row = {"problem": problem, "target": target}
        row |= {"ours": ours["name"], "seconds": ours["seconds"]}
        row |= {f"their_{name}": theirs[name] for name in ("name", "library", "settings", "seconds")}
        rows.append(row | {"ratio": _ratio(ours, theirs), "work_ratio": _ratio(ours, theirs, "work")})
    return pd.DataFrame(rows)


def by_library(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds of each library's best solver by problem and target, over the best of all; ∞ where none is."""
    best = table.groupby(["problem", "target", "library"], sort=False)["seconds"].min().unstack("library")
    return best.div(best.min(axis=1), axis=0).fillna(math.inf)


def _best(group: pd.DataFrame, nothing: pd.Series) -> pd.Series:
    there = group[group["seconds"].notna()]
    return nothing if there.empty else there.loc[there["seconds"].idxmin()]


def _ratio(ours: pd.Series, theirs: pd.Series, what: str = "seconds") -> float:
    """How many times as long theirs takes: ∞ where none of theirs gets there, 0 where none of ours does."""
    if not ours["name"]:
        return 0.0 if theirs["name"] else math.nan
    return float(theirs[what] / ours[what]) if theirs["name"] else math.inf
