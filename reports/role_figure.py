"""The figures of a role page: rankings against λ, and the most influential pictures with and without."""

import base64
import io
import math
from collections.abc import Mapping, Sequence

import matplotlib.image
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D

from reports.figures import panel_title
from reports.formats import number
from reports.panels import Style, styles
from reports.paper import plain_label
from reports.role_rows import OWN, SIDES, Answer, Shown
from reports.rows import in_order

# Rows of pictures, of one problem and of all: more would make the figure too large to look at.
MOST_QUERIES, MOST_ROWS = 4, 6
# Inches of a picture with its margin.
CELL = 0.66
FRAMES = "green frame: the query's class; numbers: scores"
HEADINGS = {"with": "most influential, with the inverse", "without": "without: gradient similarity"}


def role_figure(table: pd.DataFrame) -> Figure:
    """Rank correlation and common examples, with and without the inverse, and what queries have in common."""
    problems = in_order(table["problem"])
    looks = styles(problems)
    figure = Figure(figsize=(10.8, 3.4 + 0.25 * math.ceil(len(problems) / 2)), layout="constrained")
    correlation, same, between = figure.subplots(1, 3)
    top = table["top"].iloc[0]
    for problem in problems:
        own = table[table["problem"] == problem]
        look = looks[problem]
        _line(correlation, own, "rank_correlation", look)
        _line(same, own, "same", look)
        _line(between, own, "between_with", look)
        between.axhline(
            own["between_without"].iloc[0], color=look.colour, linewidth=1.1, dashes=(2, 2), zorder=2
        )
    for ax, title in (
        (correlation, "rank correlation, with and without"),
        (same, f"in common of the top {top:.0f}"),
        (between, "mean |ρ| between queries"),
    ):
        ax.set_title(title, loc="left")
        ax.set_xscale("log")
        ax.set_xlabel(r"$\lambda\,/\,\lambda_{\max}$")
    correlation.set_ylim(min(0.0, table["rank_correlation_low"].min() - 0.05), 1.03)
    same.set_ylim(0, top * 1.03)
    between.set_ylim(bottom=0)
    handles = [looks[problem].handle() for problem in problems]
    handles += [
        Line2D([], [], color="0.3", marker="o", linestyle="none", markersize=9, markerfacecolor="white",
               markeredgewidth=1.8),
        Line2D([], [], color="0.3", linewidth=1.1, dashes=(2, 2)),
    ]  # fmt: skip
    names = [panel_title(problem).replace("\n", " ") for problem in problems]
    names += ["the problem's own λ", "without the inverse (λ → ∞)"]
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _line(ax: Axes, own: pd.DataFrame, column: str, look: Style) -> None:
    """A line over λ, with the range over queries as a band and the problem's own λ as a hollow mark."""
    x, y = own["share"].to_numpy(), own[column].to_numpy()
    ax.plot(x, y, color=look.colour, linestyle=look.dashes or "-", linewidth=1.7, marker=look.marker,
            markersize=5, zorder=3)  # fmt: skip
    if f"{column}_low" in own:
        low, high = (own[f"{column}_{end}"].to_numpy() for end in ("low", "high"))
        ax.fill_between(x, low, high, color=look.colour, alpha=0.13, linewidth=0, zorder=1)
    here = own[own["multiple"] == OWN]
    ax.plot(here["share"], here[column], color=look.colour, marker=look.marker, markersize=9,
            linestyle="none", markerfacecolor="white", markeredgewidth=1.8, zorder=4)  # fmt: skip


def examples_figure(answers: Mapping[str, Sequence[Answer]]) -> Figure:
    """A row per query: its picture, the most influential ones with the inverse and those without.

    `answers` by problem, all with pictures; of each problem only the first few are drawn.
    """
    most = max(1, min(MOST_QUERIES, MOST_ROWS // len(answers)))
    rows = [
        (problem, place, answer)
        for problem, own in answers.items()
        for place, answer in enumerate(own[:most])
    ]
    shown = max(len(answer.given[side]) for _, _, answer in rows for side in SIDES)
    # Columns: the query, a gap, those with the inverse, a gap, those without; a gap above each problem.
    widths = [1.0, 0.25, *[1.0] * shown, 0.25, *[1.0] * shown]
    heights = [height for _, place, _ in rows for height in ([0.42, 1.0] if place == 0 else [1.0])]
    size = (CELL * sum(widths), 1.42 * CELL * sum(heights))
    figure = Figure(figsize=size)
    grid = figure.add_gridspec(
        len(heights), len(widths), width_ratios=widths, height_ratios=heights,
        left=0.01, right=0.99, top=0.995, bottom=0.32 / size[1], wspace=0.08, hspace=0.5,
    )  # fmt: skip
    line = 0
    starts = {side: 2 + index * (shown + 1) for index, side in enumerate(SIDES)}
    for problem, place, answer in rows:
        if place == 0:
            _heading(figure, grid[line, :], plain_label(problem), 0.62, bold=True)
            _heading(figure, grid[line, starts["without"] :], FRAMES, 0.62)
            for side, start in starts.items():
                _heading(figure, grid[line, start : start + shown], HEADINGS[side], -0.3)
            _heading(figure, grid[line, 0], "query", -0.3)
            line += 1
        _picture(figure, grid[line, 0], answer.query, answer.query.label)
        for side, start in starts.items():
            for index, example in enumerate(answer.given[side]):
                label = f"{example.label}\n{number(example.score)}"
                _picture(figure, grid[line, start + index], example, label, answer.query.label)
        line += 1
    return figure


def _heading(figure: Figure, place: SubplotSpec, text: str, height: float, bold: bool = False) -> None:
    ax = figure.add_subplot(place)
    ax.axis("off")
    ax.text(0, height, text, transform=ax.transAxes, fontsize=9 if bold else 8, va="center",
            fontweight="bold" if bold else "normal", color="0.1" if bold else "0.35")  # fmt: skip


def _picture(figure: Figure, place: SubplotSpec, shown: Shown, label: str, wanted: str = "") -> None:
    """A picture above its label; a green frame where it has the query's class, `wanted`."""
    ax = figure.add_subplot(place)
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(shown.picture)), format="png")
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    alike = bool(wanted) and shown.label == wanted
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color("#029e73" if alike else "0.7")
        spine.set_linewidth(2.0 if alike else 0.6)
    ax.set_xlabel(plain_label(label), fontsize=6.5, labelpad=2)
