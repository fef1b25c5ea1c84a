"""What the pages of all studies share: checked rows, the page's frame, its figures and findings."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from reports.conclusions import Conclusion, write_conclusions
from reports.folders import whole_folder
from reports.formats import number, scientific, signed
from reports.html import environment, image, is_unfinished, plain, processor, template, threads, when
from reports.paper import paper_style, save

# Columns of every study: beside its own, `failure` says why a cell has no rows, else "".
_KNOWN = {
    "problem": "the problem: family and parameters that differ from their defaults",
    "seed": "seed of what was drawn",
    "dimension": "p, parameters",
    "num_examples": "n, training examples",
    "damping": "λ",
}
_TEXT = {
    "unit", "problem", "status", "reason", "rule", "why", "method", "preconditioner", "side", "label", "text",
    "picture", "solver", "truth", "metric", "missing", "drawn", "scores", "responses", "library", "version",
    "kind", "settings", "goal", "said", "script", "title", "documented", "source", "expected", "got",
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """How a study is told. `columns` are those of its rows that the page reads, with what they mean.

    `findings` gives a paragraph for each heading, from the numbers alone; `conclusions` what the paper
    concluded and whether that holds here; `figures` are drawn under the names of their files; `context` is
    what else the template shows.
    """

    template: str
    columns: Mapping[str, str]
    findings: Callable[[pd.DataFrame], Mapping[str, str]]
    figures: Mapping[str, Callable[[pd.DataFrame], Figure]]
    context: Callable[[pd.DataFrame], Mapping[str, Any]] = field(default=lambda rows: {})
    conclusions: Callable[[pd.DataFrame], Sequence[Conclusion]] = field(default=lambda rows: ())


def build_study(page: Page, rows: pd.DataFrame, run: dict[str, Any], directory: Path) -> Path:
    """Writes the page of a study and returns the path of its `index.html`.

    Parameters: `rows` of all its cells; `run`, the content of run.json. `directory` receives index.html (one
    file, opens offline), findings.txt, rows.csv, and each figure as PNG and PDF.

    Raises ValueError for missing columns, and FileExistsError where `directory` holds something other than
    such a page.
    """
    measured = clean_rows(rows, page.columns)
    parts = {f"{stem}.{ending}" for stem in page.figures for ending in ("png", "pdf")}
    own = {"index.html", "findings.txt", "rows.csv", "conclusions.json"}
    with whole_folder(directory, own | parts) as fresh:
        rows.to_csv(fresh / "rows.csv", index=False)
        findings = page.findings(measured) if len(measured) else {}
        text = "\n\n".join(f"{heading}: {paragraph}" for heading, paragraph in findings.items())
        (fresh / "findings.txt").write_text(f"{text or 'Nothing was measured.'}\n", encoding="utf-8")
        conclusions = page.conclusions(measured) if len(measured) else ()
        write_conclusions(conclusions, fresh / "conclusions.json")
        if len(measured):
            with paper_style():
                for stem, draw in page.figures.items():
                    save(draw(measured), fresh / stem)
        html = _render(page, rows, measured, findings, conclusions, run, fresh)
        (fresh / "index.html").write_text(html, encoding="utf-8")
    return Path(directory).resolve() / "index.html"


def clean_rows(rows: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The rows that were measured, numbers as float64; ValueError names the columns that are missing."""
    if "failure" not in rows:
        raise ValueError("the rows lack the column failure; they are no study's")
    measured = rows[rows["failure"].fillna("") == ""].reset_index(drop=True)
    wanted = {**_KNOWN, **columns}
    missing = [column for column in wanted if column not in measured]
    if len(measured) and missing:
        raise ValueError(f"the rows lack the columns {missing}")
    for column in wanted:
        if column not in measured:
            measured[column] = pd.Series(dtype=object if column in _TEXT else float)
        elif column in _TEXT:
            measured[column] = measured[column].fillna("").astype(str)
        else:
            measured[column] = pd.to_numeric(measured[column]).astype(float)
    return measured


def plus_minus(value: float, error: float) -> str:
    """ "1.234 ± 0.041": as many decimals as two digits of the error take; the value alone without one."""
    if math.isnan(value) or not 0 < error < math.inf:
        return number(value)
    decimals = 1 - math.floor(math.log10(error))
    if decimals > 5:
        return f"{number(value)} ± {scientific(f'{error:.1e}')}"
    return f"{signed(f'{value:,.{max(decimals, 0)}f}')} ± {error:,.{max(decimals, 0)}f}"


def model_facts(row: pd.Series) -> list[tuple[str, str, str]]:
    """(name, value, "") of what the problem's family tells of its model and data; old rows tell nothing."""
    told = row.get("facts")
    facts = json.loads(told) if isinstance(told, str) and told else {}
    return [
        (name, number(value) if isinstance(value, float) else plain(value), "")
        for name, value in facts.items()
    ]


def _render(
    page: Page,
    rows: pd.DataFrame,
    measured: pd.DataFrame,
    findings: Mapping[str, str],
    conclusions: Sequence[Conclusion],
    run: dict[str, Any],
    folder: Path,
) -> str:
    asked = run.get("experiment") or {}
    machine, versions = run.get("machine") or {}, run.get("versions") or {}
    told = [
        f"scale {asked['scale']}" if asked.get("scale") else "",
        when(run),
        processor(run),
        threads(machine),
        f"torch {versions['torch']}" if "torch" in versions else "",
    ]
    failed = rows[rows["failure"].fillna("") != ""]
    return template(page.template).render(
        title=asked.get("title") or asked.get("name") or "Study",
        description=asked.get("description") or "",
        meta=" · ".join(part for part in told if part),
        command=run.get("command") or "",
        scale=asked.get("scale") or "",
        parameters=[(name, plain(value)) for name, value in (asked.get("parameters") or {}).items()],
        interrupted=is_unfinished(run),
        failures=[
            {"problem": row["problem"], "reason": row["failure"], "traceback": row.get("traceback") or ""}
            for _, row in failed.drop_duplicates(["problem", "failure"]).iterrows()
        ],
        num_failed=len(failed),
        measured=bool(len(measured)),
        findings=list(findings.items()),
        conclusions=conclusions,
        figures={stem: image(folder / f"{stem}.png") for stem in page.figures} if len(measured) else {},
        columns=list({**_KNOWN, **page.columns}.items()),
        environment=environment(run),
        **(page.context(measured) if len(measured) else {}),
    )
