"""The figures of a similarity page: heat maps by gradient and by influence, and their difference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from reports.figures import panel_title
from reports.similarity_rows import (
    Matrix,
    Value,
    cosines,
    jackknife,
    mean_of,
    similarities,
)

_COLOURS = "RdBu_r"
_LOOKS: dict[str, dict[str, Any]] = {
    "gradient": {"color": "#de8f05", "marker": "s"},
    "influence": {"color": "#0173b2", "marker": "o"},
}
_SHOWN = ["paired", "sentences", "crossed", "paraphrases"]
_NAMES = {
    "paired": "sentence &\nits paraphrase",
    "sentences": "two sentences",
    "crossed": "sentence &\nother’s para.",
    "paraphrases": "two paraphrases",
}
# More numbers than these have no room beside a heat map.
_NUMBERED = 12


def cosine_figure(rows: pd.DataFrame) -> Figure:
    """Cosines by gradient and by influence, their difference, and the means of kinds of pairs."""
    return _figure(rows, cosines, cosines, ("by gradient", "by influence", "influence − gradient"), "cosine")


def raw_figure(rows: pd.DataFrame) -> Figure:
    """gᵢᵀgⱼ and λ gᵢᵀ(H + λ)⁻¹gⱼ, which is no more, and their difference."""
    titles = (
        r"$g_i^\top g_j$",
        r"$\lambda\, g_i^\top (H+\lambda)^{-1} g_j$",
        "the second − the first",
    )
    return _figure(rows, lambda matrix: matrix, None, titles, "mean product")


def _figure(rows: pd.DataFrame, first: Any, second: Any, titles: Sequence[str], label: str) -> Figure:
    told = [found for found in similarities(rows) if found.solved]
    figure = Figure(figsize=(13.4, 0.5 + 3.35 * max(1, len(told))), layout="constrained")
    if not told:
        figure.text(0.5, 0.5, "no solver gave influences", ha="center")
        return figure
    axes = figure.subplots(len(told), 4, squeeze=False, gridspec_kw={"width_ratios": [1, 1, 1, 1.05]})
    for line, (found, panels) in enumerate(zip(told, axes, strict=True)):
        gradient = first(found.gradient)
        influence = second(found.influence) if second else found.row["damping"] * found.influence
        limit = _largest(gradient, influence)
        for ax, matrix, most in zip(
            panels,
            (gradient, influence, influence - gradient),
            (limit, limit, _largest(influence - gradient)),
            strict=False,
        ):
            image = _heat_map(ax, matrix, most)
            figure.colorbar(image, ax=ax, shrink=0.82, pad=0.02, aspect=24).ax.tick_params(labelsize=7)
        panels[0].set_ylabel(panel_title(found.problem), fontweight="bold", fontsize=9.5)
        _means(panels[3], gradient, influence)
        panels[3].set_xlabel(label)
        if line == 0:
            for ax, title in zip(panels, (*titles, "means ± 2 s.e."), strict=True):
                ax.set_title(title, loc="left")
    panels[3].legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)
    return figure


def _largest(*matrices: Matrix) -> float:
    """The largest magnitude apart from the diagonals."""
    off = ~np.eye(len(matrices[0]), dtype=bool)
    return max(float(np.abs(matrix[off]).max()) for matrix in matrices) or 1.0


def _heat_map(ax: Axes, matrix: Matrix, limit: float) -> AxesImage:
    size, pairs = len(matrix), len(matrix) // 2
    image = ax.imshow(matrix, cmap=_COLOURS, vmin=-limit, vmax=limit, interpolation="nearest")
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for place in (pairs - 0.5,):
        ax.axhline(place, color="0.15", linewidth=1)
        ax.axvline(place, color="0.15", linewidth=1)
    if pairs <= _NUMBERED:
        numbers = [str(1 + place % pairs) for place in range(size)]
        ax.set_xticks(range(size), numbers, fontsize=6)
        ax.set_yticks(range(size), numbers, fontsize=6)
    else:
        ax.set_xticks([])
        ax.set_yticks([])
    ax.tick_params(length=0, pad=1.5)
    ax.set_xlabel("sentences          paraphrases", fontsize=8.5, labelpad=2)
    return image


def _means(ax: Axes, gradient: Matrix, influence: Matrix) -> None:
    for shift, (name, matrix) in zip(
        (-0.13, 0.13), (("gradient", gradient), ("influence", influence)), strict=True
    ):
        values: list[Value] = [jackknife(mean_of(kind), matrix) for kind in _SHOWN]
        ax.errorbar(
            [value.value for value in values],
            np.arange(len(_SHOWN)) + shift,
            xerr=[2 * value.error for value in values],
            linestyle="none",
            capsize=2.5,
            markersize=5.5,
            label=f"by {name}",
            **_LOOKS[name],
        )
    ax.axvline(0, color="0.6", linewidth=0.9, zorder=1)
    ax.set_yticks(range(len(_SHOWN)), [_NAMES[kind] for kind in _SHOWN], fontsize=8)
    ax.set_ylim(len(_SHOWN) - 0.5, -0.5)
    ax.tick_params(axis="x", labelsize=7.5)
