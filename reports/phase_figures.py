"""The figures of a phase page: error over η × b with theory's boundaries, and all problems on one axis."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from reports.figures import legend_columns, panel_title
from reports.panels import Style, apply_scale, scale_for, styles
from reports.paper import plain_label
from reports.rows import in_order

# Errors beyond have one colour: an answer further off than x = 0 is no answer.
_LARGEST_SHOWN = 1.0
_COLOURS = "viridis_r"
_SUFFICIENT: dict[str, Any] = {"color": "black", "linewidth": 2.0}
_BEST: dict[str, Any] = {"color": "black", "linewidth": 1.5, "linestyle": (0, (4, 2))}
_EXACT: dict[str, Any] = {"color": "#d1121f", "linewidth": 2.0}
_MEAN: dict[str, Any] = {"color": "black", "linewidth": 1.5, "linestyle": (0, (1, 1.5))}
_BATCH: dict[str, Any] = {"color": "0.35", "linewidth": 1.5, "linestyle": (0, (6, 1.5, 1, 1.5))}
_ALL: dict[str, Any] = {
    "marker": "x",
    "color": "0.45",
    "markersize": 5,
    "markeredgewidth": 1.1,
    "linestyle": "none",
}
_SOME: dict[str, Any] = {**_ALL, "marker": ".", "color": "#d1121f", "markersize": 7}
# Beyond this many times its floor, or ‖u*‖, a point is off the scale and drawn on the upper edge.
_CEILING = 30.0


def phase_figure(grid: pd.DataFrame) -> Figure:
    """Heat maps of the error, root mean square over seeds, one panel per problem."""
    problems = in_order(grid["problem"])
    # One panel alone needs the room of its legend.
    size = (6.4, 5.6) if len(problems) == 1 else (1.3 + 3.6 * len(problems), 4.9)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(problems), squeeze=False, sharey=True)[0]
    finite = grid["error"][np.isfinite(grid["error"]) & (grid["error"] > 0)]
    low = min(float(finite.min()) if len(finite) else 0.1, _LARGEST_SHOWN / 10)
    norm = LogNorm(low, _LARGEST_SHOWN)
    for ax, problem in zip(axes, problems, strict=True):
        own = grid[grid["problem"] == problem]
        image = _heat_map(ax, own, norm)
        _boundaries(ax, own)
        ax.set_title(panel_title(problem), loc="left")
        ax.set_xlabel("batch size b" + (", tokens" if (own["unit"] == "token").any() else ""))
    axes[0].set_ylabel(r"step size  $\eta\,(\lambda_{\max} + \lambda)$")
    bar = figure.colorbar(image, ax=list(axes), extend="max", pad=0.015, aspect=28)
    bar.set_label(r"relative error  $\|u_T - u^*\|\,/\,\|u^*\|$")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    entries = [
        (_SUFFICIENT, r"$2/L_b$, sufficient"),
        (_BEST, r"$1/L_b$"),
        (_EXACT, r"$\eta^*$, exact for the second moment"),
        (_MEAN, r"$2/(\lambda_{\max} + \lambda)$, the mean's"),
        (_BATCH, r"$b^*$"),
        (_ALL, "all seeds diverged"),
        (_SOME, "some did"),
    ]
    if grid["threshold"].isna().all():
        entries.pop(2)
    columns = len(entries) if len(problems) > 2 else len(problems) + 1
    figure.legend(
        [Line2D([], [], **look) for look, _ in entries], [label for _, label in entries],
        loc="outside lower center", ncols=columns, frameon=False,
        handlelength=2.2, columnspacing=1.4,
    )  # fmt: skip
    return figure


def collapse_figure(grid: pd.DataFrame) -> Figure:
    """Noise over theory's floor against ηL_b/2, and the error at the full step against b/b*."""
    looks = styles(in_order(grid["problem"]))
    figure = Figure(figsize=(10.5, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _collapse(left, grid, looks)
    _full_step(right, grid[np.isclose(grid["step_fraction"], 1)], looks)
    handles = [look.handle() for look in looks.values()]
    for handle in handles:
        handle.set_linestyle("none")
    labels = [plain_label(problem) for problem in looks]
    columns = legend_columns([len(label) for label in labels], 10.5)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _heat_map(ax: Axes, own: pd.DataFrame, norm: LogNorm) -> Any:
    table = own.pivot(index="step_fraction", columns="batch_size", values="error").sort_index()
    table = table.sort_index(axis=1)
    shares = own.pivot(index="step_fraction", columns="batch_size", values="share_diverged").reindex_like(
        table
    )
    sizes, steps = table.columns.to_numpy(float), table.index.to_numpy(float)
    values = np.ma.masked_where(shares.to_numpy() == 1, table.to_numpy(float))
    # Some seeds' divergence makes the root mean square infinite: the darkest colour.
    image = ax.pcolormesh(
        _borders(sizes), _borders(steps), np.ma.clip(values, None, 1e3), norm=norm,
        cmap=matplotlib.colormaps[_COLOURS], edgecolors="white", linewidth=0.4, rasterized=True,
    )  # fmt: skip
    for look, chosen in ((_ALL, shares == 1), (_SOME, (shares > 0) & (shares < 1))):
        rows, columns = np.nonzero(chosen.to_numpy())
        ax.plot(sizes[columns], steps[rows], zorder=4, **look)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(*_borders(sizes)[[0, -1]])
    ax.set_ylim(*_borders(steps)[[0, -1]])
    ax.xaxis.set_major_locator(FixedLocator(list(sizes[:: max(1, round(len(sizes) / 5))])))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    octaves = 2.0 ** np.arange(np.ceil(np.log2(steps[0])), np.floor(np.log2(steps[-1])) + 1)
    ax.yaxis.set_major_locator(FixedLocator(list(octaves)))
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}")
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    ax.grid(visible=False)
    return image


def _boundaries(ax: Axes, own: pd.DataFrame) -> None:
    by_batch = own.drop_duplicates("batch_size").sort_values("batch_size")
    sizes = by_batch["batch_size"].to_numpy()
    unit = (by_batch["step_fraction"] / by_batch["step_size"]).to_numpy()
    limit = by_batch["second_moment"].to_numpy()
    lines = [(2 / limit, _SUFFICIENT), (1 / limit, _BEST), (by_batch["threshold"].to_numpy(), _EXACT)]
    for steps, look in [*lines, (by_batch["mean_limit"].to_numpy(), _MEAN)]:
        if not np.isnan(steps).all():
            ax.plot(sizes, steps * unit, zorder=5, path_effects=_OUTLINE, **look)
    low, high = ax.get_xlim()
    needed = by_batch["sufficient_batch"].iloc[0]
    if low <= needed <= high:
        ax.axvline(needed, zorder=5, path_effects=_OUTLINE, **_BATCH)


def _collapse(ax: Axes, grid: pd.DataFrame, looks: dict[str, Style]) -> None:
    values = grid["noise_over_small_step_floor"]
    values = values[np.isfinite(values) & (values > 0)]
    y_scale = scale_for(np.append(values.to_numpy(), 1.0), ceiling=_CEILING)
    apply_scale(ax, "y", y_scale)
    x_scale = scale_for(grid["half_step"].to_numpy())
    apply_scale(ax, "x", x_scale)
    inside = np.linspace(0, 1, 400)[1:-1]
    inside = np.concatenate([np.geomspace(grid["half_step"].min() / 2, inside[0], 50), inside])
    ax.plot(inside, 1 / np.sqrt(1 - inside), color="black", linewidth=1.6, zorder=4)
    # Outside of the axes it would squeeze them.
    where = min(max(float(inside[30]), x_scale.low * 1.1), 0.9)
    beside = (where, 1 / np.sqrt(1 - where))
    ax.annotate("theory's bound", beside, (0, 7), textcoords="offset points", fontsize=9)
    ax.axvline(1, color="black", linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
    for problem, look in looks.items():
        own = grid[grid["problem"] == problem]
        _points(ax, own["half_step"], own["noise_over_small_step_floor"], y_scale.high, look)
    ax.set_xlabel(r"$\eta L_b / 2$")
    ax.set_ylabel(r"noise  $\|u_T - \mathrm{E}\,u_T\|\;/\;\sqrt{\eta\tilde{\Delta}/2\lambda}$")


def _full_step(ax: Axes, full: pd.DataFrame, looks: dict[str, Style]) -> None:
    if not len(full):
        ax.set_axis_off()
        return
    ratio = full["batch_size"] / full["sufficient_batch"]
    errors = full["error"][np.isfinite(full["error"])]
    y_scale = scale_for(np.append(errors.to_numpy(), 1.0), ceiling=_CEILING)
    apply_scale(ax, "y", y_scale)
    apply_scale(ax, "x", scale_for(np.append(ratio.to_numpy(), 1.0)))
    ax.axvline(1, color="black", linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
    for problem, look in looks.items():
        own = full["problem"] == problem
        _points(ax, ratio[own], full.loc[own, "error"], y_scale.high, look, joined=True)
    ax.set_xlabel(r"$b / b^*$   at  $\eta = 1/(\lambda_{\max} + \lambda)$")
    ax.set_ylabel(r"relative error  $\|u_T - u^*\|\,/\,\|u^*\|$")


def _points(ax: Axes, x: pd.Series, y: pd.Series, high: float, look: Style, joined: bool = False) -> None:
    """Dots; what is off the scale or diverged is a triangle on the upper edge."""
    inside = (y <= high) & (y > 0)
    if joined:
        ax.plot(x[inside], y[inside], color=look.colour, linewidth=1.2, zorder=2)
    ax.plot(x[inside], y[inside], color=look.colour, marker=look.marker, markersize=5.5, linestyle="none",
            markeredgecolor="white", markeredgewidth=0.6, zorder=3)  # fmt: skip
    beyond = y > high
    # Of no points at all an unclipped line takes room at the figure's corner.
    if beyond.any():
        ax.plot(x[beyond], np.full(int(beyond.sum()), high), color=look.colour, marker=6, markersize=6,
                linestyle="none", clip_on=False, zorder=3)  # fmt: skip


def _borders(centres: np.ndarray) -> np.ndarray:
    """Borders between `centres` on a logarithmic axis, one more than there are."""
    logs = np.log(centres)
    if len(logs) == 1:
        return np.exp(np.array([logs[0] - 0.35, logs[0] + 0.35]))
    middles = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - middles[0]], middles, [2 * logs[-1] - middles[-1]]]))


_OUTLINE = [Stroke(linewidth=3.4, foreground="white", alpha=0.75), Normal()]
