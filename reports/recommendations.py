"""Which solver should I use? One entry per problem, every word of it from the numbers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from reports.formats import Formatter, duration, number, share, target_text, times
from reports.rows import STATUSES, in_order

# Two costs this close are called level: work is counted exactly, seconds are not.
LEVEL = 1.05


@dataclass(frozen=True)
class Finding:
    """One sentence: `solver` is its subject and `text` the rest. `kind` says what it is about."""

    kind: str
    solver: str
    text: str


@dataclass(frozen=True)
class Recommendation:
    """What to run on one problem, and what to beware of.

    `picks` have kinds "cheapest", "fastest" and "most accurate", or "closest" alone where no solver reached
    the target; `warnings` have the solver's status as kind, or "missed".
    """

    problem: str
    measure: str
    target: float
    num_reached: int
    num_solvers: int
    picks: tuple[Finding, ...]
    warnings: tuple[Finding, ...]

    @property
    def goal(self) -> str:
        """The target in words: "1 % error", or "1 % residual" without a reference."""
        return f"{target_text(self.target)} {self.measure}"


def recommend(table: pd.DataFrame, target: float) -> list[Recommendation]:
    """One recommendation per problem of a comparison table (see tables.comparison), in its order."""
    return [
        _recommend(problem, table[table["problem"] == problem], target)
        for problem in in_order(table["problem"])
    ]


def as_frame(recommendations: Iterable[Recommendation]) -> pd.DataFrame:
    """The findings as rows: problem, measure, target, kind, solver, text."""
    rows = [
        (entry.problem, entry.measure, entry.target, finding.kind, finding.solver, finding.text)
        for entry in recommendations
        for finding in (*entry.picks, *entry.warnings)
    ]
    return pd.DataFrame(rows, columns=["problem", "measure", "target", "kind", "solver", "text"])


def _recommend(problem: str, rows: pd.DataFrame, target: float) -> Recommendation:
    measure = rows["measure"].iloc[0]
    goal = f"{target_text(target)} {measure}"
    at_target = rows[rows["reached"]]
    picks = _picks(at_target, rows, goal) if len(at_target) else _closest(rows, measure)
    warnings = [finding for _, row in rows.iterrows() if (finding := _warning(row, target)) is not None]
    # Failures first, misses last; within a kind the order of the table stays.
    severity = {status: -index for index, status in enumerate(STATUSES)}
    warnings.sort(key=lambda finding: severity.get(finding.kind, 1))
    return Recommendation(problem, measure, target, len(at_target), len(rows), tuple(picks), tuple(warnings))


def _picks(at_target: pd.DataFrame, rows: pd.DataFrame, goal: str) -> list[Finding]:
    cheapest = at_target.sort_values("work_to_target", kind="stable").iloc[0]
    work = f"{number(cheapest['work_to_target'])} gradient equivalents"
    if cheapest["work_to_target"] == 0:
        work = "no gradient at all"
    versus = _versus(at_target, "work_to_target", _work, "fewer than")
    picks = [Finding("cheapest", cheapest["solver"], f"reaches {goal} after {work}{versus}.")]

    timed = at_target[at_target["seconds_to_target"].notna()].sort_values("seconds_to_target", kind="stable")
    if len(timed):
        fastest = timed.iloc[0]
        versus = _versus(timed, "seconds_to_target", duration, "faster than")
        taken = duration(fastest["seconds_to_target"])
        picks.append(Finding("fastest", fastest["solver"], f"takes {taken}{versus}."))

    best = rows[rows["usable"] & rows["value"].notna()].sort_values("value", kind="stable").iloc[0]
    text = f"ends at {_measured(best)}, for {_work(best['total_work'])} in all."
    picks.append(Finding("most accurate", best["solver"], text))
    return picks


def _closest(rows: pd.DataFrame, measure: str) -> list[Finding]:
    answers = rows[rows["usable"] & rows["value"].notna()].sort_values("value", kind="stable")
    if not len(answers):
        return []
    best = answers.iloc[0]
    text = f"comes closest: {_off(best['value'], measure)} after {_work(best['total_work'])}."
    return [Finding("closest", best["solver"], text)]


def _versus(rows: pd.DataFrame, cost: str, form: Formatter, comparative: str) -> str:
    """How the best compares with the next: ", level with a and 4.1 × fewer than b", from its comma on."""
    ordered = rows.sort_values(cost, kind="stable")
    costs = ordered[cost].tolist()
    names = ordered["solver"].tolist()
    level = [name for name, other in zip(names[1:], costs[1:], strict=True) if other <= LEVEL * costs[0]]
    parts = [f"level with {_listed(level)}"] if level else []
    behind = len(level) + 1
    if behind < len(names) and not math.isnan(costs[behind]):
        if costs[0] > 0:
            parts.append(f"{times(costs[behind] / costs[0])} {comparative} {names[behind]}")
        else:
            parts.append(f"where {names[behind]} takes {form(costs[behind])}")
    if not parts:
        return "; no other solver gets there"
    return ", " + " and ".join(parts)


def _warning(row: pd.Series, target: float) -> Finding | None:
    seeds, status = row["seeds"], row["status"]
    if not row["usable"]:
        verb = {
            "diverged": "diverged", "breakdown": "broke down", "failed": "failed", "skipped": "was skipped",
        }[status]  # fmt: skip
        count = row["status_counts"][status]
        on_some = "" if count == seeds else f" on {count} of {seeds} seeds"
        reason = row["reasons"][status]
        return Finding(status, row["solver"], f"{verb}{on_some}" + (f": {reason}" if reason else "."))
    if row["reached"]:
        return None
    if row["seeds_at_target"]:
        missed = seeds - row["seeds_at_target"]
        worst = _off(row["value_max"], row["measure"])
        return Finding("missed", row["solver"], f"misses on {missed} of {seeds} seeds; the worst is {worst}.")
    if math.isnan(row["value"]):
        return Finding("missed", row["solver"], f"ended without a measured {row['measure']}.")
    prefix = {"converged": "says it converged, yet is", "budget_spent": "spent its budget and is still"}
    off = _off(row["value"], row["measure"])
    multiple = f", {times(row['value'] / target)} the target" if row["value"] < 10 else ""
    return Finding("missed", row["solver"], f"{prefix.get(status, 'is')} {off}{multiple}.")


def _off(value: float, measure: str) -> str:
    if measure == "residual":
        return f"at a residual of {number(value)}"
    if value >= 10:
        return f"off by {number(value)} times the solution's size"
    return f"{share(value)} off"


def _measured(row: pd.Series) -> str:
    return f"{'an' if row['measure'] == 'error' else 'a'} {row['measure']} of {number(row['value'])}"


def _work(value: float) -> str:
    return f"{number(value)} gradient equivalents"


def _listed(names: list[str]) -> str:
    """ "a", "a and b", "a, b and c"; from the fourth on they are counted."""
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
