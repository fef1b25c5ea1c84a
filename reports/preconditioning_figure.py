"""The figure of a preconditioning page: the error against steps and against work, one column per problem."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures import panel_title
from reports.formats import number
from reports.panels import apply_scale, scale_for
from reports.preconditioning_rows import CG, LISSA
from reports.preconditioning_verdicts import METHODS, NAMES
from reports.rows import in_order

_COLOURS = {"none": "0.35", "jacobi": "#de8f05", "nystrom": "#0173b2", "ekfac": "#d55e00"}
_MARKERS = {"none": "o", "jacobi": "v", "nystrom": "s", "ekfac": "D"}
_DASHES: dict[str, Any] = {CG: "-", LISSA: (0, (2.5, 1.5))}
# x = 0 is 1 off; what is further off than this is not shown.
_CEILING = 3.0
_COSTS = {"step": "steps", "work": "work incl. set-up  (gradients)"}


def preconditioning_figure(rows: pd.DataFrame) -> Figure:
    """Paths of the first seed; where LiSSA ended is a point, hollow where it missed its target."""
    first = rows[rows["seed"] == rows["seed"].min()]
    # What layers' exact blocks would do is a limit, not a method: their set-up would be all that one sees.
    first = first[first["preconditioner"].isin(list(_COLOURS))]
    problems = in_order(first["problem"])
    figure = Figure(figsize=(1.0 + 3.2 * len(problems), 6.6), layout="constrained")
    axes = figure.subplots(2, len(problems), squeeze=False)
    for column, problem in enumerate(problems):
        own = first[first["problem"] == problem]
        for ax, (cost, label) in zip(axes[:, column], _COSTS.items(), strict=True):
            _panel(ax, own, cost, in_order(first["preconditioner"]))
            ax.set_xlabel(label)
        kappa = rf"$\kappa$ = {number(own['condition'].iloc[0])}"
        axes[0, column].set_title(f"{panel_title(problem)}\n{kappa}", loc="left", fontsize=9)
    for ax in axes[:, 0]:
        ax.set_ylabel(r"relative error  $\|x - x^*\|\,/\,\|x^*\|$")
    shown = [Line2D([], [], color=_COLOURS[name], marker=_MARKERS[name], markersize=6,
                    label=NAMES[name]) for name in in_order(first["preconditioner"])]  # fmt: skip
    shown += [Line2D([], [], color="0.2", linestyle=_DASHES[method], label=METHODS[method])
              for method in in_order(first["method"])]  # fmt: skip
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), frameon=False)
    return figure


def _panel(ax: Axes, own: pd.DataFrame, cost: str, names: list[str]) -> None:
    path = own[own["target"].isna() & (own[cost] > 0)]
    ends = own[own["target"].notna() & own[cost].notna() & (own["error"] > 0)]
    y = scale_for(np.append(path["error"].to_numpy(), ends["error"].to_numpy()), ceiling=_CEILING)
    apply_scale(ax, "x", scale_for(np.append(path[cost].to_numpy(), ends[cost].to_numpy())))
    apply_scale(ax, "y", y)
    for target in sorted(set(own["target"].dropna())):
        ax.axhline(target, color="0.75", linewidth=0.9, zorder=1)
    for name in names:
        colour = _COLOURS[name]
        for method, dashes in _DASHES.items():
            line = path[(path["preconditioner"] == name) & (path["method"] == method)].sort_values("step")
            width, alpha = (1.7, 1.0) if method == CG else (1.3, 0.75)
            ax.plot(
                line[cost],
                line["error"],
                color=colour,
                linestyle=dashes,
                linewidth=width,
                alpha=alpha,
                zorder=3,
            )
        for _, end in ends[ends["preconditioner"] == name].iterrows():
            met = end["error"] <= end["target"]
            ax.plot(
                end[cost], min(end["error"], y.high), marker=_MARKERS[name], linestyle="none",
                markersize=6.5, markerfacecolor=colour if met else "white",
                markeredgecolor="white" if met else colour, markeredgewidth=0.8 if met else 1.5,
                clip_on=False, zorder=5,
            )  # fmt: skip
