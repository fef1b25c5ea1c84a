"""What the page says: frames turned into the plain values that the template lays out."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports.figures import FigureSet
from reports.formats import ABSENT, Formatter, count, duration, number, setting, spread, target_text, times
from reports.html import environment, image, plain, template, when
from reports.recommendations import Recommendation
from reports.rows import STATUSES, in_order
from reports.verdicts import HOLDS, NO_PROMISE, SILENT, VIOLATED, summary

STATUS_NAMES = {status: status.replace("_", " ") for status in STATUSES}

# Column heads of the comparison table: (quantity, head, how its numbers read).
_ACCURACY: list[tuple[str, Formatter]] = [("error", number), ("energy_error", number), ("residual", number)]
_WORK: list[tuple[str, Formatter]] = [
    ("setup_work", number), ("solve_work", number), ("work_to_target", number),
]  # fmt: skip
_SECONDS: list[tuple[str, Formatter]] = [
    ("setup_seconds", duration), ("solve_seconds", duration), ("seconds_to_target", duration),
]  # fmt: skip
_QUANTITIES = [*_ACCURACY, ("steps", number), *_WORK, *_SECONDS]

# The best of these is set in bold; of the others no one value is better.
_SMALLEST_IS_BEST = ("error", "energy_error", "residual", "work_to_target", "seconds_to_target")

_FACTS: list[tuple[str, str, str, Formatter]] = [
    ("dimension", "p", "parameters", count),
    ("num_examples", "n", "training examples", count),
    ("num_columns", "k", "right-hand sides", count),
    ("damping", "λ", "damping", setting),
    ("lambda_max", "λ_max(H)", "largest eigenvalue", number),
    ("trace", "Tr(H)", "trace", number),
    ("condition_number", "κ(H + λI)", "condition number", number),
    ("reference_residual", "reference residual", "relative residual of the reference solution", number),
    ("reference_error", "reference error ≤", "what the reference itself, by CG, may be off", number),
]


@dataclass(frozen=True)
class Value:
    """One number of a table: its median, its range over seeds ("" if none), and whether it is the best."""

    text: str
    range: str = ""
    best: bool = False


def render(
    cells: pd.DataFrame,
    table: pd.DataFrame,
    recommendations: list[Recommendation],
    theory: pd.DataFrame,
    figures: FigureSet | None,
    figure_directory: Path,
    run: dict[str, Any],
    target: float,
    profile: dict[str, Any] | None,
) -> str:
    """The page as HTML, self-contained: style and figures are inside it.

    `profile` is what profile_page makes of a performance profile, None where there is none.
    """
    experiment = run.get("experiment") or {}
    return template("report.html.j2").render(
        title=experiment.get("title")
        or experiment.get("name")
        or "Benchmark of inverse Hessian-vector products",
        description=experiment.get("description") or "",
        when=when(run),
        interrupted=bool(run.get("interrupted")),
        command=run.get("command") or "",
        extent=_extent(cells),
        counts=_counts(cells),
        target=target_text(target),
        recommendations=recommendations,
        profile=profile,
        problems=[
            _problem(index, problem, cells, table, figures, figure_directory)
            for index, problem in enumerate(in_order(table["problem"]), start=1)
        ],
        pareto=image(figure_directory / f"{figures.pareto}.png") if figures else "",
        theory=_theory(theory),
        theory_summary=summary(theory),
        failures=_failures(cells),
        environment=environment(run),
        status_names=STATUS_NAMES,
    )


def _problem(
    index: int,
    problem: str,
    cells: pd.DataFrame,
    table: pd.DataFrame,
    figures: FigureSet | None,
    figure_directory: Path,
) -> dict[str, Any]:
    rows = table[table["problem"] == problem]
    stem = figures.by_problem[problem] if figures else ""
    return {
        "anchor": f"problem-{index}",
        "label": problem,
        "measure": rows["measure"].iloc[0],
        "facts": _facts(cells[cells["problem"] == problem]),
        "rows": _table_rows(rows),
        "figure": image(figure_directory / f"{stem}.png") if stem else "",
        "stem": stem,
    }


def _table_rows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    answers = rows[rows["usable"]]
    best = {quantity: answers[quantity].min() for quantity in _SMALLEST_IS_BEST}
    return [
        {
            "solver": row["solver"],
            "settings": _settings(row["solver_settings"]),
            "statuses": _statuses(row),
            "values": [_value(row, quantity, form, best) for quantity, form in _QUANTITIES],
        }
        for _, row in rows.iterrows()
    ]


def _value(row: pd.Series, quantity: str, form: Formatter, best: dict[str, float]) -> Value:
    if quantity.endswith("_to_target") and 0 < row["seeds_at_target"] < row["seeds"]:
        return Value(f"{row['seeds_at_target']} of {row['seeds']} seeds")
    text, ends = spread(row[quantity], row[f"{quantity}_min"], row[f"{quantity}_max"], form)
    return Value(text, ends, bool(row["usable"]) and row[quantity] == best.get(quantity))


def _statuses(row: pd.Series) -> list[dict[str, str]]:
    """Every status the seeds ended in, worst first, each with its reason; counted where they differ."""
    counts = row["status_counts"]
    return [
        {
            "status": status,
            "count": f" {count} of {row['seeds']}" if len(counts) > 1 else "",
            "reason": row["reasons"][status],
        }
        for status, count in counts.items()
    ]


def _settings(text: str) -> str:
    return ", ".join(f"{name} = {plain(value)}" for name, value in _parsed(text).items())


def _facts(cells: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(symbol, value, meaning) of what is known about a problem; a range where seeds differ."""
    facts = []
    for column, symbol, meaning, form in _FACTS:
        # Of a dense reference there is nothing to tell.
        if cells[column].notna().any() and (column != "reference_error" or cells[column].max() > 0):
            facts.append((symbol, _over_seeds(cells[column].dropna().tolist(), form), meaning))
    ratio = (cells["product_seconds"] / cells["gradient_seconds"]).dropna()
    if len(ratio):
        facts.append(
            ("product / gradient", _over_seeds([ratio.median()]), "measured seconds of one over the other")
        )
    for column in ("dtype", "device"):
        names = [name for name in in_order(cells[column]) if name]
        if names:
            facts.append((column, ", ".join(names), ""))
    parsed = [_parsed(text) for text in in_order(cells["facts"])]
    for name in in_order(name for facts_of_cell in parsed for name in facts_of_cell):
        facts.append((name, _over_seeds([known[name] for known in parsed if name in known]), ""))
    return facts


def _over_seeds(values: list[Any], form: Formatter = number) -> str:
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return ", ".join(in_order(plain(value) for value in values))
    numbers = pd.Series(values, dtype=float)
    return " ".join(spread(numbers.median(), numbers.min(), numbers.max(), form)).strip()


def _theory(found: pd.DataFrame) -> list[dict[str, Any]]:
    """For each problem the solvers of which theory has something to say, their seeds together."""
    said = found[found["verdict"] != SILENT]
    return [
        {
            "problem": problem,
            "rows": [_verdict(solver, rows[rows["solver"] == solver]) for solver in in_order(rows["solver"])],
        }
        for problem in in_order(said["problem"])
        for rows in [said[said["problem"] == problem]]
    ]


def _verdict(solver: str, seeds: pd.DataFrame) -> dict[str, Any]:
    """One solver on one problem: medians over the seeds, and the reason of the worst of them."""
    counts = Counter(seeds["verdict"])
    worst_first = [verdict for verdict in (VIOLATED, HOLDS, NO_PROMISE) if counts[verdict]]
    worst = seeds[seeds["verdict"] == worst_first[0]]
    first = worst.sort_values("factor", kind="stable").iloc[0]
    factors = seeds["factor"].dropna()
    return {
        "solver": solver,
        "kind": first["kind"],
        "verdicts": [
            (verdict, f" {counts[verdict]} of {len(seeds)}" if len(worst_first) > 1 else "")
            for verdict in worst_first
        ],
        "quantity": first["quantity"],
        "numbers": [
            Value(*spread(seeds[name].median(), seeds[name].min(), seeds[name].max()))
            for name in ("promised", "measured")
        ],
        "factor": times(factors.median()) if len(factors) else ABSENT,
        "reason": first["reason"],
        "misled": bool((seeds["honest"] == False).any()),  # noqa: E712
    }


def _failures(cells: pd.DataFrame) -> list[dict[str, str]]:
    rows = cells[(cells["status"] == "failed") | (cells["traceback"] != "")]
    return [
        {
            "name": f"{row['solver']} on {row['problem']}, seed {row['seed']:g}",
            "reason": row["reason"],
            "traceback": row["traceback"],
        }
        for _, row in rows.iterrows()
    ]


def _extent(cells: pd.DataFrame) -> str:
    """ "3 problems × 7 solvers × 3 seeds"."""
    parts = []
    for column in ("problem", "solver", "seed"):
        count = cells[column].nunique()
        parts.append(f"{count} {column}{'' if count == 1 else 's'}")
    return " × ".join(parts)


def _counts(cells: pd.DataFrame) -> list[tuple[str, int]]:
    counts = Counter(cells["status"])
    return [(status, counts[status]) for status in STATUSES if counts[status]]


def _parsed(text: str) -> dict[str, Any]:
    """A JSON object; anything else is not worth losing the report for, and is shown as it stands."""
    if not text:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    return value if isinstance(value, dict) else {"facts": value}
