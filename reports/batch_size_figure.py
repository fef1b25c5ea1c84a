"""The figure of a batch-size page: correlation with the converged influences over steps and over data."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from reports.batch_size_rows import PAPERS_RULE, SELF_TUNED, over_seeds, over_steps, over_trials
from reports.figures import panel_title
from reports.formats import count, number
from reports.rows import in_order

_STABLE, _UNSTABLE = "-", (0, (4, 2))
_MARKS: dict[str, dict[str, Any]] = {
    SELF_TUNED: {"marker": "*", "color": "black", "markersize": 13},
    PAPERS_RULE: {"marker": "D", "color": "#d1121f", "markersize": 7},
}
_START: dict[str, Any] = {"color": "0.45", "linewidth": 1.2, "linestyle": (0, (1, 1.5))}
_GONE: dict[str, Any] = {"marker": "X", "markersize": 8, "linestyle": "none"}
# Below this a correlation is drawn on the lower edge.
_LOWEST = -0.25
_AXES = {"step": "steps t", "epochs": "data used  t·b/n  (passes)"}


def batch_size_figure(rows: pd.DataFrame) -> Figure:
    """Two panels per problem: medians over trials with quartiles, against steps and against data."""
    curves, batches, chosen = over_steps(rows), over_trials(rows), over_seeds(rows)
    problems = in_order(rows["problem"])
    figure = Figure(figsize=(9.2, 0.6 + 2.6 * len(problems)), layout="constrained")
    grid = figure.subplots(len(problems), 2, squeeze=False, sharey="row")
    for axes, problem in zip(grid, problems, strict=True):
        own, ends, others = (frame[frame["problem"] == problem] for frame in (curves, batches, chosen))
        looks = _looks(ends)
        for ax, cost in zip(axes, _AXES, strict=True):
            _panel(ax, cost, own, ends, others, rows[rows["problem"] == problem].iloc[0], looks)
        axes[0].set_title(panel_title(problem), loc="left")
        axes[0].set_ylabel("correlation with\nconverged influences")
        tokens = " tokens" if len(ends) and ends["unit"].iloc[0] == "token" else ""
        handles = [Line2D([], [], linewidth=2, **looks[size]) for size in ends["batch_size"]]
        labels = [f"{count(row['batch_size'])}   ({number(row['half_step'])})" for _, row in ends.iterrows()]
        axes[1].legend(
            handles, labels, title=f"b{tokens}   " + r"($\eta L_b/2$)", loc="center left",
            bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=2.4, alignment="left",
        )  # fmt: skip
    entries: list[tuple[dict[str, Any], str]] = [
        ({"color": "0.25", "linestyle": _STABLE}, "theory: stable"),
        ({"color": "0.25", "linestyle": _UNSTABLE}, "unstable"),
        ({"color": "0.25", **_GONE}, "half of them diverged"),
        ({**_MARKS[SELF_TUNED], "linestyle": "none"}, "self-tuned"),
        ({**_MARKS[PAPERS_RULE], "linestyle": "none"}, "paper's rule"),
        (_START, "start b/λ"),
    ]
    figure.legend(
        [Line2D([], [], **look) for look, _ in entries], [label for _, label in entries],
        loc="outside lower center", ncols=len(entries), frameon=False, handlelength=2.4, columnspacing=1.4,
    )  # fmt: skip
    return figure


def _looks(ends: pd.DataFrame) -> dict[float, dict[str, Any]]:
    """Dark for large batches; dashed where theory calls them unstable."""
    colours = matplotlib.colormaps["viridis_r"](np.linspace(0.12, 0.98, max(2, len(ends))))
    return {
        row["batch_size"]: {
            "color": colours[index],
            "linestyle": _STABLE if row["stable"] else _UNSTABLE,
        }
        for index, (_, row) in enumerate(ends.iterrows())
    }


def _panel(
    ax: Axes,
    cost: str,
    curves: pd.DataFrame,
    ends: pd.DataFrame,
    others: pd.DataFrame,
    any_row: pd.Series,
    looks: dict[float, dict[str, Any]],
) -> None:
    ax.axhline(1.0, color="0.25", linewidth=0.8, zorder=1)
    ax.axhline(any_row["start_correlation"], zorder=1, **_START)
    for _, end in ends.iterrows():
        size = end["batch_size"]
        own = curves[curves["batch_size"] == size].sort_values("step")
        if not len(own):
            continue
        x, median = own[cost].to_numpy(), own["correlation"].to_numpy()
        low, high = (np.clip(own[name].to_numpy(), _LOWEST, 1.0) for name in ("low", "high"))
        ax.plot(x, np.clip(median, _LOWEST, 1.0), linewidth=1.8, zorder=3, **looks[size])
        # At the right they would be the same bands, pushed together.
        if cost == "step":
            ax.fill_between(x, low, high, color=looks[size]["color"], alpha=0.18, linewidth=0, zorder=2)
        if end["verdict"] == "diverges":
            ax.plot(
                x[-1], max(median[-1], _LOWEST), color=looks[size]["color"], zorder=5, clip_on=False,
                markeredgecolor="white", markeredgewidth=0.7, **_GONE,
            )  # fmt: skip
    for _, row in others.iterrows():
        if np.isfinite(row["correlation"]):
            ax.plot(
                row[cost], max(row["correlation"], _LOWEST), linestyle="none", zorder=6, clip_on=False,
                markeredgecolor="white", markeredgewidth=0.8, **_MARKS[row["method"]],
            )  # fmt: skip
    ax.set_xscale("log")
    ax.set_ylim(_floor(curves, others, any_row), 1.04)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(_AXES[cost])


def _floor(curves: pd.DataFrame, others: pd.DataFrame, any_row: pd.Series) -> float:
    """The lower end of the correlations' axis: what is drawn with a little room."""
    values = [*curves["low"], *others["correlation"], any_row["start_correlation"]]
    finite = [value for value in values if np.isfinite(value)]
    lowest = max(_LOWEST, min(finite, default=0.0))
    return lowest - 0.05 * (1 - lowest)
