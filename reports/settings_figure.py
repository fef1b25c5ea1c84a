"""The figure of a settings page: the errors that both rules end at, and what the paper's is made of."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures import panel_title
from reports.panels import Scale, apply_scale, scale_for
from reports.rows import in_order
from reports.settings_rows import PAPER, SHARP

_MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "error": ("paper's rule", {"color": "#d55e00", "marker": "o", "markersize": 8}),
    "bias": ("its bias", {"color": "#d55e00", "marker": "|", "markersize": 13, "markeredgewidth": 2.2}),
    "noise": ("its noise", {"color": "#d55e00", "marker": "x", "markersize": 7, "markeredgewidth": 1.8}),
}
_SHARP: dict[str, Any] = {"color": "#0173b2", "marker": "s", "markersize": 7.5}
_TARGET: dict[str, Any] = {"color": "0.25", "linewidth": 1.1, "linestyle": (0, (4, 3))}
# An answer further off than this is off the scale, on the edge.
_CEILING = 10.0
# A part of the error smaller than this is none; it is drawn on the other edge.
_FLOOR = 1e-4


def settings_figure(table: pd.DataFrame) -> Figure:
    """A row per problem, from top to bottom, on one logarithmic axis of the relative error."""
    problems = in_order(table["problem"])
    figure = Figure(figsize=(9.5, 1.5 + 0.7 * len(problems)), layout="constrained")
    ax = figure.subplots()
    values = table[["error", "bias", "noise", "target"]].to_numpy().ravel()
    scale = scale_for(np.append(values[np.isfinite(values)], 1.0).clip(min=_FLOOR), ceiling=_CEILING)
    apply_scale(ax, "x", scale)
    ax.axvline(table["target"].iloc[0], zorder=1, **_TARGET)
    for position, problem in enumerate(problems):
        own = table[table["problem"] == problem]
        for _, row in own[own["rule"] == PAPER].iterrows():
            for column, (_, look) in _MARKS.items():
                _mark(ax, row, column, position - 0.22 * (column == "error"), scale, look)
        for _, row in own[own["rule"] == SHARP].iterrows():
            _mark(ax, row, "error", position + 0.22, scale, _SHARP)
    ax.set_yticks(range(len(problems)), [panel_title(problem) for problem in problems])
    ax.set_ylim(len(problems) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(r"relative error  $\|u - u^*\|\,/\,\|u^*\|$")
    handles = [Line2D([], [], linestyle="none", **look) for _, look in _MARKS.values()]
    handles += [Line2D([], [], linestyle="none", **_SHARP), Line2D([], [], **_TARGET)]
    labels = [*(name for name, _ in _MARKS.values()), "sharp rule", "target"]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _mark(ax: Axes, row: pd.Series, column: str, y: float, scale: Scale, look: dict[str, Any]) -> None:
    """A mark, hollow where the solve gave no answer; a triangle at the edge where it is off the scale."""
    value = row[column]
    edge = {"color": look["color"], "markersize": 9, "linestyle": "none", "clip_on": False, "zorder": 4}
    lost = column == "error" and not row["usable"]
    if value > scale.high or (lost and math.isnan(value)):
        ax.plot(scale.high, y, marker=5, **edge)
    elif value < scale.low:
        ax.plot(scale.low, y, marker=4, **edge)
    elif value > 0:
        ax.plot(
            value, y, linestyle="none", zorder=4, **(look | ({"markerfacecolor": "white"} if lost else {}))
        )
