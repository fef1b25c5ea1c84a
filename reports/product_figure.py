"""The figure of a products page: what each product costs beside a gradient, one panel per network."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.formats import hundredths
from reports.panels import Style, styles
from reports.paper import paper_style, plain_label, save
from reports.product_rows import OURS
from reports.rows import in_order

_GRADIENT: dict[str, Any] = {"color": "0.25", "linewidth": 1.1}
_FLOOR: dict[str, Any] = {"color": "0.6", "linewidth": 2.6, "solid_capstyle": "butt"}
_TARGET: dict[str, Any] = {"color": "0.25", "linewidth": 1.4, "linestyle": (0, (2.2, 1.2))}

# The room a number takes beside its dot, of the width of a panel.
_NUMBER = 0.12


def draw_products(products: pd.DataFrame, stem: Path) -> None:
    """Writes `stem`.png and `stem`.pdf."""
    with paper_style():
        save(products_figure(products), stem)


def products_figure(products: pd.DataFrame) -> Figure:
    """A dot for each ratio with its quartiles, rows from top to bottom, networks side by side."""
    networks, rows = in_order(products["network"]), in_order(products["row"])
    libraries = in_order([OURS, *products["library"]])
    looks = styles(libraries)
    figure = Figure(figsize=(2.2 + 3.9 * len(networks), 1.3 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(networks), squeeze=False, sharex=True, sharey=True)[0]
    first = 0.95 * min(1.0, products[["ratio", "quartile_low"]].min(axis=None))
    last = products[["ratio", "quartile_high", "target"]].max(axis=None)
    axes[0].set_xlim(first, last + _NUMBER * (last - first))
    for ax, network in zip(axes, networks, strict=True):
        _panel(ax, products[products["network"] == network], rows, looks)
        ax.set_title(plain_label(network), loc="left")
        ax.set_xlabel("cost relative to a gradient on the same batch")
    axes[0].set_yticks(range(len(rows)), [plain_label(row) for row in rows])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)
    handles = [_mark(look) for look in looks.values()]
    handles += [Line2D([], [], **look) for look in (_FLOOR, _TARGET, _GRADIENT)]
    labels = [*map(plain_label, libraries), "floor by count of operations", "target", "a gradient"]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _panel(ax: Axes, products: pd.DataFrame, rows: list[str], looks: dict[str, Style]) -> None:
    ax.axvline(1, zorder=1, **_GRADIENT)
    for position, row in enumerate(rows):
        measured = products[products["row"] == row]
        # One below the other where there are several.
        offsets = 0.36 * (np.arange(len(measured)) - (len(measured) - 1) / 2)
        for offset, (_, product) in zip(offsets, measured.iterrows(), strict=True):
            y = position + offset
            half = 0.2 if len(measured) > 1 else 0.3
            ax.plot([product["floor"]] * 2, [y - half, y + half], zorder=2, **_FLOOR)
            ax.plot([product["target"]] * 2, [y - half, y + half], zorder=3, **_TARGET)
            look = looks[product["library"]]
            ends = product[["quartile_low", "quartile_high"]].to_numpy(float)
            ax.plot(ends, [y, y], color=look.colour, linewidth=1.8, zorder=4)
            ax.plot(product["ratio"], y, color=look.colour, marker=look.marker, markersize=6.5,
                    markeredgecolor="white", markeredgewidth=0.8, linestyle="none", zorder=5)  # fmt: skip
            right = np.nanmax([product["ratio"], ends[1]])
            low, high = ax.get_xlim()
            if right < product["target"] < right + _NUMBER * (high - low):
                right = product["target"]
            ax.annotate(hundredths(product["ratio"]), (right, y), (6, 0), textcoords="offset points",
                        verticalalignment="center", fontsize=8, color=look.colour)  # fmt: skip


def _mark(look: Style) -> Line2D:
    handle = look.handle()
    handle.set_linestyle("none")
    return handle
