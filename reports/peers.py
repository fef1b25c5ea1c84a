"""build_peers(): the page on other libraries, whole or not at all."""

import math
import re
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from reports.formats import ABSENT, count, duration, number, scientific, share, target_text, times
from reports.peers_figure import profile_figure, seconds_figure
from reports.peers_rows import COLUMNS, PACKAGE, REPRODUCTIONS, contenders, races, solves
from reports.peers_verdicts import conclusions, findings
from reports.rows import in_order
from reports.study import Page, build_study, model_facts

# Of what a library said, or of an exception.
LONGEST_NOTE = 400


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
        "races": _races(race),
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


def _races(race: pd.DataFrame) -> list[dict[str, Any]]:
    """For each problem a line for each target."""
    return [
        {
            "problem": problem,
            "lines": [
                {
                    "target": target_text(row["target"]),
                    "ours": row["ours"] or ABSENT,
                    "seconds": duration(row["seconds"]),
                    "library": row["their_library"],
                    "theirs": _short(row["their_settings"]) or ABSENT,
                    "their_seconds": duration(row["their_seconds"]),
                    "ratio": _ratio(row["ratio"]),
                    "work_ratio": _ratio(row["work_ratio"]),
                }
                for _, row in race[race["problem"] == problem].iterrows()
            ],
        }
        for problem in in_order(race["problem"])
    ]


def _ratio(ratio: float) -> str:
    """Empty where only one of the two gets there."""
    return times(ratio) if 0 < ratio < math.inf else ""


def _short(settings: str) -> str:
    """Numbers that were computed to three digits: 5.68407e-05 → 5.68e-5."""
    return re.sub(
        r"(?<![\w.])\d+(?:\.\d+(?:e[+-]?\d+)?|e[+-]?\d+)(?![\w.])",
        lambda found: scientific(f"{float(found[0]):.3g}"),
        settings,
    )


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
    told = row["reason"] if row["status"] in ("failed", "breakdown", "diverged", "budget_spent") else ""
    return {
        "library": row["library"],
        "is_ours": row["library"] == PACKAGE,
        "settings": _short(row["settings"]),
        "kind": f"{row['kind']}, {target_text(float(row['goal']))}" if row["goal"] else row["kind"],
        "status": row["status"],
        "error": ABSENT if math.isnan(row["error"]) else share(row["error"]),
        "wrong": row["wrong"],
        "silent": row["silent"],
        "note": textwrap.shorten(row["said"] or told, LONGEST_NOTE, placeholder=" …"),
        "setup": duration(row["setup_seconds"]),
        "solve": duration(row["solve_seconds"]),
        "work": number(row["work"]),
        "memory": _memory(row["peak_memory_bytes"]),
        "to": [(duration(seconds), _ratio(seconds / best)) for seconds, best in to],
    }


def _memory(size: float) -> str:
    """In whole MiB, below which it is noise."""
    return ABSENT if math.isnan(size) else "< 1 MiB" if size < 2**20 else f"{count(size / 2**20)} MiB"


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
        {name: row[name] for name in _REPRODUCTION} | {"differs": float(row["differs"]) > 0}
        for _, row in own.iterrows()
    ]


_REPRODUCTION = (
    "script", "title", "documented", "source", "library", "version", "expected", "got", "missing",
)  # fmt: skip
_PAGE = Page(
    template="peers.html.j2",
    columns=COLUMNS,
    findings=findings,
    figures={"seconds": seconds_figure, "profile": profile_figure},
    context=_context,
    conclusions=conclusions,
)
