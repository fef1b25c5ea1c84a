"""Figures for the page and for a paper: each as PNG at 200 dpi and as PDF."""

import math
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.formats import target_text
from reports.panels import (
    CEILING,
    Scale,
    Style,
    apply_scale,
    draw_curves,
    draw_front,
    draw_points,
    scale_for,
    styles,
)
from reports.paper import paper_style, plain_label, save
from reports.rows import in_order

_VALUE_LABELS = {
    "error": r"relative error  $\|x - x^*\|\,/\,\|x^*\|$",
    "residual": r"relative residual  $\|b - (H + \lambda I)x\|\,/\,\|b\|$",
}
_COST_LABELS = {
    "work": "work incl. set-up  (gradient equivalents)",
    "seconds": "time incl. set-up  (seconds)",
}
# A third of a page is too narrow for more.
_SHORT_WORK = "work  (gradient equivalents)"
_TOTALS = {"work": "total_work", "seconds": "total_seconds"}


@dataclass(frozen=True)
class FigureSet:
    """File stems of what was drawn: one figure per problem, the Pareto fronts, and the overview."""

    by_problem: dict[str, str]
    pareto: str
    overview: str


def draw_figures(directory: Path, path: pd.DataFrame, table: pd.DataFrame, target: float) -> FigureSet:
    """Draws everything into `directory`, which it makes.

    `path` is a history with set-up that ends in each cell's final point (see with_final_points), `table` a
    comparison.
    """
    directory.mkdir()
    problems = in_order(table["problem"])
    # By name, not by rank: a solver keeps its look from one run of an experiment to the next.
    looks = styles(sorted(set(table["solver"])))
    stems = file_stems(problems)
    with paper_style():
        for problem in problems:
            figure = _problem_figure(*_of(problem, path, table), looks, target)
            save(figure, directory / stems[problem])
        save(_pareto_figure(table, looks, target), directory / "pareto")
        save(_overview_figure(path, table, looks, target), directory / "overview")
    return FigureSet(stems, "pareto", "overview")


def with_final_points(path: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """The history with each cell's end as its last row, and without rows of unknown value or cost.

    A solver without recorded iterates has at least its end; a recorded iterate at the same cost gives way.
    """
    final = judged.rename(columns={"steps": "step"}).assign(
        work=judged["total_work"], seconds=judged["total_seconds"]
    )
    joined = pd.concat([path, final[path.columns]], ignore_index=True) if len(path) else final[path.columns]
    joined = joined.dropna(subset=["work", "seconds", "value"])
    joined = joined.drop_duplicates(["problem", "solver", "seed", "work", "seconds"], keep="last")
    return joined.sort_values(["problem", "solver", "seed", "seconds"], kind="stable", ignore_index=True)


def file_stems(problems: list[str]) -> dict[str, str]:
    """A distinct file name, without ending, for each problem's figure."""
    stems: dict[str, str] = {}
    for problem in problems:
        slug = re.sub(r"[^a-z0-9]+", "-", problem.lower()).strip("-")[:60] or "problem"
        stem, count = f"error-{slug}", 1
        while stem in stems.values():
            count += 1
            stem = f"error-{slug}-{count}"
        stems[problem] = stem
    return stems


def _of(problem: str, path: pd.DataFrame, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return path[path["problem"] == problem], table[table["problem"] == problem]


def _problem_figure(path: pd.DataFrame, rows: pd.DataFrame, looks: dict[str, Style], target: float) -> Figure:
    shown = {solver: looks[solver] for solver in sorted(set(rows["solver"]))}
    figure = _figure(10.0, 4.3, shown, target)
    left, right = figure.subplots(1, 2, sharey=True)
    _curve_panel(left, path, rows, "work", looks, target)
    _curve_panel(right, path, rows, "seconds", looks, target)
    left.set_ylabel(_VALUE_LABELS[rows["measure"].iloc[0]])
    return figure


def _overview_figure(
    path: pd.DataFrame, table: pd.DataFrame, looks: dict[str, Style], target: float
) -> Figure:
    figure, panels = _grid(table, looks, target)
    for (problem, measure), ax in panels:
        _curve_panel(ax, *_of(problem, path, table), "work", looks, target)
        ax.set_title(panel_title(problem), loc="left")
        ax.set_xlabel(_SHORT_WORK)
        ax.set_ylabel(f"relative {measure}")
    return figure


def _pareto_figure(table: pd.DataFrame, looks: dict[str, Style], target: float) -> Figure:
    front = Line2D([], [], color="0.35", linewidth=1.1, label="Pareto front")
    figure, panels = _grid(table, looks, target, front, points_only=True)
    for (problem, measure), ax in panels:
        rows = table[(table["problem"] == problem) & table["value"].notna()]
        x_scale, y_scale = scale_for(rows["total_work"].to_numpy()), _value_scale(rows, target)
        apply_scale(ax, "x", x_scale)
        apply_scale(ax, "y", y_scale)
        draw_front(ax, rows, x_scale, y_scale)
        draw_points(ax, rows, "total_work", x_scale, y_scale, looks, size=9)
        _target_line(ax, target)
        ax.set_title(panel_title(problem), loc="left")
        ax.set_xlabel(_SHORT_WORK)
        ax.set_ylabel(f"final relative {measure}")
    return figure


def _curve_panel(
    ax: Axes, path: pd.DataFrame, rows: pd.DataFrame, cost: str, looks: dict[str, Style], target: float
) -> None:
    rows = rows[rows["value"].notna()]
    ends = rows[_TOTALS[cost]]
    x_scale = scale_for(pd.concat([path[cost], ends]).to_numpy())
    y_scale = _value_scale(pd.concat([path[["value"]], rows[["value"]]]), target)
    apply_scale(ax, "x", x_scale)
    apply_scale(ax, "y", y_scale)
    _target_line(ax, target)
    draw_curves(ax, path, cost, x_scale, y_scale, looks)
    draw_points(ax, rows, _TOTALS[cost], x_scale, y_scale, looks)
    ax.set_xlabel(_COST_LABELS[cost])


def _value_scale(rows: pd.DataFrame, target: float) -> Scale:
    return scale_for(pd.concat([rows["value"], pd.Series([target])]).to_numpy(), ceiling=CEILING)


def _target_line(ax: Axes, target: float) -> None:
    ax.axhline(target, color="0.25", linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)


def _grid(
    table: pd.DataFrame, looks: dict[str, Style], target: float, *extra: Line2D, points_only: bool = False
) -> tuple[Figure, Iterator[tuple[tuple[str, str], Axes]]]:
    """One panel per problem, at most three in a row (four make a square), and one legend: the figure, and
    (problem, measure) with its axes."""
    measures = dict(zip(table["problem"], table["measure"], strict=True))
    columns = 2 if len(measures) == 4 else min(3, len(measures))
    lines = math.ceil(len(measures) / columns)
    figure = _figure(
        {1: 8.0, 2: 8.5, 3: 10.0}[columns], 3.4 * lines, looks, target, *extra, points_only=points_only
    )
    axes = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for unused in axes[len(measures) :]:
        unused.remove()
    return figure, zip(measures.items(), axes, strict=False)


def _figure(
    width: float,
    height: float,
    looks: dict[str, Style],
    target: float,
    *extra: Line2D,
    points_only: bool = False,
) -> Figure:
    """An empty figure of that size in inches, with the legend of its solvers in added room below the axes."""
    labels = [plain_label(textwrap.shorten(solver, 70, placeholder=" …")) for solver in looks]
    handles = [look.handle() for look in looks.values()]
    if points_only:
        for handle in handles:
            handle.set_linestyle("none")
    goal = Line2D(
        [], [], color="0.25", linewidth=1.1, linestyle=(0, (4, 3)), label=f"target ({target_text(target)})"
    )
    for line in (goal, *extra):
        handles.append(line)
        labels.append(str(line.get_label()))
    columns = legend_columns([len(label) for label in labels], width)
    figure = Figure(
        figsize=(width, height + 0.2 * math.ceil(len(labels) / columns) + 0.15), layout="constrained"
    )
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.6,
        columnspacing=1.6,
    )  # fmt: skip
    return figure


def legend_columns(lengths: list[int], width: float) -> int:
    """As many columns as fit in `width` inches, for labels of these lengths laid out column by column."""
    for columns in range(min(6, len(lengths)), 1, -1):
        # As matplotlib fills them: the first columns take what does not divide evenly.
        longest = [int(column.max()) for column in np.array_split(np.array(lengths), columns)]
        # A character is about 0.08 in wide at this size; a handle and the gaps take about 0.8 in.
        if sum(0.08 * length + 0.8 for length in longest) <= width:
            return columns
    return 1


def panel_title(problem: str) -> str:
    """The label on at most three lines, broken after commas and brackets as well as at spaces."""
    spaced = re.sub(r"([,(])(?=\S)", r"\1 ", problem)
    lines = textwrap.wrap(spaced, 36, max_lines=3, placeholder=" …")
    return plain_label("\n".join(lines).replace("( ", "("))
