"""One panel of a figure: axes that can show zero and the off-scale, and the curves and points upon them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from reports.targets import pareto_front

# An answer wrong by more than this many times the solution is off the scale: a diverging solver would
# otherwise press every other curve into one line. It is drawn on the upper edge, as a triangle.
CEILING = 1e2

# More points than a line of a printed figure can show only make the file larger.
MAX_KNOTS = 600

# After seaborn's colour-blind palette, without its pale colours. Eight colours, nine markers and five dashes
# share no factor, so that 360 solvers differ, and neighbours differ in all three.
_COLOURS = ["#0173b2", "#d55e00", "#029e73", "#cc78bc", "#de8f05", "#56b4e9", "#6d4b2f", "#7f7f7f"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "<", "X", ">"]
_DASHES: list[tuple[float, tuple[float, ...]] | None] = [
    None,
    (0, (5, 1.6)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
]


@dataclass(frozen=True)
class Style:
    """How one solver looks in every figure of a report."""

    colour: str
    marker: str
    dashes: tuple[float, tuple[float, ...]] | None

    def handle(self) -> Line2D:
        """The line for a legend."""
        return Line2D(
            [], [], color=self.colour, marker=self.marker, linestyle=self.dashes or "-", markersize=6
        )


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis from `low` to `high`; `zero` is where an exact 0 is drawn, None if there is none."""

    low: float
    high: float
    zero: float | None

    def place(self, values: np.ndarray, beyond: float = 1.0) -> np.ndarray:
        """Positions for values ≥ 0: zeros at the zero mark, nothing above `beyond` times the upper end."""
        placed = np.minimum(np.asarray(values, dtype=float), self.high * beyond)
        return np.where(placed <= 0, self.zero or self.low, placed)


def styles(solvers: list[str]) -> dict[str, Style]:
    """A distinct look per solver, by its place in the list."""
    return {
        solver: Style(
            _COLOURS[i % len(_COLOURS)],
            _MARKERS[i % len(_MARKERS)],
            _DASHES[i % len(_DASHES)],
        )
        for i, solver in enumerate(solvers)
    }


def scale_for(values: np.ndarray, ceiling: float = math.inf) -> Scale:
    """A scale that shows all of `values` (NaN ignored); zeros get a place below the smallest positive one."""
    values = np.asarray(values, dtype=float)
    positive = values[(values > 0) & np.isfinite(values)]
    if not positive.size:
        return Scale(0.1, 10.0, 0.2 if (values == 0).any() else None)
    smallest, largest = float(positive.min()), float(positive.max())
    high = min(largest * (largest / smallest) ** 0.04 * 1.3, ceiling)
    if np.isinf(values).any():
        high = min(ceiling, high * 10)
    smallest = min(smallest, high / 10)
    span = math.log10(high / smallest)
    margin = 10 ** -max(0.04 * span, 0.1)
    if not (values == 0).any():
        return Scale(smallest * margin, high, None)
    zero = smallest * 10 ** -max(0.12 * span, 0.3)
    return Scale(zero * margin, high, zero)


def apply_scale(ax: Axes, which: str, scale: Scale) -> None:
    """Makes the x or y axis of `ax` logarithmic over `scale`; zero gets a tick of its own beyond a break."""
    axis: Axis
    if which == "x":
        ax.set_xscale("log")
        ax.set_xlim(scale.low, scale.high)
        axis = ax.xaxis
    else:
        ax.set_yscale("log")
        ax.set_ylim(scale.low, scale.high)
        axis = ax.yaxis
    axis.set_minor_locator(NullLocator())
    if scale.zero is None and scale.high / scale.low < 20:
        # Powers of ten alone would leave so short an axis with hardly a number to read.
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return
    if scale.zero is None:
        axis.set_major_locator(LogLocator(numticks=7))
        return
    smallest = scale.zero * 1.8
    exponents = range(math.ceil(math.log10(smallest)), math.floor(math.log10(scale.high)) + 1)
    stride = max(1, math.ceil(len(exponents) / 6))
    powers = {10.0**exponent: f"$10^{{{exponent}}}$" for exponent in reversed(exponents[::-1][::stride])}
    labels = {scale.zero: "0", **powers}
    axis.set_major_locator(FixedLocator(list(labels)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: labels.get(value, "")))
    _draw_break(ax, which, scale)


def draw_curves(
    ax: Axes, path: pd.DataFrame, cost: str, x_scale: Scale, y_scale: Scale, looks: dict[str, Style]
) -> None:
    """Value against `cost` ("work" or "seconds"), one line per solver: the median over seeds, with their
    range as a band."""
    for solver, rows in path.groupby("solver", sort=False):
        seeds = [
            (x_scale.place(seed[cost].to_numpy()), y_scale.place(seed["value"].to_numpy(), beyond=1e6))
            for _, seed in rows.groupby("seed", sort=False)
        ]
        grid, low, middle, high = over_seeds(seeds)
        look = looks[solver]
        ax.plot(
            grid, middle, color=look.colour, linestyle=look.dashes or "-", linewidth=1.7, zorder=3,
            solid_capstyle="round",
        )  # fmt: skip
        if len(seeds) > 1:
            ax.fill_between(grid, low, high, color=look.colour, alpha=0.18, linewidth=0, zorder=2)


def over_seeds(
    seeds: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Seeds' curves on one grid of costs: (grid, smallest, median, largest value).

    Curves are joined linearly in both logarithms. The grid goes from where the last seed begins to the median
    of where they end; a seed that ended keeps its last value, for that is its answer.
    """
    start = max(cost[0] for cost, _ in seeds)
    end = max(start, float(np.median([cost[-1] for cost, _ in seeds])))
    grid = np.unique(np.concatenate([cost for cost, _ in seeds] + [np.array([start, end])]))
    grid = grid[(grid >= start) & (grid <= end)]
    if len(grid) > MAX_KNOTS:
        kept = np.geomspace(1, len(grid), MAX_KNOTS).astype(int) - 1
        grid = grid[np.unique(np.concatenate([kept, np.linspace(0, len(grid) - 1, MAX_KNOTS).astype(int)]))]
    values = np.exp([np.interp(np.log(grid), np.log(cost), np.log(value)) for cost, value in seeds])
    return grid, values.min(axis=0), np.median(values, axis=0), values.max(axis=0)


def draw_points(
    ax: Axes, rows: pd.DataFrame, cost: str, x_scale: Scale, y_scale: Scale, looks: dict[str, Style],
    size: float = 7.5,
) -> None:  # fmt: skip
    """Where each solver ended: filled if that is an answer, hollow if not, a triangle if off the scale."""
    for _, row in rows.iterrows():
        if math.isnan(row["value"]) or math.isnan(row[cost]):
            continue
        look = looks[row["solver"]]
        off_scale = row["value"] > y_scale.high
        filled = row["usable"] or off_scale
        # Crosses cover less of their square than the other marks.
        factor = 1.3 if look.marker in "PX" and not off_scale else 1.0
        ax.plot(
            x_scale.place(row[cost]), y_scale.place(row["value"]), color=look.colour,
            marker=6 if off_scale else look.marker, markersize=size * factor, linestyle="none",
            markerfacecolor=look.colour if filled else "white",
            markeredgecolor="white" if filled else look.colour,
            markeredgewidth=0.8 if filled else 1.5, clip_on=False, zorder=5,
        )  # fmt: skip


def draw_front(ax: Axes, rows: pd.DataFrame, x_scale: Scale, y_scale: Scale) -> None:
    """The step line of solvers that no other beats in both work and value."""
    answers = rows[rows["usable"]]
    work, value = answers["total_work"].to_numpy(float), answers["value"].to_numpy(float)
    front = pareto_front(work, value)
    if not front:
        return
    x, y = x_scale.place(work[front]), y_scale.place(value[front])
    ax.step(
        np.append(x, x_scale.high), np.append(y, y[-1]), where="post", color="0.35", linewidth=1.1, zorder=1
    )


def _draw_break(ax: Axes, which: str, scale: Scale) -> None:
    """Two strokes across the axis between the zero mark and the numbers: the scale does not run through."""
    assert scale.zero is not None
    position = scale.zero * 1.45
    if which == "x":
        ax.axvline(position, color="0.85", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
        ax.plot(position, 0, marker=[(-0.6, -1), (0.6, 1)], transform=ax.get_xaxis_transform(), **_BREAK)
    else:
        ax.axhline(position, color="0.85", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
        ax.plot(0, position, marker=[(-1, -0.6), (1, 0.6)], transform=ax.get_yaxis_transform(), **_BREAK)


_BREAK: dict[str, Any] = {
    "color": "0.25",
    "markersize": 9,
    "markeredgewidth": 1.2,
    "clip_on": False,
    "zorder": 6,
}
