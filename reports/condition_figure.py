"""The figure of a condition page: both sides against the batch size, one panel per problem."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from reports.figures import panel_title
from reports.rows import in_order

_NOISE: dict[str, Any] = {"color": "#0173b2", "marker": "o", "linestyle": "none", "markersize": 6.5}
_EQUAL: dict[str, Any] = {"color": "0.25", "linewidth": 1.6}
_UNEQUAL: dict[str, Any] = {"color": "#d55e00", "linewidth": 1.6, "linestyle": (0, (4, 2))}


def condition_figure(sides: pd.DataFrame) -> Figure:
    """Measured noise as dots with two standard errors, the right sides as lines with theirs as bands."""
    problems = in_order(sides["problem"])
    columns = 2 if len(problems) in (2, 4) else min(3, len(problems))
    lines = math.ceil(len(problems) / columns)
    # One panel alone is as wide as those of a paper's column, with its legend below.
    size = (6.4, 4.6) if len(problems) == 1 else (1.0 + 4.0 * columns, 0.9 + 3.1 * lines)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for unused in axes[len(problems) :]:
        unused.remove()
    for ax, problem in zip(axes, problems, strict=False):
        _panel(ax, sides[sides["problem"] == problem].sort_values("batch_size"))
        ax.set_title(panel_title(problem), loc="left")
    handles = [Line2D([], [], **look) for look in (_NOISE, _EQUAL, _UNEQUAL)]
    labels = [
        r"noise  $\mathrm{Tr}(\mathrm{E}\,\tilde{H}^2 - H^2)$,  ± 2 s.e.",
        r"$\mathrm{Tr}(H)^2/b$  (C = 1)",
        r"$C\,\mathrm{Tr}(H)^2/b$  (C measured)",
    ]
    # A single panel is not as wide as all three.
    ncols = 1 if columns == 1 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False)
    return figure


def _panel(ax: Axes, own: pd.DataFrame) -> None:
    sizes = own["batch_size"].to_numpy()
    ax.set_xscale("log")
    ax.set_yscale("log")
    for side, look in (("equal", _EQUAL), ("unequal", _UNEQUAL)):
        values, errors = own[side].to_numpy(), own[f"{side}_error"].to_numpy()
        if np.isnan(values).all():
            continue
        ax.plot(sizes, values, zorder=3, **look)
        low = np.maximum(values - 2 * errors, values * 1e-3)
        ax.fill_between(sizes, low, values + 2 * errors, color=look["color"], alpha=0.15, linewidth=0)
    noise, errors = own["noise"].to_numpy(), 2 * own["noise_error"].to_numpy()
    # What reaches to zero or below has no place on a logarithmic axis.
    below = np.minimum(errors, noise * 0.999)
    ax.errorbar(sizes, noise, yerr=[below, errors], capsize=3, elinewidth=1.3, zorder=4,
                markeredgecolor="white", markeredgewidth=0.8, **_NOISE)  # fmt: skip
    ax.xaxis.set_major_locator(FixedLocator(list(sizes)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_major_locator(LogLocator(numticks=7))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("batch size b" + (", tokens" if (own["unit"] == "token").any() else ""))
