"""The figures of a diagnosis: H's density with λ in it, and what each solver is predicted to cost."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from reports.formats import number, scientific
from reports.paper import paper_style, plain_label, save

_INK, _FILL, _LAMBDA = "#0a5c8f", "#c9dfee", "#c1440e"
_REACHES, _FAILS = "#0b6b46", "#b8bfc5"
# Decades below the largest eigenvalue that are shown; what is smaller stands at the left end.
_DECADES = 6
# Width of a node's bump, in decades: Lanczos with a dozen steps resolves no more.
_WIDTH = 0.12


def draw_density(diagnosis: dict[str, Any], stem: Path) -> None:
    """Writes `stem`.png and `stem`.pdf."""
    with paper_style():
        save(density_figure(diagnosis), stem)


def draw_costs(diagnosis: dict[str, Any], stem: Path) -> None:
    """Writes `stem`.png and `stem`.pdf."""
    with paper_style():
        save(costs_figure(diagnosis), stem)


def density_figure(diagnosis: dict[str, Any]) -> Figure:
    """Eigenvalues per decade on the left, and how many are larger than x on the right."""
    size, damping = diagnosis["subject"]["size"], diagnosis["subject"]["damping"]
    starts = [
        (np.array(nodes), size * np.array(weights))
        for nodes, weights in zip(diagnosis["density"]["nodes"], diagnosis["density"]["weights"], strict=True)
    ]
    scale = _Axis(max(float(np.abs(nodes).max()) for nodes, _ in starts), starts, damping)
    figure = Figure(figsize=(9.6, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = np.linspace(scale.first, scale.last, 600)
    bumps = [
        (weights * np.exp(-((grid[:, None] - scale.at(nodes)) ** 2) / (2 * _WIDTH**2))).sum(axis=1)
        / (_WIDTH * np.sqrt(2 * np.pi))
        for nodes, weights in starts
    ]
    density = np.mean(bumps, axis=0)
    left.fill_between(grid, np.maximum(density, 0.3), 0.3, color=_FILL)
    left.plot(grid, np.maximum(density, 0.3), color=_INK)
    left.set_yscale("log")
    left.set_ylim(0.3, None)
    left.set_ylabel("eigenvalues per decade")
    above = [(weights * (scale.at(nodes) >= grid[:, None])).sum(axis=1) for nodes, weights in starts]
    right.plot(grid, np.maximum(np.mean(above, axis=0), 0.3), color=_INK)
    if len(above) > 1:
        lowest, highest = np.maximum(np.min(above, axis=0), 0.3), np.maximum(np.max(above, axis=0), 0.3)
        right.fill_between(grid, lowest, highest, color=_FILL)
    right.set_yscale("log")
    right.set_ylim(0.5, 2 * size)
    right.set_ylabel("eigenvalues larger than x")
    for ax in (left, right):
        scale.draw(ax, damping)
    return figure


def costs_figure(diagnosis: dict[str, Any]) -> Figure:
    """A bar for each solver whose work is predicted: set-up light, solve dark, grey where ε is missed."""
    rows = [row for row in diagnosis["solvers"] if row["work"] is not None]
    largest = max(1.0, *(row["work"] for row in rows)) if len(rows) > 1 else max(1.0, rows[0]["work"])
    figure = Figure(figsize=(9.6, 0.9 + 0.42 * len(rows)), layout="constrained")
    ax = figure.subplots()
    ax.set_xscale("symlog", linthresh=1)
    for position, row in enumerate(rows):
        reached = row["reaches"] is True
        colour = _REACHES if reached else _FAILS
        ax.barh(position, row["work"], height=0.62, color=colour, alpha=1.0 if reached else 0.8)
        error = "error not bounded" if row["error"] is None else f"error {number(row['error'])}"
        told = f"{number(row['work'])}" + ("" if reached else f", {error}")
        if row["basis"] == "bound":
            told += " (bound)"
        ax.annotate(told, (row["work"], position), (5, 0), textcoords="offset points",
                    verticalalignment="center", fontsize=8.5)  # fmt: skip
    ax.set_yticks(range(len(rows)), [plain_label(row["name"]) for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, 12 * largest)
    ax.set_xlabel("predicted work, set-up included, in gradient equivalents")
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    return figure


class _Axis:
    """Decades on either side of a smallest value: x ↦ sign(x) · log₁₀(1 + |x|/smallest)."""

    def __init__(self, largest: float, starts: list[tuple[np.ndarray, np.ndarray]], damping: float) -> None:
        self.smallest = min(largest, max(damping / 10, largest * 10.0**-_DECADES)) or 1.0
        self.smallest = min(self.smallest, largest * 10.0 ** (-_DECADES / 2)) or 1.0
        lowest = min(float(nodes.min()) for nodes, _ in starts)
        negative = lowest < -1e-6 * largest
        self.first = float(self.at(np.array(lowest))) - 3 * _WIDTH if negative else -3 * _WIDTH
        self.last = float(self.at(np.array(max(largest, damping)))) + 4 * _WIDTH
        self.ends = (lowest if negative else 0.0, max(largest, damping))

    def at(self, values: np.ndarray) -> np.ndarray:
        return np.sign(values) * np.log10(1 + np.abs(values) / self.smallest)

    def draw(self, ax: Axes, damping: float) -> None:
        """Ticks at powers of ten, and λ."""
        first, last = np.floor(np.log10(self.smallest)) + 1, np.floor(np.log10(max(self.ends[1], 1e-300)))
        powers = 10.0 ** np.arange(first, last + 1)
        values = [*(-powers[powers <= -self.ends[0]])[::-1], 0.0, *powers]
        positions = {float(self.at(np.array(value))): value for value in values}
        ax.xaxis.set_major_locator(FixedLocator(list(positions)))
        ax.xaxis.set_major_formatter(
            FuncFormatter(
                lambda place, _: _power(min(positions.items(), key=lambda each: abs(each[0] - place))[1])
            )
        )
        ax.set_xlim(self.first, self.last)
        ax.set_xlabel("eigenvalue of H")
        place = float(self.at(np.array(damping)))
        ax.axvline(place, color=_LAMBDA, linewidth=1.4, linestyle=(0, (4, 2)))
        ax.annotate(f"λ = {scientific(f'{damping:g}')}", (place, 1), (4, -2), color=_LAMBDA, fontsize=9,
                    xycoords=("data", "axes fraction"), textcoords="offset points",
                    verticalalignment="top")  # fmt: skip


def _power(value: float) -> str:
    if value == 0:
        return "0"
    sign = "−" if value < 0 else ""
    return f"{sign}$10^{{{round(np.log10(abs(value)))}}}$"
