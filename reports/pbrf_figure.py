"""The figures of a pbrf page: a scatter for each training image, and correlations by λ."""

import base64
import io
import math
from collections.abc import Sequence

import matplotlib.image
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures import panel_title
from reports.formats import setting
from reports.panels import styles
from reports.pbrf_rows import AGREES, Panel, correlation
from reports.rows import in_order

WIDE = 5
INCHES = 1.62
# Correlations below this are all drawn at the lower edge of the panel.
LOWEST = 0.0


def scatter_figure(panels: Sequence[Panel], solver: str, epsilon: float) -> Figure:
    """A panel for each training image: the solver's influences on all queries against the response's."""
    across = min(WIDE, math.ceil(len(panels) ** 0.5))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(INCHES * across + 0.5, (INCHES + 0.12) * down + 0.5), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for ax, panel in zip(axes, panels, strict=False):
        _scatter(ax, panel)
    for ax in axes[len(panels) :]:
        ax.axis("off")
    figure.supxlabel(f"proximal Bregman response at ε = {setting(epsilon)}", fontsize=9)
    figure.supylabel(f"influence by {solver}", fontsize=9)
    return figure


def _scatter(ax: Axes, panel: Panel) -> None:
    ax.tick_params(labelsize=5.5, length=2, pad=1.5)
    ax.locator_params(nbins=3)
    ax.ticklabel_format(style="sci", scilimits=(-2, 2), useMathText=True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_offset_text().set_fontsize(5)
    drawn = np.isfinite(panel.scores) & np.isfinite(panel.responses)
    if drawn.any():
        ax.plot(panel.responses[drawn], panel.scores[drawn], linestyle="none", marker="o", markersize=1.7,
                markeredgewidth=0, color="#0173b2", alpha=0.75, zorder=3, rasterized=True)  # fmt: skip
        ends = np.array([panel.responses[drawn].min(), panel.responses[drawn].max()])
        ax.plot(ends, ends, color="0.45", linewidth=0.8, dashes=(3, 2), zorder=2)
        title = f"r = {correlation(panel.pearson)}"
    else:
        ax.text(0.5, 0.25, "not converged", transform=ax.transAxes, ha="center", fontsize=6.5, color="0.4")
        title = "no response"
    ax.set_title(title, fontsize=7.5, loc="left", pad=3)
    if panel.picture:
        _picture(ax, panel, drawn)


def _picture(ax: Axes, panel: Panel, drawn: np.ndarray) -> None:
    """The image in the corner that the points leave free: they rise from lower left to upper right."""
    falling = drawn.any() and panel.pearson < 0
    inset = ax.inset_axes((0.68 if falling else 0.02, 0.67, 0.31, 0.31), zorder=4)
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(panel.picture)), format="png")
    inset.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    inset.set_xticks([])
    inset.set_yticks([])
    for spine in inset.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)
        spine.set_color("0.5")


def damping_figure(rows: pd.DataFrame) -> Figure:
    """The correlation of every training example by λ, and how far the response is from its limit."""
    problems = in_order(rows["problem"])
    looks = styles(problems)
    figure = Figure(figsize=(8.4, 3.0 + 0.22 * len(problems)), layout="constrained")
    agreement, nonlinear = figure.subplots(1, 2)
    for place, problem in enumerate(problems):
        own = rows[rows["problem"] == problem]
        look = looks[problem]
        shift = 1.06 ** (place - (len(problems) - 1) / 2)
        for ax, column in ((agreement, "pearson"), (nonlinear, "nonlinearity")):
            values = own[column].to_numpy()
            x = own["multiple"].to_numpy() * shift
            if column == "pearson":
                values = np.maximum(values, LOWEST)
            ax.plot(x, values, linestyle="none", marker=look.marker, markersize=4, color=look.colour,
                    alpha=0.45, markeredgewidth=0, zorder=3)  # fmt: skip
            medians = pd.Series(values).groupby(x).median()
            ax.plot(medians.index, medians, color=look.colour, linestyle=look.dashes or "-", linewidth=1.6,
                    marker=look.marker, markersize=7, markerfacecolor="white", zorder=4)  # fmt: skip
    agreement.axhline(AGREES, color="0.4", linewidth=0.9, dashes=(3, 2), zorder=1)
    shown = rows["pearson"].dropna()
    least = max(LOWEST, float(shown.min())) if len(shown) else LOWEST
    agreement.set_ylim(min(least, 0.9) - 0.03, 1.012)
    agreement.set_title("correlation with the response", loc="left")
    nonlinear.set_title("response against its limit ε → 0", loc="left")
    nonlinear.set_ylabel("relative difference")
    if (rows["nonlinearity"] > 0).any():
        nonlinear.set_yscale("log")
    multiples = sorted(set(rows["multiple"]))
    for ax in (agreement, nonlinear):
        ax.set_xscale("log")
        ax.set_xticks(multiples, [setting(multiple) for multiple in multiples])
        ax.minorticks_off()
        ax.set_xlim(multiples[0] / 1.6, multiples[-1] * 1.6)
        ax.set_xlabel("λ over the problem's own")
    handles = [looks[problem].handle() for problem in problems]
    handles.append(Line2D([], [], color="0.4", linewidth=0.9, dashes=(3, 2)))
    names = [*(panel_title(problem).replace("\n", " ") for problem in problems), f"a correlation of {AGREES}"]
    figure.legend(handles, names, loc="outside lower center", ncols=1, frameon=False)
    return figure
