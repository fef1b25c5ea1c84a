"""The figures of a page on other libraries: seconds to each target, and a performance profile."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from reports.formats import duration, target_text
from reports.paper import plain_label
from reports.peers_rows import PACKAGE, by_library, contenders, solves
from reports.rows import in_order

Colour = str | tuple[float, float, float]
BLACK = "0.1"
# Beyond this a curve of the profile says only that others are far faster.
LIMIT = 100.0
MARKERS = "oosD^v"
# Of a line of a panel's title.
LETTERS = 30
# Inches of all panels together.
NARROWEST = 6.0


def seconds_figure(rows: pd.DataFrame) -> Figure:
    """A panel for each problem, a line for each solver: seconds to the targets, all but the first hollow."""
    table = contenders(solves(rows))
    if table.empty:
        return Figure()
    problems, targets = in_order(table["problem"]), list(table["target"].unique())
    order = {target: place for place, target in enumerate(targets)}
    names = _names(table)
    colour = colours(in_order(table["library"]))
    library = dict(zip(table["name"], table["library"], strict=True))
    figure = Figure(
        figsize=(2.6 + max(2.3 * len(problems), NARROWEST), 1.4 + 0.2 * len(names)), layout="constrained"
    )
    axes = figure.subplots(1, len(problems), squeeze=False, sharey=True)[0]
    height = {name: place for place, name in enumerate(reversed(names))}
    for ax, problem in zip(axes, problems, strict=True):
        own = table[(table["problem"] == problem) & table["seconds"].notna()]
        for _, row in own.iterrows():
            look = _look(colour[row["library"]], order[row["target"]])
            ax.plot(row["seconds"], height[row["name"]], clip_on=False, **look)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
        ax.set_title(plain_label(textwrap.fill(problem, LETTERS)), loc="left", fontsize=7)
        ax.set_xlabel("seconds, set-up included")
    axes[0].set_yticks([height[name] for name in names], names)
    axes[0].set_ylim(-0.8, len(names) - 0.2)
    for label, name in zip(axes[0].get_yticklabels(), names, strict=True):
        label.set_color(colour[library[name]])
    handles = [
        Line2D([], [], label=f"to {target_text(target)}", **_look("0.3", order[target])) for target in targets
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(targets), frameon=False)
    return figure


def profile_figure(rows: pd.DataFrame) -> Figure:
    """For each target the share of problems on which a library's best solver is within τ of the best."""
    table = contenders(solves(rows))
    if table.empty:
        return Figure()
    ratios = by_library(table)
    targets = list(ratios.index.unique("target"))
    colour = colours(list(ratios.columns))
    figure = Figure(figsize=(4.6 * len(targets) + 1.8, 3.6), layout="constrained")
    axes = figure.subplots(1, len(targets), squeeze=False, sharey=True)[0]
    for ax, target in zip(axes, targets, strict=True):
        own = ratios.xs(target, level="target")
        for place, name in enumerate(own.columns):
            _step(ax, own[name].to_numpy(), colour[name], 3.0 if name == PACKAGE else 2.0, place)
        ax.set_xscale("log")
        ax.set_xlim(0.97, LIMIT)
        ax.set_ylim(-0.02, 1.03)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ×"))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        ax.set_xlabel(r"$\tau$,  seconds over those of the best solver")
        ax.set_title(f"to {target_text(target)}", loc="left")
    axes[0].set_ylabel("share of problems")
    handles = [Line2D([], [], color=colour[name], linewidth=2.0, label=name) for name in ratios.columns]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    return figure


def colours(libraries: list[str]) -> dict[str, Colour]:
    """Black for this package, and a colour for each other library."""
    others = [name for name in libraries if name != PACKAGE]
    palette: list[Colour] = list(seaborn.color_palette("colorblind", max(len(others), 1)))
    return {PACKAGE: BLACK, **dict(zip(others, palette, strict=False))}


def _look(colour: Colour, place: int) -> dict[str, Any]:
    """Of the target at that place: a full dot, which a hollow one may surround, and other marks."""
    size, face, order = (7, "white", 2) if place else (4, colour, 3)
    return {
        "marker": MARKERS[place % len(MARKERS)], "markersize": size, "linestyle": "none", "color": colour,
        "markerfacecolor": face, "markeredgewidth": 1.3, "zorder": order,
    }  # fmt: skip


def _names(table: pd.DataFrame) -> list[str]:
    """Ours first, then library by library; those that reach a target anywhere."""
    there = table[table["seconds"].notna()]
    libraries = in_order(table["library"])
    return [
        name for library in libraries for name in in_order(there.loc[there["library"] == library, "name"])
    ]


def _step(ax: Axes, ratios: np.ndarray, colour: Colour, width: float, place: int) -> None:
    tau = np.unique(np.concatenate([[1.0], ratios[ratios <= LIMIT], [LIMIT]]))
    share = [(ratios <= value * (1 + 1e-12)).mean() for value in tau]
    ax.step(tau, share, where="post", color=colour, linewidth=width, zorder=10 - place)
