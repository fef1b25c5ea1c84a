"""build_peers(): the page on other libraries, whole or not at all."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from reports.formats import ABSENT, count, duration, number, share, target_text, times
from reports.peers_figure import profile_figure, seconds_figure
from reports.peers_rows import COLUMNS, PACKAGE, REPRODUCTIONS, contenders, races, solves
from reports.peers_verdicts import conclusions, findings
from reports.rows import in_order
from reports.study import Page, build_study, model_facts


def build_peers(rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`; see `build_study`."""
    return build_study(_PAGE, rows, run, directory)


def _context(rows: pd.DataFrame) -> dict[str, Any]:
    found = solves(rows)
    race = races(contenders(found))
    targets = list(race["target"].unique())
    versions = found.drop_duplicates("library")
    return {
        "targets": [target_text(target) for target in targets],
        "libraries": [(row["library"], row["version"]) for _, row in versions.iterrows() if row["version"]],
        "problems": [
            {
                "name": problem,
                "facts": [*_facts(own.iloc[0]), *model_facts(own.iloc[0])],
                "solves": _solves(tried, race[race["problem"] == problem], targets),
                "skipped": _skipped(tried),
            }
            for problem in in_order(rows["problem"])
            for own in [rows[rows["problem"] == problem]]
            for tried in [found[found["problem"] == problem]]
        ],
        "reproductions": _reproductions(rows),
    }


def _facts(row: pd.Series) -> list[tuple[str, str, str]]:
    return [
        ("p", count(row["dimension"]), "parameters"),
        ("n", count(row["num_examples"]), "training examples"),
        ("k", count(row["num_columns"]), "right-hand sides"),
        ("λ", number(row["damping"]), "damping"),
    ]


def _solves(own: pd.DataFrame, race: pd.DataFrame, targets: list[float]) -> list[dict[str, Any]]:
    """Every solve that took place, the fastest first; ratios are to the best of ours."""
    ran = own[own["status"] != "skipped"]
    ours = dict(zip(race["target"], race["seconds"], strict=True))
    order = sorted(
        range(len(ran)), key=lambda place: [_late(ran["to"].iloc[place][target][0]) for target in targets]
    )
    return [_solve(ran.iloc[place], ours, targets) for place in order]


def _late(seconds: float) -> float:
    return math.inf if math.isnan(seconds) else seconds


def _solve(row: pd.Series, ours: dict[float, float], targets: list[float]) -> dict[str, Any]:
    to = [(row["to"][target][0], ours[target]) for target in targets]
    told = row["reason"] if row["status"] in ("failed", "breakdown", "diverged") else ""
    return {
        "library": row["library"],
        "is_ours": row["library"] == PACKAGE,
        "settings": row["settings"],
        "kind": f"{row['kind']}, {target_text(float(row['goal']))}" if row["goal"] else row["kind"],
        "status": row["status"],
        "error": ABSENT if math.isnan(row["error"]) else share(row["error"]),
        "wrong": row["wrong"],
        "silent": row["silent"],
        "note": row["said"] or told,
        "setup": duration(row["setup_seconds"]),
        "solve": duration(row["solve_seconds"]),
        "work": number(row["work"]),
        "memory": f"{number(row['peak_memory_bytes'] / 2**20)} MiB",
        "to": [
            (duration(seconds), times(seconds / best) if best == best and seconds == seconds else "")
            for seconds, best in to
        ],
    }


def _skipped(own: pd.DataFrame) -> list[tuple[str, str]]:
    """(reason, solvers): each reason once."""
    skipped = own[own["status"] == "skipped"]
    return [
        (reason, ", ".join(in_order(skipped.loc[skipped["reason"] == reason, "solver"])))
        for reason in in_order(skipped["reason"])
    ]


def _reproductions(rows: pd.DataFrame) -> list[dict[str, Any]]:
    own = rows[rows["kind"] == REPRODUCTIONS].drop_duplicates("script")
    return [
        {name: row[name] for name in ("script", "title", "documented", "source", "library", "version")}
        | {"expected": row["expected"], "got": row["got"], "missing": row["missing"]}
        | {"differs": float(row["differs"]) > 0}
        for _, row in own.iterrows()
    ]


_PAGE = Page(
    template="peers.html.j2",
    columns=COLUMNS,
    findings=findings,
    figures={"seconds": seconds_figure, "profile": profile_figure},
    context=_context,
    conclusions=conclusions,
)
